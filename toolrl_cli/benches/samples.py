"""What several completions of each entry say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, fsum
from statistics import fmean, stdev

from toolrl_cli.benches.base import Result
from toolrl_cli.benches.stats import Interval, bootstrap_mean, wilson

PASS = "pass@"
"""How the names of these metrics begin."""


@dataclass(frozen=True)
class Spread:
    """How the accuracy of all entries differs from sample to sample; the deviation is that of a sample of them."""

    accuracies: tuple[float, ...]
    mean: float
    standard_deviation: float


def measure_spread(results: Sequence[Result]) -> Spread:
    """The accuracy of each sample, of which there are two at least."""
    samples: dict[int, list[bool]] = {}
    for result in results:
        samples.setdefault(result.sample or 0, []).append(result.correct)
    accuracies = [fmean(right) for _, right in sorted(samples.items())]
    return Spread(tuple(accuracies), fmean(accuracies), stdev(accuracies))


def measure_pass(results: Sequence[Result], *, seed: int) -> dict[str, Interval]:
    """pass@k for the number of samples and the powers of two below it, each the mean over the entries."""
    correct: dict[str, list[bool]] = {}
    for result in results:
        correct.setdefault(result.id, []).append(result.correct)
    n = max(map(len, correct.values()))
    chances = {name: [pass_at(k, n, sum(right)) for right in correct.values()] for name, k in pass_sizes(n).items()}
    return {name: measure_chance(values, seed=seed) for name, values in chances.items()}


def measure_chance(values: Sequence[float], *, seed: int) -> Interval:
    """The mean of chances with its bootstrap interval, or Wilson's where all are equal, which has a width there too."""
    if len(set(values)) == 1:
        return wilson(fsum(values), len(values))
    return bootstrap_mean(values, seed=seed, unit="share")


def pass_sizes(samples: int) -> dict[str, int]:
    """The k of each measure of so many samples, by its name."""
    return {f"{PASS}{k}": k for k in sorted({samples, *(2**i for i in range(samples.bit_length()))})}


def pass_at(k: int, n: int, correct: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold a correct one: 1 - C(n - c, k) / C(n, k).

    Without bias for the chance that one of k new samples is correct (Chen et al. 2021, arXiv 2107.03374).
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)
