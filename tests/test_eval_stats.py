"""Intervals against values from the literature and from their definition."""

from __future__ import annotations

import time
from random import Random

import pytest

from toolrl_cli.benches.stats import Interval, bootstrap_difference, bootstrap_mean, wilson


def rounded(interval: Interval, digits: int = 4) -> tuple[float, float, float]:
    return round(interval.value, digits), round(interval.low, digits), round(interval.high, digits)


@pytest.mark.parametrize(
    ("correct", "n", "expected"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, (0.3080, 0.2553, 0.3662)),
        (15, 148, (0.1014, 0.0624, 0.1605)),
        (0, 20, (0.0, 0.0, 0.1611)),
        (1, 29, (0.0345, 0.0061, 0.1718)),
        (29, 29, (1.0, 0.8830, 1.0)),
    ],
)
def test_wilson_gives_the_published_values(correct: int, n: int, expected: tuple[float, float, float]) -> None:
    assert rounded(wilson(correct, n)) == expected


def test_the_bootstrap_of_a_constant_is_the_constant() -> None:
    assert bootstrap_mean([2.5] * 7) == Interval(2.5, 2.5, 2.5, 7, "bootstrap", "mean")
    assert bootstrap_mean([4.0]) == Interval(4.0, 4.0, 4.0, 1, "bootstrap", "mean")


def test_the_bootstrap_follows_its_seed() -> None:
    values = [Random(1).gauss(0, 1) for _ in range(50)] + [float(i) for i in range(50)]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = Random(0)
    covered = 0
    for seed in range(100):
        interval = bootstrap_mean([generator.uniform(0, 1) for _ in range(40)], seed=seed)
        covered += interval.low <= 0.5 <= interval.high
    assert 88 <= covered <= 100


def test_the_normal_limit_agrees_with_resampling_where_it_takes_over() -> None:
    generator = Random(2)
    values = [generator.random() ** 3 for _ in range(9999)]
    resampled, limit = bootstrap_mean(values), bootstrap_mean([*values, 0.25])
    width = limit.high - limit.low
    assert abs(resampled.low - limit.low) < 0.08 * width
    assert abs(resampled.high - limit.high) < 0.08 * width


def test_a_hundred_thousand_values_take_no_time() -> None:
    values = [float(i % 7) for i in range(100_000)]
    started = time.perf_counter()
    assert rounded(bootstrap_mean(values), 2) == (3.0, 2.99, 3.01)
    assert time.perf_counter() - started < 2


def test_a_paired_difference_ignores_what_both_share() -> None:
    before = [float(i) for i in range(100)]
    after = [value + 1 + (i % 2) * 0.1 for i, value in enumerate(before)]
    difference = bootstrap_difference(before, after)
    assert rounded(difference, 2) == (1.05, 1.04, 1.06)


def test_a_paired_difference_needs_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        bootstrap_difference([1.0], [1.0, 2.0])
