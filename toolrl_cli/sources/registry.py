"""The sources by name, and which of them a file is."""

from __future__ import annotations

from collections.abc import Sequence

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.records import Json
from toolrl_cli.sources.base import Source, shorten
from toolrl_cli.sources.examples import ExamplesSource
from toolrl_cli.sources.openai import OpenaiSource
from toolrl_cli.sources.toolrl import ToolrlSource
from toolrl_cli.sources.xlam import XlamSource

SOURCES: dict[str, Source] = {
    source.name: source for source in (ExamplesSource(), ToolrlSource(), XlamSource(), OpenaiSource())
}


def find_source(name: str) -> Source:
    """The source of that name; raise `ConfigError` for an unknown one."""
    if name not in SOURCES:
        raise ConfigError(f"unknown source {name!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[name]


def recognise(row: Json) -> list[str]:
    """The names of the sources that recognise a row."""
    return [name for name, source in SOURCES.items() if source.recognises(row)]


def detect_source(rows: Sequence[Json]) -> Source:
    """The one source that recognises rows among these.

    Raises:
        DataError: no source does, or several do; the message holds the keys of the first row.
    """
    found = {name: SOURCES[name] for row in rows for name in recognise(row)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise DataError(f"holds rows of {' and '.join(found)}; split the file, or force one with --from")
    keys = ", ".join(shorten(key).strip("'") for key in list(rows[0])[:12]) if rows and rows[0] else "none"
    raise DataError(f"unknown row format (keys: {keys}); pass --from with one of {', '.join(SOURCES)}")
