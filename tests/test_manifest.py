"""Output folders: what made them, and what may be written into them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli import __version__
from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.manifest import (
    Manifest,
    check_output,
    git_commit,
    hash_file,
    installed_versions,
    open_output,
    read_manifest,
)

MANIFEST = Manifest(
    command="sft",
    config={"model": "m", "learning_rate": 1e-4, "overrides": {"warmup_steps": 3}},
    seed=7,
    format="toolrl",
    hashes={"data": "00ff"},
    parent="base",
    versions={"toolrl": "0.1.0"},
    git_commit="abc",
)


def refused(folder: Path, manifest: Manifest = MANIFEST, /, **options: bool) -> str:
    """The error of both functions; neither may touch the folder."""
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    messages = []
    for function in (check_output, open_output):
        with pytest.raises((ConfigError, DataError)) as error:
            function(folder, manifest, **options)
        messages.append(str(error.value))
    assert sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()) == before
    assert messages[0] == messages[1]
    return messages[0]


def test_a_manifest_is_written_and_read_whole(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8")) == {
        "command": "sft",
        "config": {"model": "m", "learning_rate": 1e-4, "overrides": {"warmup_steps": 3}},
        "seed": 7,
        "format": "toolrl",
        "hashes": {"data": "00ff"},
        "parent": "base",
        "finished": False,
        "versions": {"toolrl": "0.1.0"},
        "git_commit": "abc",
    }
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("content", ["{}", "[]", '"x"', '{"name": "a web app", "icons": []}'])
def test_what_is_no_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: not a toolrl manifest"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path)
    assert str(error.value) == f"{tmp_path / 'manifest.json'}: no such file"


class TestNewOutput:
    @pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
    def test_a_missing_or_empty_folder_is_opened(self, tmp_path: Path, options: dict[str, bool]) -> None:
        (tmp_path / "empty").mkdir()
        for folder in (tmp_path / "empty", tmp_path / "new" / "deep"):
            assert check_output(folder, MANIFEST, **options) is False
            assert not (folder / "manifest.json").exists()
            assert open_output(folder, MANIFEST, **options) is False
            assert read_manifest(folder) == MANIFEST

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("precious", "utf-8")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            assert refused(file, **options) == f"{file}: is a file; choose a folder"
        with pytest.raises(SetupError) as error:
            open_output(file / "run", MANIFEST)
        assert (
            str(error.value) == f"{file / 'run'}: cannot create this folder ({file} is a file); choose another output"
        )
        assert file.read_text("utf-8") == "precious"

    @pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
    def test_a_foreign_folder_is_never_touched(self, tmp_path: Path, options: dict[str, bool]) -> None:
        (tmp_path / "thesis.tex").write_text("precious", "utf-8")
        assert refused(tmp_path, **options) == f"{tmp_path}: not empty and not a toolrl output; choose another folder"

    @pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
    def test_a_foreign_manifest_makes_no_output_of_ours(self, tmp_path: Path, options: dict[str, bool]) -> None:
        (tmp_path / "manifest.json").write_text('{"name": "a web app"}', "utf-8")
        assert "not a toolrl manifest" in refused(tmp_path, **options)


class TestExistingOutput:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        open_output(tmp_path / "run", MANIFEST)
        (tmp_path / "run" / "metrics.jsonl").write_text("{}\n", "utf-8")
        return tmp_path / "run"

    def test_it_is_refused_unasked(self, run: Path) -> None:
        taken = f"{run}: not empty; add --resume to continue it or --overwrite to replace it"
        assert refused(run, resume=False) == taken

    def test_a_command_that_cannot_resume_does_not_advise_it(self, run: Path) -> None:
        assert refused(run) == f"{run}: not empty; add --overwrite to replace it"

    def test_overwriting_removes_what_was_there(self, run: Path) -> None:
        other = replace(MANIFEST, seed=8)
        assert check_output(run, other, overwrite=True) is False
        assert (run / "metrics.jsonl").exists()
        assert open_output(run, other, overwrite=True) is False
        assert [path.name for path in run.iterdir()] == ["manifest.json"]
        assert read_manifest(run) == other

    def test_resuming_keeps_what_was_there(self, run: Path) -> None:
        newer = replace(MANIFEST, versions={"toolrl": "0.2.0"}, git_commit=None, parent=None)  # these decide nothing
        for options in ({"resume": True}, {"resume": True, "overwrite": True}):
            assert open_output(run, newer, **options) is False
            assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "metrics.jsonl"]
        assert read_manifest(run) == newer

    def test_resuming_finished_work(self, run: Path) -> None:
        finished = replace(MANIFEST, finished=True)
        finished.write(run)
        assert check_output(run, MANIFEST, resume=True) is True
        assert open_output(run, MANIFEST, resume=True) is True
        assert read_manifest(run) == finished
        assert open_output(run, MANIFEST, overwrite=True) is False
        assert read_manifest(run).finished is False

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"command": "grpo"}, "command ('sft' before, 'grpo' now)"),
            ({"seed": 8}, "seed (7 before, 8 now)"),
            ({"format": "hermes"}, "format ('toolrl' before, 'hermes' now)"),
            ({"hashes": {"data": "1234"}}, "hashes.data ('00ff' before, '1234' now)"),
            ({"hashes": {"data": "00ff", "reward": "1"}}, "hashes.reward (None before, '1' now)"),
            ({"config": MANIFEST.config | {"learning_rate": 1e-5}}, "config.learning_rate (0.0001 before, 1e-05 now)"),
            (
                {"config": MANIFEST.config | {"overrides": {"warmup_steps": 4}}},
                "config.overrides.warmup_steps (3 before, 4 now)",
            ),
            ({"config": {"model": "m", "learning_rate": 1e-4}}, "config.overrides.warmup_steps (3 before, None now)"),
        ],
    )
    def test_resuming_with_something_else_is_refused(self, run: Path, change: dict[str, Any], told: str) -> None:
        message = f"{run}: cannot resume with another {told}; use the same options, or --overwrite"
        assert refused(run, replace(MANIFEST, **change), resume=True) == message

    def test_a_configuration_is_compared_as_json_holds_it(self, tmp_path: Path) -> None:
        manifest = replace(MANIFEST, config={"categories": ("a", "b"), "by_step": {1: 0.5}})
        open_output(tmp_path / "run", manifest)
        assert open_output(tmp_path / "run", manifest, resume=True) is False


def test_hash_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()[:16] == "ed7002b439e9ac84"
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError) as error:
            hash_file(path)
        assert str(error.value) == f"{path}: {why}"


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_commit() is None  # nothing is committed yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = git_commit()
    assert commit is not None
    assert (len(commit), set(commit) <= set("0123456789abcdef")) == (40, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None  # git is not installed


def test_create_records_the_environment() -> None:
    manifest = Manifest.create("eval", {"bench": "bfcl"}, seed=1, format="toolrl", hashes={})
    assert manifest == Manifest(
        "eval", {"bench": "bfcl"}, 1, "toolrl", {}, versions=installed_versions(), git_commit=git_commit()
    )
    assert manifest.versions["toolrl"] == __version__
    assert list(manifest.versions)[:2] == ["toolrl", "python"]
