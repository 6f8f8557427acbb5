"""Files of rows, whatever holds them: JSON, JSONL, Parquet, CSV, compressed or not, standard input, the Hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from toolrl_cli.errors import DataError, SetupError, first_line
from toolrl_cli.jsonl import (
    GZIP,
    PARQUET,
    STDIO,
    ZSTANDARD,
    Line,
    explain_json_error,
    load_json,
    read_errors,
    repeated_key,
)

CHUNK_BYTES = 1 << 20
CHUNK_ROWS = 500
COMPRESSED = (".gz", ".zst")
SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
SPACE = re.compile(r"\s*")
HUB = "hf:/"
"""What is left of `hf://` in a path."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a file in their order: whole lines of JSONL, or decoded rows, a `Line` where one was refused.

    `first` is the number of the first one, `size` how many bytes of the file they took.
    """

    first: int
    rows: bytes | list[Any]
    size: int = 0

    def lines(self) -> Iterator[Line]:
        """The rows with their numbers; blank lines count and are left out."""
        if isinstance(self.rows, list):
            numbered = enumerate(self.rows, self.first)
            yield from (row if isinstance(row, Line) else Line(number, row) for number, row in numbered)
            return
        for number, text in enumerate(self.rows.split(b"\n"), self.first):
            if text.strip():
                yield decode_line(number, text)


def decode_line(number: int, text: bytes) -> Line:
    """A line of JSONL, or why it cannot be read."""
    if number == 1:
        text = text.removeprefix(BOM_UTF8)
    try:
        return checked_line(number, text, load_json(text))
    except ValueError as error:
        return Line(number, error=explain_json_error(error), raw=text)


def checked_line(number: int, text: bytes, value: Any) -> Line:
    """A decoded row, refused where decoding lost a value of an object that holds a key twice."""
    if (key := repeated_key(text, value)) is not None:
        return Line(number, error=f"a key twice; {key!r}", raw=text)
    return Line(number, value, raw=text)


def find_files(paths: Iterable[Path], leave_out: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """The files to read; a folder stands for all data files in it and below that are not empty or hidden, by name.

    Files of a folder for which `leave_out` is true are no data.

    Raises:
        DataError: a folder holds none.
    """
    for path in paths:
        if is_hub(path) or not path.is_dir():
            yield path
            continue
        files = [file for file in list_data(path) if file.stat().st_size > 0 and not leave_out(file)]
        if not files:
            raise DataError(f"{path}: no data files in this folder ({', '.join(SUFFIXES)})")
        yield from files


def list_data(folder: Path) -> list[Path]:
    """The files in a folder and below that are data by their names, empty ones too, but for hidden ones."""
    found = (file for file in folder.rglob("*") if data_suffix(file) in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in found if file.is_file())


def data_suffix(path: Path) -> str:
    """The suffix that tells how rows are held, without that of the compression."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def data_stem(path: Path) -> str:
    """The name of a file, or of a data set, without its suffixes."""
    if path == STDIO:
        return "stdin"
    stem = Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem
    return path.name.replace(":", "-") if is_hub(path) else stem


def is_hub(path: Path) -> bool:
    """Whether a path is the id of a data set on the Hub."""
    return str(path).startswith(HUB)


def read_chunks(path: Path, split: str = "train") -> Iterator[Chunk]:
    """The rows of a file, of standard input for `-`, or of a split of a data set for `hf://id` or `hf://id:config`.

    Memory is constant for every kind of file.

    Raises:
        DataError: the file is missing, unreadable or cut off, or the data set has no such split.
        SetupError: a library that the kind of file needs is missing, or the Hub cannot be reached.
    """
    if is_hub(path):
        yield from number_rows(read_hub(path, split))
        return
    with open_bytes(path) as (stream, position):
        head = peek(stream)
        suffix = data_suffix(path)
        if head.startswith(PARQUET) or suffix == ".parquet":
            yield from read_parquet(path)
        elif suffix == ".csv":
            text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            yield from number_rows(read_csv(text, path), position)
        elif head.removeprefix(BOM_UTF8).lstrip().startswith(b"[") and suffix != ".jsonl":
            text = io.TextIOWrapper(stream, "utf-8-sig")  # closes the stream when it goes
            yield from number_rows(read_array(text, path), position)
        elif suffix == ".json" and (row := lone_object(path, head)) is not None:
            yield Chunk(1, [row], path.stat().st_size)
        else:
            yield from read_jsonl(stream, position)


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[io.BufferedReader, Position]]:
    """A file, uncompressed, or standard input for `-`, with a function that tells how far it is read."""
    with read_errors(path), open(0 if path == STDIO else path, "rb", closefd=path != STDIO) as raw:
        try:
            yield io.BufferedReader(uncompress(raw)), Position(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: its compressed data is cut off or damaged ({error})") from error
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error


class Position:
    """How many bytes of a file were read since last asked."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._before = raw, 0

    def advance(self) -> int:
        """Bytes since the last call; 0 for a stream that cannot tell."""
        now = self._raw.tell() if self._raw.seekable() else 0
        self._before, since = now, now - self._before
        return since


def peek(stream: io.BufferedReader) -> bytes:
    """The first bytes, not consumed."""
    return stream.peek(64)


def uncompress(raw: io.BufferedReader) -> Any:
    """The content of a stream, by what its first bytes say."""
    head = raw.peek(4)
    if head.startswith(GZIP):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(ZSTANDARD):
        return open_zstandard(raw)
    return raw


def open_zstandard(raw: IO[bytes]) -> Any:
    """A Zstandard stream; its errors are `ValueError`s."""
    try:
        from backports import zstd
    except ImportError as error:
        raise missing_library("Zstandard", "backports.zstd") from error

    class ZstandardFile(zstd.ZstdFile):
        def readinto(self, buffer: Any) -> int:
            try:
                return int(super().readinto(buffer))
            except zstd.ZstdError as error:
                raise ValueError(f"its compressed data is damaged ({error})") from error

    return ZstandardFile(raw)


def missing_library(what: str, name: str) -> SetupError:
    """The error for a kind of file whose library is not installed."""
    return SetupError(f"reading {what} needs {name}; run: python -m pip install 'toolrl[data]'")


def read_jsonl(stream: IO[bytes], position: Position) -> Iterator[Chunk]:
    """Whole lines, about `CHUNK_BYTES` at a time."""
    number, rest = 1, b""
    while block := stream.read(CHUNK_BYTES):
        lines, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield Chunk(number, lines, position.advance())
            number += lines.count(b"\n") + 1
    if rest:
        yield Chunk(number, rest, position.advance())


def number_rows(rows: Iterable[Any], position: Position | None = None) -> Iterator[Chunk]:
    """Decoded rows in chunks."""
    rows, number = iter(rows), 1
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield Chunk(number, chunk, position.advance() if position else 0)
        number += len(chunk)


def read_array(stream: IO[str], path: Path) -> Iterator[Any]:
    """The elements of a JSON array, of which only the one at hand is held.

    Raises:
        DataError: the array is malformed, cut off or followed by something; the elements before were given.
    """
    decoder, text, number, comma = json.JSONDecoder(), stream.read(CHUNK_BYTES), 0, True
    start = text.index("[") + 1
    while True:
        start = SPACE.match(text, start).end()  # type: ignore[union-attr]
        mark = text[start : start + 1]
        if mark == "]" and (number == 0 or not comma):
            return require_end(text[start + 1 :], stream, path, number)
        if mark and comma != (mark not in ",]"):
            due = "an element" if comma else "a comma"
            raise DataError(f"{path}: {mark!r} in place of {due} behind {number} elements of its array")
        if mark == ",":
            start, comma = start + 1, True
            continue
        try:
            value, end = decoder.raw_decode(text, start)
            whole = end < len(text)  # else a number may go on
        except (ValueError, RecursionError) as error:
            if not may_go_on(error, len(text)):
                raise DataError(f"{path}: element {number + 1} of its array cannot be read ({error})") from error
            whole = False
        if whole:
            number += 1
            line = checked_line(number, text[start:end].encode(errors="surrogatepass"), value)
            start, comma = end, False
            yield line if line.error else value
            continue
        more = stream.read(max(CHUNK_BYTES, len(text) - start))
        if not more:
            raise DataError(f"{path}: not a JSON array (cut off after {number} elements)")
        text, start = text[start:] + more, 0


def require_end(rest: str, stream: IO[str], path: Path, number: int) -> None:
    """Raise `DataError` when anything but space follows an array."""
    for block in chain([rest], iter(lambda: stream.read(CHUNK_BYTES), "")):
        if found := block.strip():
            raise DataError(
                f"{path}: {found[:20]!r} follows its array of {number} elements; give each array as a file of its own"
            )


def may_go_on(error: Exception, length: int) -> bool:
    """Whether a text of that length failed to decode only because it ends too early."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


def lone_object(path: Path, head: bytes) -> Any:
    """The object that a `.json` file holds over several lines; None for a file of lines."""
    if not head.removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
        return None
    with open_bytes(path) as (stream, _):
        first = stream.readline()
        with suppress(ValueError):
            load_json(first)
            return None
        with suppress(ValueError):
            return load_json(first + stream.read())
    return None


def read_csv(stream: IO[str], path: Path) -> Iterator[Any]:
    """The records of a CSV file with a header, every value as text."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(stream)
    try:
        names = reader.fieldnames or []
        if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
            raise DataError(f"{path}:1: its header names {repeated[0]!r} twice; rename one of the columns")
        for record in reader:
            if None in record or None in record.values():
                raise DataError(f"{path}:{reader.line_num}: a record has another number of fields than the header")
            yield record
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def read_parquet(path: Path) -> Iterator[Chunk]:
    """The rows of a Parquet file."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise missing_library("Parquet", "pyarrow") from error
    if path == STDIO:
        raise DataError("-: Parquet cannot be read from standard input; give the file")
    number = 1
    try:
        with ParquetFile(path) as file:
            row_size = path.stat().st_size / max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(CHUNK_ROWS):
                rows = [plain(row) for row in batch.to_pylist()]
                yield Chunk(number, rows, round(row_size * len(rows)))
                number += len(rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    except (OverflowError, ValueError) as error:  # of a time that Python has not
        raise DataError(f"{path}: a value of rows {number} and on cannot be read ({first_line(error)})") from error


def plain(value: Any) -> Any:
    """A value of a table as JSON has it: a time, a decimal or bytes as text."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def read_hub(path: Path, split: str) -> Iterator[Any]:
    """The rows of a data set on the Hub, streamed."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_library("data sets of the Hub", "datasets") from error
    name, _, config = str(path).removeprefix(HUB).partition(":")
    try:
        yield from map(plain, load_dataset(name, config or None, split=split, streaming=True))
    except ValueError as error:  # an unknown split or config
        raise DataError(f"hf://{name}: {first_line(error)}") from error
    except Exception as error:  # whatever the libraries below raise when the Hub does not answer
        raise SetupError(f"hf://{name}: cannot be read ({first_line(error)})") from error
