"""The order of examples by how well they have been answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Example, scored_total


def sort_examples(
    examples: Sequence[Example], order: Literal["easy-first", "hard-first"], scored: Path
) -> list[Example]:
    """The examples by the mean total of their scored completions; equal ones stay in their order.

    Raises:
        DataError: the file is missing or malformed, or an example has no scored completion.
    """
    means = read_means(scored)
    missing = [example.id for example in examples if example.id not in means]
    if missing:
        raise DataError(
            f"{scored}: no score for {len(missing)} of {len(examples)} examples, {missing[0]!r} first; "
            "score a completion of each (toolrl eval --bench examples), or train on those that have one"
        )
    return sorted(examples, key=lambda example: means[example.id], reverse=order == "easy-first")


def read_means(scored: Path) -> dict[str, float]:
    """The mean total of each id; raise `DataError` for rows that are not scored."""
    totals: dict[str, list[float]] = {}
    for id, total in read_records(scored, scored_total):
        totals.setdefault(id, []).append(total)
    return {id: sum(some) / len(some) for id, some in totals.items()}
