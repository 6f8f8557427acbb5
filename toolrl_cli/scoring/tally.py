"""What a file of scores comes to: means, spread, percentiles, outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeVar

from toolrl_cli.records import Json, Outcome, Score

N = TypeVar("N", int, float)
PERCENTILES = (5, 25, 50, 75, 95)
BINS = 10
DECIMALS = 4


@dataclass(slots=True)
class Tally:
    """Counts over scored rows; memory grows with the number of different values, to four decimals, not of rows."""

    parts: tuple[str, ...]
    rows: int = 0
    malformed_rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    values: dict[str, Counter[float]] = field(default_factory=dict)
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Start every sum at nothing."""
        for name in ("total", *self.parts):
            self.sums[name] = self.squares[name] = 0.0
            self.values[name] = Counter()

    def add(self, score: Score) -> None:
        """Count one scored row."""
        self.rows += 1
        self.outcomes[score.outcome] += 1
        self._add("total", score.total)
        for name, value in score.parts.items():
            if value is not None:
                self._add(name, value)

    def _add(self, name: str, value: float) -> None:
        self.sums[name] += value
        self.squares[name] += value * value
        self.values[name][round(value, DECIMALS)] += 1

    def merge(self, other: Tally) -> None:
        """Add the counts of another piece of the same file."""
        self.rows += other.rows
        self.malformed_rows += other.malformed_rows
        self.outcomes.update(other.outcomes)
        for name in self.sums:
            self.sums[name] += other.sums[name]
            self.squares[name] += other.squares[name]
            self.values[name].update(other.values[name])

    def names(self) -> list[str]:
        """The total and the parts that some row has."""
        return [name for name, values in self.values.items() if values]

    def mean(self, name: str) -> float:
        """The mean of a part, or of the total, over the rows that have it; there is at least one."""
        return self.sums[name] / self.values[name].total()

    @property
    def exact_rate(self) -> float:
        """The share of exact rows; there is at least one row."""
        return self.outcomes[Outcome.EXACT] / self.rows

    def std(self, name: str) -> float:
        """The standard deviation (of a sample: n - 1) of a part or the total; 0 for a single row."""
        n = self.values[name].total()
        if n == 1:
            return 0.0
        return sqrt(max(0.0, self.squares[name] - self.sums[name] ** 2 / n) / (n - 1))

    def percentiles(self, name: str) -> dict[str, float]:
        """Percentiles by the nearest rank, to four decimals."""
        return percentiles(self.values[name], PERCENTILES)

    def histogram(self, name: str) -> Json:
        """Counts in ten bins of one width from the lowest to the highest value, one bin when they are the same."""
        low, high = min(self.values[name]), max(self.values[name])
        if low == high:
            return {"edges": [low, high], "counts": [self.values[name].total()]}
        width = (high - low) / BINS
        counts = [0] * BINS
        for value, count in self.values[name].items():
            counts[min(BINS - 1, int((value - low) / width))] += count
        return {"edges": [round(low + i * width, DECIMALS) for i in range(BINS + 1)], "counts": counts}

    def to_json(self) -> Json:
        """The summary as JSON values, numbers to four decimals."""
        names = self.names()
        return {
            "n": self.rows,
            "malformed_rows": self.malformed_rows,
            "mean": {name: round(self.mean(name), DECIMALS) for name in names},
            "std": {name: round(self.std(name), DECIMALS) for name in names},
            "percentiles": {name: self.percentiles(name) for name in names},
            "exact_rate": round(self.exact_rate, DECIMALS),
            "outcomes": {outcome.value: self.outcomes[outcome] for outcome in Outcome},
        }


def percentiles(counts: Counter[N], percents: Iterable[int]) -> dict[str, N]:
    """Percentiles by nearest rank, from how often each value occurs; the percents ascend."""
    total, values = counts.total(), sorted(counts)
    found, seen, place = {}, 0, 0
    for percent in percents:
        while seen < total * percent / 100:
            seen += counts[values[place]]
            place += 1
        found[f"p{percent}"] = values[place - 1]
    return found
