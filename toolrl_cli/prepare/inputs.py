"""The files to read, each with its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.jsonl import STDIO, Line
from toolrl_cli.prepare.config import PrepareConfig
from toolrl_cli.prepare.converting import Input, Piece, not_object
from toolrl_cli.reading import Chunk, data_stem, find_files, is_hub, list_data, read_chunks
from toolrl_cli.records import Json
from toolrl_cli.sources.base import Source
from toolrl_cli.sources.registry import CATALOGUES, detect_source, find_source

DETECTION_ROWS = 20
DETECTION_LINES = 1000
REJECT_FIELDS = {"path", "line", "source", "reason", "row"}


@dataclass(frozen=True, slots=True)
class OpenInput:
    """An input with its rows; what cannot be read twice is read from where detection began."""

    item: Input
    chunks: Iterable[Chunk] | None
    split: str

    def pieces(self) -> Iterator[Chunk]:
        """Its rows; a file that is one row comes as one."""
        chunks = self.chunks if self.chunks is not None else read_chunks(self.item.path, self.split)
        return iter([gather(chunks)]) if self.item.source.whole_file else iter(chunks)


def open_inputs(config: PrepareConfig) -> list[OpenInput]:
    """The inputs with their sources, so that a file at fault shows before any work is done.

    Raises:
        DataError: a file is missing, empty, or its source cannot be told.
        ConfigError: the forced source is unknown.
    """
    forced = find_source(config.source) if config.source else None
    inputs: list[OpenInput] = []
    taken: set[str] = set()
    own = {path.resolve() for path in config.outputs}
    tell_empty(config.inputs)
    for path in find_files(config.inputs, lambda file: file.name in CATALOGUES or file.resolve() in own):
        inputs.append(open_input(path, forced, config, taken))
        taken.add(inputs[-1].item.label)
    return inputs


def tell_empty(inputs: Iterable[Path]) -> None:
    """Tell of the files in a folder that are left out because they are empty."""
    for folder in (path for path in inputs if not is_hub(path) and path.is_dir()):
        empty = [file for file in list_data(folder) if file.stat().st_size == 0]
        if empty:
            others = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
            log(f"{empty[0]}: empty, left out{others}")


def open_input(path: Path, forced: Source | None, config: PrepareConfig, taken: set[str]) -> OpenInput:
    """A file with its source, forced or detected by its first rows."""
    chunks = read_chunks(path, config.hub_split or "train")
    first = next(chunks, None)
    head = list(read_head(first.lines())) if first else []
    if first is None or not head:
        raise DataError(f"{path}: empty; expected one JSON row a line, or a JSON array of rows")
    stem = data_stem(path)
    label = next(name for name in chain([stem], (f"{stem}.{n}" for n in count(2))) if name not in taken)
    source = forced or detect(path, head)
    if config.tools and source.catalogue is None:
        raise ConfigError(f"--tools {config.tools}: {path} is of the source {source.name}, which reads no catalogue")
    item = Input(path, label, source.open(path, config.tools))
    again = path != STDIO and not is_hub(path)
    return OpenInput(item, None if again else chain([first], chunks), config.hub_split or "train")


def read_head(lines: Iterable[Line]) -> Iterator[Line]:
    """The first lines, until they hold enough rows to tell the source."""
    rows = 0
    for line in islice(lines, DETECTION_LINES):
        yield line
        rows += isinstance(line.value, dict)
        if rows == DETECTION_ROWS:
            return


def detect(path: Path, head: list[Line]) -> Source:
    """The source of a file by its first lines; raise `DataError` that names the evidence."""
    rows: list[Json] = [line.value for line in head if isinstance(line.value, dict)]
    if rows and rows[0].keys() == REJECT_FIELDS:
        raise DataError(f"{path}: is a rejects file of prepare; leave it out")
    if not rows:
        raise DataError(f"{path}:{head[0].number}: {head[0].error or not_object(head[0].value)}")
    try:
        return detect_source(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def gather(chunks: Iterable[Chunk]) -> Chunk:
    """All lines of a file as one row, or the first line that cannot be read."""
    lines, size = [], 0
    for chunk in chunks:
        size += chunk.size
        for line in chunk.lines():
            if line.error:
                return Chunk(line.number, line.raw or b"", size)
            lines.append(line.value)
    return Chunk(1, [{"lines": lines}], size)


def pieces_of(inputs: Iterable[OpenInput]) -> Iterator[Piece]:
    """The rows of all inputs in their order."""
    for place, opened in enumerate(inputs):
        for chunk in opened.pieces():
            yield place, chunk
