"""Output folders: what made them (`manifest.json`), and the rule that nothing is overwritten unasked."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from toolrl_cli import __version__
from toolrl_cli.errors import ConfigError, DataError, UsageError
from toolrl_cli.jsonl import dump_json, flatten, load_json, make_folder, read_json, write_json
from toolrl_cli.records import Json

FILE_NAME = "manifest.json"
HASHED = {"data": "data", "by": "order", "tools": "tools", "template": "format", "model": "base", "base_model": "base"}
"""What a configuration names by path or Hub id, and the hash of its content: where that agrees, the name may differ."""
RECORDED_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


@dataclass(frozen=True)
class Manifest:
    """What made an output folder.

    `hashes` holds the SHA-256 of each input by its name (data, reward, format); `finished` turns
    true when the command has done all its work, so that `--resume` knows what is left.
    """

    command: str
    config: Json
    seed: int
    format: str
    hashes: dict[str, str]
    parent: str | None = None
    finished: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    rescored: Json | None = None
    """What graded an evaluation anew in place of what made it: versions, git commit, hashes; notes on what changed."""
    endpoints: list[str] | None = None
    """The servers that an evaluation asked, in the order in which it began to; `parent` is the first."""

    @classmethod
    def create(cls, command: str, config: Json, **known: Any) -> Manifest:
        """A manifest of this environment: installed versions and git commit are filled in."""
        return cls(command, config, **known, versions=installed_versions(), git_commit=git_commit())

    @property
    def hashes_now(self) -> dict[str, str]:
        """The hashes of what the output is due to by now: where it was graded anew, of what did that."""
        return {**self.hashes, **(self.rescored or {}).get("hashes", {})}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically, with `rescored` and `endpoints` only where there are any."""
        optional = ("rescored", "endpoints")
        write_json(folder / FILE_NAME, {k: v for k, v in asdict(self).items() if v is not None or k not in optional})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an output folder.

    Raises:
        DataError: there is none, or it is no manifest.
    """
    raw = read_json(folder / FILE_NAME)
    try:
        return Manifest(**raw)
    except TypeError as error:
        raise DataError(f"{folder / FILE_NAME}: not a toolrl manifest ({error})") from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder as the only process that writes to it; however the process ends, it lets go of it.

    File systems without locks, and Windows, hold nothing.

    Raises:
        ConfigError: another process holds it.
    """
    with ExitStack() as closing:
        try:
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            closing.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another process is writing to it; wait for it, or end it") from error
        except (ImportError, OSError):
            pass
        yield


def open_output(folder: Path, manifest: Manifest, *, resume: bool | None = None, overwrite: bool = False) -> bool:
    """Make an output folder ready and write its manifest; return whether its work is already finished.

    Raises:
        ConfigError: as `check_output`.
        SetupError: the folder cannot be written.
    """
    if check_output(folder, manifest, resume=resume, overwrite=overwrite):
        return True
    if overwrite and not resume and folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)
    manifest.write(folder)
    return False


def refuse_output_over_inputs(output: Path, inputs: Iterable[Path | None]) -> None:
    """Raise `UsageError` for an output folder that is an input or holds one, which overwriting would delete."""
    folder = output.resolve()
    for given in inputs:
        if given and given.exists() and folder in (given.resolve(), *given.resolve().parents):
            raise UsageError(f"{output}: the output folder holds the input {given}; choose another output")


def check_output(folder: Path, manifest: Manifest, *, resume: bool | None = None, overwrite: bool = False) -> bool:
    """Whether the work of an output folder is already finished; touches nothing.

    A folder with content is refused unless it is resumed (then its manifest must agree with the
    new one in command, configuration, seed, format and hashes) or overwritten (only if it is a
    toolrl output). `resume` is None for a command that cannot resume.

    Raises:
        ConfigError: the folder is not empty, what is resumed was made with another configuration, another process
            writes to it, or it is a link that would be overwritten.
        DataError: its `manifest.json` is not ours.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; choose a folder")
    if overwrite and not resume and folder.is_symlink() and folder.is_dir():
        raise ConfigError(f"{folder}: is a link, and --overwrite replaces folders; give its folder {folder.resolve()}")
    if not folder.is_dir() or not any(content_of(folder)):
        return False
    if not (folder / FILE_NAME).exists():
        raise ConfigError(f"{folder}: not empty and not a toolrl output; choose another folder")
    earlier = read_manifest(folder)
    if resume:
        refuse_difference(folder, earlier, manifest)
    elif not overwrite:
        remedies = "--overwrite" if resume is None else "--resume to continue it or --overwrite"
        raise ConfigError(f"{folder}: not empty; add {remedies} to replace it")
    with sole_writer(folder):
        return bool(resume) and earlier.finished


def content_of(folder: Path) -> Iterator[Path]:
    """What a folder holds, but not the beginning of a manifest whose writer was killed."""
    return (path for path in folder.iterdir() if not path.name.startswith(f".{FILE_NAME}."))


def refuse_difference(folder: Path, earlier: Manifest, now: Manifest) -> None:
    """Raise `ConfigError` that names the first thing in which a resumed run would differ from what is there."""
    before, after = (flatten(load_json(dump_json(asdict(m) | {"hashes": m.hashes_now}))) for m in (earlier, now))
    for name in sorted(before.keys() | after.keys()):
        decisive = name.split(".")[0] in ("command", "config", "seed", "format", "hashes")
        if not decisive or before.get(name) == after.get(name) or same_content(name, before, now=after):
            continue
        if name in ("hashes.base", "hashes.adapter"):
            raise ConfigError(
                f"{folder}: cannot resume: the {name.removeprefix('hashes.')} weights of the model are not those that "
                f"the run began with ({before.get(name)!r} before, {after.get(name)!r} now); "
                "put the former ones back, or start again with --overwrite"
            )
        raise ConfigError(
            f"{folder}: cannot resume with another {name} ({before.get(name)!r} before, {after.get(name)!r} now); "
            "use the same options, or --overwrite"
        )


def same_content(name: str, before: Json, now: Json) -> bool:
    """Whether a value of a flattened manifest stands for what has the same hash in both."""
    content = f"hashes.{HASHED.get(name.removeprefix('config.'))}"
    return content in before and before[content] == now.get(content)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, first 16 hexadecimal digits.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def hash_samples(paths: list[Path], count: int = 256, size: int = 1 << 16) -> str:
    """SHA-256, first 16 hexadecimal digits, of each file's name and size and `count` samples spread evenly over it.

    A file of up to `count * size` bytes (16 MiB) is read whole.
    """
    digest = hashlib.sha256()
    for path in paths:
        length = path.stat().st_size
        digest.update(f"{path.name} {length}\n".encode())
        with path.open("rb") as stream:
            for start in range(0, length, max(size, length // count)):
                stream.seek(start)
                digest.update(stream.read(size))
    return digest.hexdigest()[:16]


def installed_versions() -> dict[str, str]:
    """Versions of toolrl, Python and the training packages that are installed."""
    versions = {"toolrl": __version__, "python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the working folder, None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
