"""Intervals of 95%: what a number is worth, beside the number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

RESAMPLES = 1000
# From here on the percentiles agree with the normal limit to a hundredth of the interval, and resampling takes seconds.
NORMAL_FROM = 10_000
Z = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def wilson(correct: int, n: int) -> Interval:
    """A proportion with its Wilson score interval (Wilson 1927, without continuity correction); `n` is at least 1."""
    share = correct / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """A mean with its percentile bootstrap interval (Efron 1979); its normal limit from 10,000 values on."""
    mean, n = fmean(values), len(values)
    if n >= NORMAL_FROM:
        half = Z * stdev(values, mean) / sqrt(n)
        return Interval(mean, mean - half, mean + half)
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(values, k=n)) for _ in range(RESAMPLES))
    return Interval(mean, means[round(RESAMPLES * 0.025)], means[round(RESAMPLES * 0.975) - 1])


def bootstrap_difference(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of `after - before` over the same entries, in the same order, with its paired bootstrap interval.

    Raises:
        ValueError: the two differ in length.
    """
    return bootstrap_mean([b - a for a, b in zip(before, after, strict=True)], seed=seed)
