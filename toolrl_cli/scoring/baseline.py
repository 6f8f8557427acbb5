"""A scored file against an earlier one, paired by id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from toolrl_cli.benches.stats import bootstrap_difference
from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Json, expect

OTHER_FIELDS = {"total", "outcome", "reasons"}
"""Fields of a score that are no parts."""


@dataclass(slots=True)
class Totals:
    """The mean total of each id, which may have several completions, and the parts of the scores as far as told."""

    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)

    def add(self, rows: Iterable[tuple[str, float]]) -> None:
        """Count rows given as (id, total)."""
        for id, total in rows:
            sum_so_far, n = self.sums.get(id, (0.0, 0))
            self.sums[id] = (sum_so_far + total, n + 1)

    def mean(self, id: str) -> float:
        """The mean total of an id."""
        total, n = self.sums[id]
        return total / n


def read_totals(path: Path) -> Totals:
    """The totals of a scored file.

    Raises:
        DataError: the file is missing, a row has no id or no score, or there is none.
    """

    def read(raw: object) -> tuple[str, float]:
        row = expect(raw, dict, "row")
        score = expect(row.get("score"), dict, 'the "score" of a baseline row (toolrl score -o writes it)')
        total = score.get("total")
        if "id" not in row or isinstance(total, bool) or not isinstance(total, (int, float)) or not abs(total) < 1e300:
            raise DataError('a baseline row needs an "id" and a finite number as its score.total')
        totals.parts |= score.keys() - OTHER_FIELDS
        return str(row["id"]), float(total)

    totals = Totals()
    totals.add(read_records(path, read))
    if not totals.sums:
        raise DataError(f"{path}: no rows to compare with")
    return totals


def compare(before: Totals, after: Totals, path: Path, *, seed: int) -> Json:
    """The mean difference in total over the ids of both, with its 95% bootstrap interval; None for that of a single id.

    Raises:
        DataError: no id occurs in both.
    """
    shared = [id for id in before.sums if id in after.sums]
    if not shared:
        raise DataError(f"{path}: no id in common with the scored rows; a comparison pairs rows by id")
    found = bootstrap_difference([before.mean(id) for id in shared], [after.mean(id) for id in shared], seed=seed)
    told = len(shared) > 1
    return {
        "file": str(path),
        "pairs": len(shared),
        "only_before": len(before.sums) - len(shared),
        "only_now": len(after.sums) - len(shared),
        "difference": round(found.value, 4),
        "low": round(found.low, 4) if told else None,
        "high": round(found.high, 4) if told else None,
    }
