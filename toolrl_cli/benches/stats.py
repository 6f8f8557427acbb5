"""Intervals of 95%: what a number is worth, beside the number."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from statistics import fmean, stdev
from typing import Literal

RESAMPLES = 1000
# From here on the percentiles agree with the normal limit to a hundredth of the interval, and resampling takes seconds.
NORMAL_FROM = 10_000
Z = 1.959964
WILSON, BOOTSTRAP, NORMAL, BONETT_PRICE, MOVER = "wilson", "bootstrap", "normal", "bonett-price", "mover"
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


def wilson(correct: float, n: int) -> Interval:
    """A proportion with its Wilson score interval (Wilson 1927, without continuity correction); `n` is at least 1.

    For the sum of `n` values between 0 and 1 in place of a count it is, if anything, too wide.
    """
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


def bonett_price(lost: int, won: int, n: int) -> Interval:
    """The change of a proportion over the same `n` entries, of which some were lost and some won; `n` is at least 1.

    The adjusted Wald interval for paired proportions (Bonett and Price 2012): one is added to either count.
    """
    gone, come = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = Z * sqrt((gone + come - (come - gone) ** 2) / (n + 2))
    change, low, high = (won - lost) / n, max(-1.0, come - gone - half), min(1.0, come - gone + half)
    return Interval(change, min(change, low), max(change, high), n, BONETT_PRICE, "share")


def weighted_sum(parts: Mapping[str, Interval], weights: Mapping[str, float]) -> Interval:
    """A weighted sum of independent shares, or of changes of shares, from their intervals; no weight is below 0.

    Each bound lies as far from the sum as the parts' bounds from the parts, added as squares (MOVER, the method of
    variance estimates recovery: Zou, Huang and Zhang 2009), so it has a width also where all parts are 0 or 1.
    """
    there = [(weight, parts[name]) for name, weight in weights.items() if weight]
    value = fsum(weight * part.value for weight, part in there)
    below = sqrt(fsum((weight * (part.value - part.low)) ** 2 for weight, part in there))
    above = sqrt(fsum((weight * (part.high - part.value)) ** 2 for weight, part in there))
    method = f"{MOVER} {'/'.join(dict.fromkeys(part.method for _, part in there))}"
    return Interval(value, value - below, value + above, sum(part.n for _, part in there), method, "share")


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
