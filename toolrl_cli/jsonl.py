"""JSON, JSONL and YAML in and out: `path:line` in every error, files that are whole or absent."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import msgspec

from toolrl_cli.errors import ConfigError, DataError, SetupError, first_line

T = TypeVar("T")
STDIO = Path("-")
GZIP, ZSTANDARD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
"""What such files begin with."""
UNPACKERS = {GZIP: ("gzip", "zcat"), ZSTANDARD: ("Zstandard", "zstdcat")}
"""Kinds of compression, and the program that writes what is compressed to standard output."""
NOT_JSON = "not JSON; each line must hold one JSON value"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a JSONL file, numbered from 1: its decoded value, or the reason it has none, and its bytes."""

    number: int
    value: Any = None
    error: str | None = None
    raw: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str | None:
        """The line as it stands in the file; bytes that are no UTF-8 are written as escapes."""
        return None if self.raw is None else self.raw.decode(errors="backslashreplace")


FAST_DECODE = msgspec.json.Decoder().decode
FAST_ENCODE = msgspec.json.Encoder().encode


def load_json(text: str | bytes) -> Any:
    """Decode JSON as Python does; a `ValueError` that is no `JSONDecodeError` says what Python cannot decode.

    What msgspec accepts it decodes as Python would, several times faster; Python judges the rest (NaN, `1e999`,
    lone surrogates, errors).
    """
    try:
        return FAST_DECODE(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return load_json_slowly(text)


def load_json_slowly(text: str | bytes) -> Any:
    """`load_json` by Python's own decoder."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"a number has over {sys.get_int_max_str_digits()} digits") from error


def repeated_key(text: str | bytes, value: object) -> str | None:
    """A key that an object in JSON text holds twice, of which `value`, the text decoded, has the last; None for none.

    Only a text with more colons than its value, written again, is looked through: strings have as many in both.
    """
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    try:
        if raw.count(b":") <= FAST_ENCODE(value).count(b":"):
            return None
    except (msgspec.MsgspecError, OverflowError, UnicodeError, RecursionError):
        pass
    found: list[str] = []

    def note_repeated(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(name for name, _ in pairs)
        found.extend(name for name, count in counts.items() if count > 1)

    with suppress(RecursionError, ValueError):
        json.loads(text, object_pairs_hook=note_repeated)
    return found[0] if found else None


def explain_json_error(error: BaseException | None) -> str:
    """Why a line cannot be decoded, from the error that `load_json` raised; None stands for a value that is no JSON."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return NOT_JSON if error is None or isinstance(error, json.JSONDecodeError) else str(error)


def dump_json(value: object, indent: int | None = None) -> str:
    """JSON, one line unless indented; text stays readable unless it cannot be UTF-8 (lone surrogates)."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested objects as one level with dotted names."""
    flat: dict[str, object] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            flat |= flatten(item, name + ".")
        else:
            flat[name] = item
    return flat


def read_lines(path: Path, content: bytes | None = None) -> Iterator[Line]:
    """Every line of a JSONL file (standard input for `-`) that is not blank; `content` is what was read of it already.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    import jsonlines

    number = 0
    with open_text(path, content) as stream:
        try:
            for number, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                try:
                    yield Line(number, jsonlines.Reader([text], loads=load_json).read())
                except jsonlines.InvalidLineError as error:
                    yield Line(number, error=explain_json_error(error.__cause__))
        except UnicodeDecodeError as error:  # of a block that begins where the last line ended, or within the next
            number += 1 + error.object.count(b"\n", 0, error.start)
            raise DataError(f"{path}:{number}: not UTF-8 text") from error


def read_records(path: Path, parse: Callable[[object], T], content: bytes | None = None) -> Iterator[T]:
    """Parse every line of a JSONL file, or of standard input for `-`; `content` is what was read of it already.

    Raises:
        DataError: the file is missing, a line is no JSON, or `parse` refuses it (`path:line: why`).
    """
    for line in read_lines(path, content):
        if line.error:
            raise DataError(f"{path}:{line.number}: {line.error}")
        try:
            yield parse(line.value)
        except DataError as error:
            raise DataError(f"{path}:{line.number}: {error}") from error


def read_json(path: Path) -> Any:
    """The one JSON value of a file, or of standard input for `-`.

    Raises:
        DataError: the file is missing, unreadable or no JSON.
    """
    with open_text(path) as stream:
        text = stream.read()
    try:
        return load_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: it is no YAML or no mapping, or a name stands in a mapping twice.
        DataError: the file is missing or unreadable.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML that refuses a second value of a name, where PyYAML would take the last one."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for at, name in enumerate(names):
                if name in names[:at] and name != "<<":
                    mark = node.value[at][0].start_mark
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", mark)
            return super().construct_mapping(node, deep)

    try:
        with open_text(path) as stream:
            values = yaml.load(stream, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"{where}: not YAML ({getattr(error, 'problem', None) or first_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of names to values")
    return values


def write_records(path: Path, records: Iterable[object]) -> int:
    """Write records as JSONL, to standard output for `-`; a file appears only when it is whole.

    Returns: the number of records.

    Raises:
        SetupError: the folder cannot be written.
    """
    count = 0
    with open_atomic(path) as stream:
        for record in records:
            stream.write(dump_json(record) + "\n")
            count += 1
    return count


def write_json(path: Path, value: object) -> None:
    """Write one indented JSON value; the file appears only when it is whole."""
    with open_atomic(path) as stream:
        stream.write(dump_json(value, indent=2) + "\n")


class RecordLog:
    """An append-only JSONL file: each record survives the process once `append` returns.

    A line that a killed process left half-written is cut off on opening.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        drop_partial_line(path)
        self._stream = path.open("a", encoding="utf-8")

    def append(self, record: object) -> None:
        """Add one line and hand it to the operating system."""
        self._stream.write(dump_json(record) + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()


def drop_partial_line(path: Path) -> None:
    """Cut the file back to its last complete line; a missing file is left missing."""
    with suppress(FileNotFoundError), path.open("rb+") as stream:
        content = stream.read()
        whole = whole_lines(content)
        stream.truncate(min(len(whole), len(content)))
        stream.seek(0, os.SEEK_END)
        stream.write(whole[len(content) :])


def read_whole_lines(path: Path) -> bytes:
    """What a file holds but for a last line that was cut off.

    Raises:
        DataError: it cannot be read.
    """
    with open_bytes(path) as stream:
        return whole_lines(stream.read())


def whole_lines(content: bytes) -> bytes:
    """Lines without what follows the last end of a line, unless that is JSON: then only its end is missing."""
    lines, end, rest = content.rpartition(b"\n")
    with suppress(ValueError):
        load_json(rest)
        return content + b"\n"
    return lines + end


def make_folder(path: Path, output: Path | None = None) -> None:
    """Create a folder with its parents; an error names `output`, the file it is for, when there is one.

    Raises:
        SetupError: the place cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        blocked = isinstance(error, FileExistsError | NotADirectoryError)
        file = next((place for place in (path, *path.parents) if blocked and place.is_file()), None)
        what = f"{output}: cannot create its folder" if output else f"{path}: cannot create this folder"
        why = f"{file} is a file" if file else error.strerror
        raise SetupError(f"{what} ({why}); choose another output") from error


def is_stream(path: Path) -> bool:
    """Whether writing to a path replaces nothing: standard output, a device such as `/dev/null`, a pipe."""
    return path == STDIO or path.is_char_device() or path.is_fifo()


@contextmanager
def open_text(path: Path, content: bytes | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 text file for reading, or standard input for `-`, or what was read of it already.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    with read_errors(path), open_bytes(path, content) as stream:
        refuse_binary(path, stream.peek(4))
        yield io.TextIOWrapper(stream, encoding="utf-8-sig")


def refuse_binary(path: Path, head: bytes) -> None:
    """Raise `DataError` for the beginning of a file that is compressed, or Parquet."""
    for start, (kind, program) in UNPACKERS.items():
        if head.startswith(start):
            raise DataError(f"{path}: is compressed ({kind}); uncompress it first, with {program}")
    if head.startswith(PARQUET):
        raise DataError(f"{path}: is a Parquet file; it must be text, one JSON value a line")


def read_bytes(path: Path) -> bytes:
    """All of a file, or of standard input for `-`; raise `DataError` when it is missing or unreadable."""
    with read_errors(path), open_bytes(path) as stream:
        return stream.read()


def open_bytes(path: Path, content: bytes | None = None) -> io.BufferedReader:
    """Open a file for reading, or standard input for `-`, or what was read of it already."""
    if content is not None:
        return io.BufferedReader(io.BytesIO(content))
    return open(0 if path == STDIO else path, "rb", closefd=path != STDIO)


Piece = bytes | tuple[int, int]
"""Whole lines of a file: the bytes themselves, or where they start and end in it."""


def cut_lines(path: Path, size: int) -> Iterator[Piece]:
    """A file, or standard input for `-`, in pieces of whole lines, each of about `size` bytes.

    A file that can be read at any place is cut by position, so that other processes can read the
    pieces for themselves.

    Raises:
        DataError: the file is missing or unreadable.
    """
    with read_errors(path), open_bytes(path) as stream:
        yield from cut_by_position(stream, path.stat().st_size, size) if path.is_file() else cut_stream(stream, size)


def cut_by_position(stream: IO[bytes], end: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the pieces of a file of `end` bytes start and end."""
    start = 0
    while start < end:
        stream.seek(start + size)
        stream.readline()
        stop = min(stream.tell(), end)
        yield start, stop
        start = stop


def cut_stream(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """The pieces of a stream, as soon as they are there."""
    read = getattr(stream, "read1", stream.read)
    parts: list[bytes] = []
    while block := read(size):
        end = block.rfind(b"\n") + 1
        parts.append(block[:end] if end else block)
        if end:
            yield b"".join(parts)
            parts = [block[end:]]
    if rest := b"".join(parts):
        yield rest


def read_piece(path: Path, piece: Piece) -> bytes:
    """The bytes of a piece; raise `DataError` when the file cannot be read any more."""
    if isinstance(piece, bytes):
        return piece
    with read_errors(path), path.open("rb") as stream:
        stream.seek(piece[0])
        return stream.read(piece[1] - piece[0])


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn failures to read a file into `DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {(error.strerror or 'unreadable').lower()}") from error


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces `path` only when the block ends well; a stream is written as it goes.

    Bytes go to its `buffer`.

    Raises:
        SetupError: the folder cannot be written, or something else than a file is in the way.
    """
    if is_stream(path):
        with open(1 if path == STDIO else path, "w", encoding="utf-8", closefd=path != STDIO) as stream:
            yield stream
        return
    import tempfile

    if path.exists() and not path.is_file():
        raise SetupError(f"{path}: not a file; choose another output")
    make_folder(path.parent, path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise SetupError(f"{path}: cannot write here ({error.strerror}); choose another output") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(permissions(path))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def permissions(path: Path) -> int:
    """The permission bits of a file; if it does not exist yet, those the umask leaves a new one."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return 0o666 & ~mask
