"""Intervals against values from the literature and from their definition."""

from __future__ import annotations

import time
from itertools import product
from math import comb
from random import Random

import pytest

from toolrl_cli.benches.bfcl.editions import V4
from toolrl_cli.benches.bfcl.weights import weigh_categories
from toolrl_cli.benches.samples import measure_chance
from toolrl_cli.benches.stats import (
    Interval,
    bonett_price,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    weigh,
    weighted_sum,
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


def test_a_weighted_sum_is_that_of_the_shares() -> None:
    parts = {"a": wilson(1, 4), "b": wilson(6, 6), "c": wilson(1, 2)}
    both = weighted_sum(parts, {"a": 0.4, "b": 0.6})
    below = 0.7 - ((0.4 * (0.25 - parts["a"].low)) ** 2 + (0.6 * (1 - parts["b"].low)) ** 2) ** 0.5
    assert rounded(both) == (0.7, round(below, 4), round(0.7 + 0.4 * (parts["a"].high - 0.25), 4))
    assert (both.n, both.method, both.unit) == (10, "mover wilson", "share")
    alone = weighted_sum(parts, {"b": 1.0, "c": 0.0})
    assert (rounded(alone), alone.n) == (rounded(parts["b"]), 6)


def test_a_weighted_sum_has_a_width_where_resampling_sees_none() -> None:
    one_each = weighted_sum({name: wilson(1, 1) for name in "abcd"}, dict.fromkeys("abcd", 0.25))
    assert rounded(one_each) == (1.0, 0.6033, 1.0)


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [((0.5, 0.5), (40, 40)), ((0.9, 0.97, 0.2), (16, 200, 24)), ((0.95, 0.99), (10, 10)), ((0.4, 0.8), (5, 400))],
)
def test_a_weighted_sum_covers_the_truth_about_as_often_as_it_says(
    shares: tuple[float, ...], sizes: tuple[int, ...]
) -> None:
    generator = Random(6)
    weights = {str(i): 1 / len(shares) for i in range(len(shares))}
    truth = sum(shares) / len(shares)
    covered = 0
    for _ in range(2000):
        hits = [sum(generator.random() < share for _ in range(n)) for share, n in zip(shares, sizes, strict=True)]
        parts = {str(i): wilson(hit, n) for i, (hit, n) in enumerate(zip(hits, sizes, strict=True))}
        found = weighted_sum(parts, weights)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 2000 <= 0.99


@pytest.mark.parametrize(("lost", "won", "n"), [(0.1, 0.1, 30), (0.02, 0.3, 50), (0.0, 0.01, 20), (0.3, 0.1, 15)])
def test_a_change_of_a_share_covers_the_truth_about_as_often_as_it_says(lost: float, won: float, n: int) -> None:
    generator = Random(7)
    covered = 0
    for _ in range(2000):
        draws = [generator.random() for _ in range(n)]
        found = bonett_price(sum(d < lost for d in draws), sum(lost <= d < lost + won for d in draws), n)
        covered += found.low <= won - lost <= found.high
    assert 0.93 <= covered / 2000 <= 1.0


def test_no_change_in_a_few_entries_is_no_certainty() -> None:
    # Counts of 1 and 1 in 3 + 2: 1.959964 * sqrt(0.4 / 5)
    assert rounded(bonett_price(0, 0, 3)) == (0.0, -0.5544, 0.5544)
    # 1 and 2 in 1 + 2: 1/3 - 1.959964 * sqrt((1 - 1/9) / 3)
    assert rounded(bonett_price(0, 1, 1)) == (1.0, -0.7335, 1.0)


def test_samples_that_all_agree_are_no_certainty() -> None:
    assert measure_chance([1.0] * 29, seed=0) == wilson(29, 29)
    assert measure_chance([0.5] * 4, seed=0).method == "wilson"
    assert measure_chance([0.5, 1.0], seed=0).method == "bootstrap"


@pytest.mark.parametrize("names", [list(V4.counts), ["simple_java", "parallel", "live_parallel"], ["live_relevance"]])
def test_the_weights_of_categories_give_the_official_aggregation(names: list[str]) -> None:
    accuracy = {name: Random(name).random() for name in names}
    numbers, weights = V4.aggregate(accuracy), weigh_categories(V4.aggregate, names)
    official = {group: score for group, score in numbers["groups_of_what_ran"].items() if score is not None}
    official |= {name: numbers[name] for name in ("overall", "overall_of_what_ran") if numbers[name]}
    assert {name: weigh(accuracy, parts) for name, parts in weights.items()} == pytest.approx(official, abs=1e-12)
