"""Rows by group: what GRPO will see of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import comb, sqrt

from toolrl_cli.records import Json

FLAT = 1e-9
"""A standard deviation below this is none: TRL's advantages divide by it."""


@dataclass(slots=True)
class Group:
    """Running sums over the completions of one prompt."""

    n: int = 0
    passed: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def add(self, total: float, succeeds: bool) -> None:
        """Count a completion (Welford 1962, so that equal rewards have no variance at all)."""
        self.n += 1
        self.passed += succeeds
        distance = total - self.mean
        self.mean += distance / self.n
        self.squares += distance * (total - self.mean)

    @property
    def std(self) -> float:
        """Standard deviation of the rewards (n - 1, as GRPO divides by); 0 for one completion."""
        return sqrt(self.squares / (self.n - 1)) if self.n > 1 else 0.0


@dataclass(slots=True)
class Groups:
    """The groups of a file; memory grows with their number."""

    found: dict[bytes, Group] = field(default_factory=dict)

    def add(self, rows: Iterable[tuple[bytes, float, bool]]) -> None:
        """Count rows given as (key, total, whether it was done right)."""
        for key, total, succeeds in rows:
            group = self.found.get(key)
            if group is None:
                group = self.found[key] = Group()
            group.add(total, succeeds)

    def to_json(self) -> Json:
        """What GRPO will see, numbers to four decimals.

        `zero_variance` is the share of groups whose rewards are all equal, hence without advantage:
        `solved` ones where every completion is right, `stuck` ones where none is. `learnable` is the
        share of completions that stand in a group with variance. `pass_at` is the unbiased estimate
        of pass@k (Chen et al. 2021, arXiv 2107.03374) over the groups of at least k completions.
        """
        groups = list(self.found.values())
        flat = [group for group in groups if group.std < FLAT]
        rows = sum(group.n for group in groups)
        shares = {
            "zero_variance": len(flat) / len(groups),
            "solved": sum(group.passed == group.n for group in flat) / len(groups),
            "stuck": sum(group.passed == 0 for group in flat) / len(groups),
            "learnable": 1 - sum(group.n for group in flat) / rows,
            "mean": sum(group.mean for group in groups) / len(groups),
            "std": sum(group.std for group in groups) / len(groups),
        }
        sizes = Counter(group.n for group in groups)
        return {
            "groups": len(groups),
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            **{name: round(value, 4) for name, value in shares.items()},
            "pass_at": {str(k): round(pass_at(k, groups), 4) for k in powers_of_two(max(sizes))},
        }


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4 ... up to the largest group."""
    return [1 << i for i in range(largest.bit_length())]


def pass_at(k: int, groups: Iterable[Group]) -> float:
    """Chance that one of k completions is right: mean of 1 - C(n - c, k) / C(n, k) over the groups with n >= k."""
    estimates = [1 - comb(group.n - group.passed, k) / comb(group.n, k) for group in groups if group.n >= k]
    return sum(estimates) / len(estimates)
