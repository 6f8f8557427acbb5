"""Rows with something wrong at every place, for the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import read_rows, write_lines

from toolrl_cli.errors import DataError
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Example, Json
from toolrl_cli.sources.registry import SOURCES

WRONG: tuple[Any, ...] = (None, True, 5, "", "x", [], [None], {}, {"a": None})


def broken_versions(value: Any) -> Iterator[Any]:
    """The value with each of its nodes in turn replaced by values of other types, or gone."""
    yield from WRONG
    if isinstance(value, dict):
        for key, item in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: version} for version in broken_versions(item))
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from ([*value[:i], version, *value[i + 1 :]] for version in broken_versions(item))


def convert_all(source: str, row: Json) -> list[Example]:
    """The examples of all parts of a row, as `prepare` numbers them."""
    parts = SOURCES[source].split(row)
    names = ["r"] if len(parts) == 1 else [f"r-{n}" for n in range(1, len(parts) + 1)]
    return [example for part, name in zip(parts, names, strict=True) for example in SOURCES[source].convert(part, name)]


def assert_only_data_errors(source: str, row: Json) -> None:
    """Whatever is wrong with a row, it is recognised or not, and converted or refused."""
    refused = 0
    for version in broken_versions(row):
        if not isinstance(version, dict):
            continue
        recognised = [name for name, other in SOURCES.items() if other.recognises(version)]
        covered = {name for name in recognised for name in SOURCES[name].covers}
        assert len(set(recognised) - covered) <= 1
        try:
            convert_all(source, version)
        except DataError:
            refused += 1
    assert refused > 20


def prepare_rows(folder: Path, rows: list[Json], **options: Any) -> tuple[list[Json], list[str]]:
    """The examples that `prepare` writes for rows, and the reasons of its rejects."""
    given, output = write_lines(folder / "rows.jsonl", rows), folder / "out.jsonl"
    prepare_examples(PrepareConfig(inputs=(given,), output=output, **options))
    rejects = folder / "out.rejects.jsonl"
    return read_rows(output), [row["reason"] for row in read_rows(rejects)] if rejects.exists() else []


def count_real(folder: Path, path: Path, **options: Any) -> Json:
    """What `prepare` counts for one file of a data set."""
    summary = prepare_examples(PrepareConfig(inputs=(path,), output=folder / "out.jsonl", **options))
    [(name, counts)] = summary.to_json()["sources"].items()
    return {"source": name, **{key: counts[key] for key in ("rows", "converted", "examples", "reasons")}}


def deep(depth: int = 10_000) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value
