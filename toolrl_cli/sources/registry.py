"""The sources by name, and which of them a file is."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from toolrl_cli import sources
from toolrl_cli.errors import DataError, UsageError
from toolrl_cli.records import Json
from toolrl_cli.sources.base import Source, shorten


def load_sources() -> dict[str, Source]:
    """Every source that a module of the package defines, by name."""
    for module in iter_modules(sources.__path__):
        import_module(f"{sources.__name__}.{module.name}")
    found = [source() for source in Source.__subclasses__()]
    return {source.name: source for source in sorted(found, key=lambda source: source.name)}


SOURCES = load_sources()
CATALOGUES = {source.catalogue for source in SOURCES.values() if source.catalogue}


def find_source(name: str) -> Source:
    """The source of that name; raise `UsageError` for an unknown one."""
    if name not in SOURCES:
        raise UsageError(f"unknown source {name!r}; choose from {', '.join(SOURCES)}")
    return SOURCES[name]


def recognise(row: Json) -> list[str]:
    """The names of the sources that recognise a row."""
    return [name for name, source in SOURCES.items() if source.recognises(row)]


def detect_source(rows: Sequence[Json]) -> Source:
    """The one source that recognises rows among these, or covers all others that do.

    Raises:
        DataError: no source does, or several do; the message holds the keys of the first row.
    """
    found = {name: SOURCES[name] for row in rows for name in recognise(row)}
    for source in found.values():
        if found.keys() <= {source.name, *source.covers}:
            return source
    if found:
        raise DataError(f"holds rows of {' and '.join(found)}; split the file, or force one with --from")
    keys = ", ".join(shorten(key).strip("'") for key in list(rows[0])[:12]) if rows and rows[0] else "none"
    raise DataError(f"unknown row format (keys: {keys}); pass --from with one of {', '.join(SOURCES)}")
