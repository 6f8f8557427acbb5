"""Helpers for the tests of sources whose rows hold dialogues as text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import read_rows, write_lines
from hostile_rows import count_real

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target
from toolrl_cli.sources.base import REPAIRS
from toolrl_cli.sources.registry import SOURCES, recognise

PING = {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}}
PING_TOOL = {"type": "function", "function": PING}


def said(speaker: str, text: str) -> Json:
    """A turn of from/value."""
    return {"from": speaker, "value": text}


def called(name: str, **arguments: Any) -> Json:
    """A history message's call."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def convert(source: str, row: Json) -> list[Example]:
    """The examples of a row whose id is `r`."""
    return SOURCES[source].convert(row, "r")


def last_target(source: str, row: Json) -> Target:
    """The target of a row's last step."""
    return convert(source, row)[-1].target


def convert_or_refuse(source: str, row: Json) -> str:
    """The reason for which a row is refused, or nothing; any exception but `DataError` passes."""
    assert set(recognise(row)) <= {source}
    try:
        convert(source, row)
    except DataError as error:
        return str(error)
    return ""


def cut_anywhere(source: str, row: Json) -> int:
    """How often a row is refused when each of its texts in turn is cut off at each place."""
    return sum(bool(convert_or_refuse(source, version)) for version in cut_versions(row))


def cut_versions(value: Any) -> Iterator[Any]:
    """A value with one of the texts in it cut off, at every place."""
    if isinstance(value, str):
        yield from (value[:end] for end in range(len(value)))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from ({**value, key: version} for version in cut_versions(item) if key != "from")
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from ([*value[:i], version, *value[i + 1 :]] for version in cut_versions(item))


@contextmanager
def repairing() -> Iterator[list[str]]:
    """Repairs allowed; the list fills with what was mended."""
    repairs: list[str] = []
    token = REPAIRS.set(repairs)
    try:
        yield repairs
    finally:
        REPAIRS.reset(token)


def prepare_file(folder: Path, given: Path, **options: Any) -> tuple[Json, list[Json]]:
    """What `prepare` counts for a file of one source, and the examples it writes."""
    counts = count_real(folder, given, **options)
    del counts["reasons"]
    return counts, read_rows(folder / "out.jsonl")


def prepare_rows(folder: Path, rows: list[Json], **options: Any) -> tuple[Json, list[Json]]:
    """`prepare_file` for rows."""
    return prepare_file(folder, write_lines(folder / "rows.jsonl", rows), **options)
