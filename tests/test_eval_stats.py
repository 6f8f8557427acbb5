"""Intervals against values from the literature and from their definition."""

from __future__ import annotations

import time
from itertools import product
from math import comb
from random import Random

import pytest

from toolrl_cli.benches.bfcl.editions import V4
from toolrl_cli.benches.bfcl.weights import weigh_categories
from toolrl_cli.benches.stats import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_weighted,
    mcnemar,
    weigh,
    wilson,
)


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


def test_every_interval_names_its_method_and_its_number() -> None:
    values = [0.0, 1.0] * 5
    assert (wilson(5, 10).n, wilson(5, 10).method, wilson(5, 10).scale) == (10, "wilson", 100)
    difference = bootstrap_difference(values, values[::-1], unit="share")
    assert (difference.n, difference.method, difference.unit) == (10, "paired bootstrap", "share")
    assert bootstrap_mean(values * 1000).method == "normal"


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 1, 1.0),
        (0, 6, 0.03125),
        (1, 9, 0.021484375),  # 2 * (1 + 10) / 2**10
        (9, 1, 0.021484375),
        (2, 8, 0.109375),  # 2 * (1 + 10 + 45) / 2**10
    ],
)
def test_mcnemar_gives_the_binomial_tails(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == p


def test_mcnemar_agrees_with_counting_every_outcome() -> None:
    for lost, won in product(range(8), range(8)):
        n, fewer = lost + won, min(lost, won)
        tail = sum(comb(n, k) for k in range(n + 1) if k <= fewer or k >= n - fewer) / 2**n
        assert mcnemar(lost, won) == pytest.approx(min(1.0, tail), abs=1e-15)


def test_mcnemar_takes_any_number_of_pairs() -> None:
    assert mcnemar(5000, 5000) == 1.0
    assert mcnemar(4900, 5100) == pytest.approx(0.0466, abs=0.0005)  # the normal limit with continuity: 0.0466
    assert mcnemar(0, 10_000) == 0.0


def test_a_weighted_sum_is_that_of_the_means() -> None:
    groups = {"a": [1.0, 0.0, 0.0, 0.0], "b": [1.0] * 6, "c": [0.0, 1.0]}
    found = bootstrap_weighted(groups, {"both": {"a": 0.4, "b": 0.6}, "sure": {"b": 1.0}}, seed=1)
    assert found["sure"] == Interval(1.0, 1.0, 1.0, 6, "bootstrap", "share")
    assert rounded(found["both"]) == (0.7, 0.6, 0.9)
    assert found["both"].n == 10
    assert found == bootstrap_weighted(groups, {"both": {"a": 0.4, "b": 0.6}, "sure": {"b": 1.0}}, seed=1)


def test_the_normal_limit_of_a_weighted_sum_agrees_with_resampling() -> None:
    generator = Random(4)
    groups = {
        name: [float(generator.random() < share) for _ in range(4990)] for name, share in {"a": 0.3, "b": 0.8}.items()
    }
    weights = {"both": {"a": 0.25, "b": 0.75}}
    resampled = bootstrap_weighted(groups, weights)["both"]
    limit = bootstrap_weighted({**groups, "c": [0.0] * 40}, weights)["both"]
    assert (resampled.method, limit.method, limit.n) == ("bootstrap", "normal", 9980)
    assert resampled.value == limit.value
    assert abs(resampled.low - limit.low) < 0.1 * (limit.high - limit.low) > abs(resampled.high - limit.high)


@pytest.mark.parametrize("names", [list(V4.counts), ["simple_java", "parallel", "live_parallel"], ["live_relevance"]])
def test_the_weights_of_categories_give_the_official_aggregation(names: list[str]) -> None:
    accuracy = {name: Random(name).random() for name in names}
    numbers, weights = V4.aggregate(accuracy), weigh_categories(V4.aggregate, names)
    official = {group: score for group, score in numbers["groups_of_what_ran"].items() if score is not None}
    official |= {name: numbers[name] for name in ("overall", "overall_of_what_ran") if numbers[name]}
    assert {name: weigh(accuracy, parts) for name, parts in weights.items()} == pytest.approx(official, abs=1e-12)
