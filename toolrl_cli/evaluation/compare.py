"""An evaluation against an earlier one of the same bench, paired by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from toolrl_cli.benches.base import Result
from toolrl_cli.benches.stats import MCNEMAR, Interval, bonett_price, bootstrap_difference, mcnemar, weigh, weighted_sum
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.evaluation.recorded import Recorded
from toolrl_cli.evaluation.summary import Summary, Table, count_entries, show_number, spell
from toolrl_cli.records import Json

SHOWN = 10
"""The most flipped entries of a kind that the table shows."""
Pair = tuple[Result, Result]
"""The same entry before and now."""


@dataclass(frozen=True)
class Change:
    """A figure of both evaluations over the entries that they share, and `difference`, which is now minus before."""

    before: float
    now: float
    difference: Interval


@dataclass(frozen=True)
class Flips:
    """The ids of entries whose verdict changed, with the p-value of as lopsided a change by chance alone."""

    right_to_wrong: tuple[str, ...]
    wrong_to_right: tuple[str, ...]
    p_value: float
    method: str


@dataclass(frozen=True)
class Comparison:
    """What changed since an earlier evaluation; every figure is over the `pairs`, the entries of both."""

    folder: str
    source: str
    pairs: int
    only_before: int
    only_now: int
    other_prompts: int
    flips: Flips
    metrics: Mapping[str, Change]
    categories: Mapping[str, Change]
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """The record as JSON values."""
        return asdict(self)


def refuse_other_bench(bench: str, before: Recorded) -> None:
    """Raise `ConfigError` when an earlier evaluation is of another bench."""
    if before.summary.bench != bench:
        raise ConfigError(
            f"{before.folder}: an evaluation on {before.summary.bench}, not on {bench}; give one of the same bench"
        )


def compare(now: Recorded, before: Recorded) -> Comparison:
    """Pair two evaluations by id.

    Raises:
        ConfigError: they are of different benches.
        DataError: no id occurs in both.
    """
    refuse_other_bench(now.summary.bench, before)
    pairs = [(before.results[id], result) for id, result in now.results.items() if id in before.results]
    if not pairs:
        raise DataError(f"{before.folder}: no id in common with {now.folder}; a comparison pairs entries by id")
    other_prompts = sum(earlier.prompt_hash != later.prompt_hash for earlier, later in pairs)
    return Comparison(
        folder=str(before.folder),
        source=before.summary.source,
        pairs=len(pairs),
        only_before=len(before.results) - len(pairs),
        only_now=len(now.results) - len(pairs),
        other_prompts=other_prompts,
        flips=find_flips(pairs),
        metrics=compare_metrics(pairs, now.summary, now.manifest.seed),
        categories=compare_categories(pairs),
        notes=tuple(describe_differences(now, before, other_prompts, len(pairs))),
    )


def find_flips(pairs: Sequence[Pair]) -> Flips:
    """The entries whose verdict changed, with McNemar's test on their numbers."""
    lost = tuple(now.id for before, now in pairs if before.correct and not now.correct)
    won = tuple(now.id for before, now in pairs if now.correct and not before.correct)
    return Flips(lost, won, mcnemar(len(lost), len(won)), MCNEMAR)


def compare_metrics(pairs: Sequence[Pair], summary: Summary, seed: int) -> dict[str, Change]:
    """The change of every metric that can be told from single entries, in the order of the summary."""
    found = compare_weighted(pairs, summary)
    headline = next(iter(summary.metrics))
    for name, metric in summary.metrics.items():
        values = [(value_of(before, name, headline), value_of(now, name, headline)) for before, now in pairs]
        both = [(a, b) for a, b in values if a is not None and b is not None]
        if name not in summary.weights and both:
            before, now = zip(*both, strict=True)
            if metric.unit == "share" and {*before, *now} <= {0.0, 1.0}:
                difference = compare_shares(before, now)
            else:
                difference = bootstrap_difference(before, now, seed=seed, unit=metric.unit)
            found[name] = Change(fmean(before), fmean(now), difference)
    return {name: found[name] for name in summary.metrics if name in found}


def value_of(result: Result, metric: str, headline: str) -> float | None:
    """What an entry adds to the mean that a metric is; None when it is no such mean."""
    if metric == headline:
        return float(result.correct)
    value = (result.score or {}).get(metric)
    return float(value) if isinstance(value, (bool, int, float)) else None


def compare_shares(before: Sequence[float], now: Sequence[float]) -> Interval:
    """The difference between two shares of the same entries, each of which counts as 0 or 1."""
    changes = [after - earlier for earlier, after in zip(before, now, strict=True)]
    return bonett_price(sum(change < 0 for change in changes), sum(change > 0 for change in changes), len(changes))


def compare_weighted(pairs: Sequence[Pair], summary: Summary) -> dict[str, Change]:
    """The change of every weighted sum of accuracies, all of whose categories have pairs."""
    changes = compare_categories(pairs)
    differences = {category: change.difference for category, change in changes.items()}
    before = {category: change.before for category, change in changes.items()}
    now = {category: change.now for category, change in changes.items()}
    return {
        name: Change(weigh(before, parts), weigh(now, parts), weighted_sum(differences, parts))
        for name, parts in summary.weights.items()
        if parts.keys() <= changes.keys()
    }


def compare_categories(pairs: Sequence[Pair]) -> dict[str, Change]:
    """The change in accuracy of every category."""
    changes = {}
    for category, group in group_pairs(pairs).items():
        before, now = ([float(pair[side].correct) for pair in group] for side in (0, 1))
        changes[category] = Change(fmean(before), fmean(now), compare_shares(before, now))
    return changes


def group_pairs(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by the category they have now."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[1].category, []).append(pair)
    return groups


def describe_differences(now: Recorded, before: Recorded, other_prompts: int, pairs: int) -> Iterator[str]:
    """What else differs than the source of the answers."""
    if other_prompts:
        yield f"{other_prompts} of {pairs} entries were asked with another prompt in {before.folder}"
    for name in ("data", "reward", "bfcl_wheel"):
        hashes = [recorded.manifest.hashes_now.get(name) for recorded in (before, now)]
        if hashes[0] != hashes[1]:
            yield f"{before.folder} has another {name} ({hashes[0]}, here {hashes[1]})"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The comparison as tables for a terminal."""
    title = f"against {comparison.folder} ({comparison.source}), {count_entries(comparison.pairs)} of both"
    columns = ["", "before", "now", "difference", "95% interval", "n", "method"]
    changes = [*comparison.metrics.items(), *comparison.categories.items()]
    kinds = {"right to wrong": comparison.flips.right_to_wrong, "wrong to right": comparison.flips.wrong_to_right}
    return [
        Table(title, columns, [change_row(name, change) for name, change in changes]),
        Table(
            "flipped entries",
            ["", "n", f"ids, the first {SHOWN}"],
            [[kind, str(len(ids)), ", ".join(ids[:SHOWN])] for kind, ids in kinds.items()],
        ),
    ]


def flips_line(flips: Flips) -> str:
    """What the test says of the flipped entries."""
    lost, won = len(flips.right_to_wrong), len(flips.wrong_to_right)
    return f"{count_entries(lost)} lost and {won} won since the baseline: p = {flips.p_value:.4g} ({flips.method})"


def change_row(name: str, change: Change) -> list[str]:
    """A change as a row of its table."""
    difference = change.difference
    shown, low, high = (
        spell(difference.scale * value, difference, sign="+")
        for value in (difference.value, difference.low, difference.high)
    )
    return [
        name,
        show_number(change.before, difference),
        show_number(change.now, difference),
        shown,
        f"{low} .. {high}",
        str(difference.n),
        difference.method,
    ]
