"""The sample data that comes with toolrl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from toolrl_cli.errors import SetupError
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Example, expect
from toolrl_cli.sources.registry import find_source


def find_samples() -> Path:
    """The folder of sample data: beside the package in a checkout, inside it once installed from a wheel."""
    package = Path(__file__).parent
    for folder in (package / "data_samples", package.parent / "data_samples"):
        if folder.is_dir():
            return folder
    raise SetupError(f"{package}: comes without data_samples; install toolrl from its repository or wheel")


def held_out_examples() -> Iterator[Example]:
    """The examples of the held-out sample rows."""
    source = find_source("openai")
    rows = read_records(find_samples() / "heldout" / "heldout.jsonl", lambda row: expect(row, dict, "row"))
    for number, row in enumerate(rows, start=1):
        yield from source.convert(row, f"heldout-{number}")
