"""The wording that rows of a data set share, as a template of their text format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolrl_cli.errors import ConfigError
from toolrl_cli.jsonl import open_atomic
from toolrl_cli.reading import find_files, read_chunks
from toolrl_cli.sources.extraction import extract_template


def write_template(inputs: Iterable[Path], path: Path, *, overwrite: bool) -> int:
    """Write the Jinja template of the toolrl format that words prompts as these rows do; the number of rows.

    Raises:
        ConfigError: the file exists and is not to be replaced.
        DataError: the rows share no wording, or are of another source.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: exists; add --overwrite to replace it, or choose another name")
    lines = (line for file in find_files(inputs) for chunk in read_chunks(file) for line in chunk.lines())
    rows = [line.value for line in lines if isinstance(line.value, dict)]
    template = extract_template(rows)
    with open_atomic(path) as stream:
        stream.buffer.write(template.encode())  # type: ignore[attr-defined]
    return len(rows)
