"""Intervals of 95%: what a number is worth, beside the number."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from statistics import fmean, pvariance, stdev
from typing import Literal

RESAMPLES = 1000
# From here on the percentiles agree with the normal limit to a hundredth of the interval, and resampling takes seconds.
NORMAL_FROM = 10_000
Z = 1.959964
WILSON, BOOTSTRAP, NORMAL = "wilson", "bootstrap", "normal"
MCNEMAR = "McNemar, exact, two-sided"
Unit = Literal["share", "mean"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value over `n` entries and the bounds of its 95% interval, which `method` found.

    A `share` lies between 0 and 1, and people read it in percent; a `mean` has the unit of its values.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    unit: Unit = "mean"

    @property
    def scale(self) -> int:
        """What turns the value into the number that people read."""
        return 100 if self.unit == "share" else 1


def wilson(correct: int, n: int) -> Interval:
    """A proportion with its Wilson score interval (Wilson 1927, without continuity correction); `n` is at least 1."""
    share = correct / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    return Interval(share, low, high, n, WILSON, "share")


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, unit: Unit = "mean") -> Interval:
    """A mean with its percentile bootstrap interval (Efron 1979); its normal limit from 10,000 values on."""
    mean, n = fmean(values), len(values)
    if n >= NORMAL_FROM:
        half = Z * stdev(values, mean) / sqrt(n)
        return Interval(mean, mean - half, mean + half, n, NORMAL, unit)
    generator = random.Random(seed)
    return percentiles(mean, [fmean(generator.choices(values, k=n)) for _ in range(RESAMPLES)], n, unit)


def percentiles(value: float, resampled: Sequence[float], n: int, unit: Unit) -> Interval:
    """A value with the 2.5th and the 97.5th percentile of what it was in the resamples."""
    ordered = sorted(resampled)
    low, high = ordered[round(RESAMPLES * 0.025)], ordered[round(RESAMPLES * 0.975) - 1]
    return Interval(value, low, high, n, BOOTSTRAP, unit)


def bootstrap_difference(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, unit: Unit = "mean"
) -> Interval:
    """The mean of `after - before` over the same entries, in the same order, with its paired bootstrap interval.

    Raises:
        ValueError: the two differ in length.
    """
    return paired(bootstrap_mean([b - a for a, b in zip(before, after, strict=True)], seed=seed, unit=unit))


def paired(difference: Interval) -> Interval:
    """An interval whose method says that it is one of differences between paired values."""
    return replace(difference, method=f"paired {difference.method}")


def bootstrap_weighted(
    groups: Mapping[str, Sequence[float]], weights: Mapping[str, Mapping[str, float]], *, seed: int = 0
) -> dict[str, Interval]:
    """Weighted sums of the means of groups, each with its stratified bootstrap interval.

    Entries are drawn anew within their group, since the number of entries of each is fixed; all
    sums see the same draws. From 10,000 entries on the interval is the normal limit.

    Args:
        groups: the values of each group.
        weights: for each sum the weight of every group in it.
    """
    means = {group: fmean(values) for group, values in groups.items()}
    sizes = {name: sum(len(groups[group]) for group, w in parts.items() if w) for name, parts in weights.items()}
    if sum(map(len, groups.values())) >= NORMAL_FROM:
        errors = {group: pvariance(values, means[group]) / len(values) for group, values in groups.items()}
        found = {}
        for name, parts in weights.items():
            value, half = weigh(means, parts), Z * sqrt(sum(w**2 * errors[group] for group, w in parts.items()))
            found[name] = Interval(value, value - half, value + half, sizes[name], NORMAL, "share")
        return found
    generator = random.Random(seed)
    draws: dict[str, list[float]] = {name: [] for name in weights}
    for _ in range(RESAMPLES):
        drawn = {group: fmean(generator.choices(values, k=len(values))) for group, values in groups.items()}
        for name, parts in weights.items():
            draws[name].append(weigh(drawn, parts))
    return {name: percentiles(weigh(means, weights[name]), draws[name], sizes[name], "share") for name in weights}


def weigh(means: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted sum of means; a mean that no weight names counts nothing."""
    return fsum(weight * means[group] for group, weight in weights.items())


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p-value of McNemar's exact test: as many pairs changed one way as the other, up to chance.

    Pairs that agree say nothing; of the `lost + won` others each is a fair coin's (McNemar 1947, with
    the binomial distribution itself in place of its limit). Exact integers, so any number of pairs will do.
    """
    n = lost + won
    tail, term = 0, 1
    for k in range(min(lost, won) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))
