"""What an evaluation found: counts, intervals, tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from toolrl_cli.benches.base import Bench, Result
from toolrl_cli.benches.failures import ERROR_TYPES, FailureKind
from toolrl_cli.benches.samples import Spread, measure_pass, measure_spread
from toolrl_cli.benches.stats import Interval, wilson
from toolrl_cli.records import Json

SHOWN = 20
"""The most errored entries that a summary lists."""


class Table(NamedTuple):
    """A table of texts, as `console.print_table` takes it."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Tally:
    """The results of one category; every entry counts in `n`, also one that got no completion.

    `failures` says how often each kind of failure occurs; together they are the entries that are not correct.
    """

    n: int
    correct: int
    accuracy: Interval
    parse_failures: int
    truncated: int
    no_prediction: int
    failures: Mapping[str, int]


@dataclass(frozen=True)
class ErroredEntry:
    """An entry that is counted wrong without a verdict on an answer, and why; `sample` where it has several."""

    id: str
    category: str
    error_type: str
    error: str
    sample: int | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.id if self.sample is None else f"{self.id}, sample {self.sample}"


@dataclass(frozen=True)
class Errors:
    """The entries without a verdict of their own, each sample for itself: how many, and the first of them."""

    n: int
    shown: tuple[ErroredEntry, ...]


@dataclass(frozen=True)
class Summary:
    """What an evaluation found; all shares lie between 0 and 1 and carry 95% intervals.

    `weights` says how a metric is made of the accuracies of categories, where it is. With several samples of
    each entry, `samples` and the metrics `pass@k` tell of all, the rest of the first.
    """

    bench: str
    source: str
    n: int
    metrics: Mapping[str, Interval]
    weights: Mapping[str, Mapping[str, float]]
    categories: Mapping[str, Tally]
    outcomes: Mapping[str, int]
    errors: Errors
    official: Json | None
    notes: tuple[str, ...]
    samples: Spread | None = None

    def to_json(self) -> Json:
        """The record as JSON values; `samples` only where there are several."""
        return {k: v for k, v in asdict(self).items() if v is not None or k != "samples"}


def summarize(bench: Bench, results: Sequence[Result], source: str, seed: int, notes: tuple[str, ...]) -> Summary:
    """Count the results by category and outcome, and add what the bench finds."""
    first = [result for result in results if not result.sample]
    several = len(results) > len(first)
    findings = bench.summarize(first, seed=seed)
    groups: dict[str, list[Result]] = {}
    for result in first:
        groups.setdefault(result.category, []).append(result)
    return Summary(
        bench=bench.name,
        source=source,
        n=len(first),
        metrics={**findings.metrics, **(measure_pass(results, seed=seed) if several else {})},
        weights=findings.weights,
        categories={category: tally(group) for category, group in groups.items()},
        outcomes=dict(sorted(Counter(result.outcome or "no_prediction" for result in first).items())),
        errors=list_errors(results),
        official=findings.official,
        notes=(*notes, *describe_unset(results), *findings.notes),
        samples=measure_spread(results) if several else None,
    )


def describe_unset(results: Sequence[Result]) -> Iterator[str]:
    """A note on answers for which the server used sampling parameters of its own."""
    names = sorted({name for result in results for name in result.unset or ()})
    if names:
        n = sum(bool(result.unset) for result in results)
        yield f"{n} answers were drawn by the server's own {' and '.join(names)}, since it takes no other"


def tally(results: Sequence[Result]) -> Tally:
    """The counts of one category."""
    correct = sum(result.correct for result in results)
    kinds = Counter(result.error_type for result in results)
    truncated = sum(result.truncated for result in results)
    failed = Counter(result.failure or FailureKind.OTHER for result in results if not result.correct)
    failures = {failure.value: failed[failure] for failure in FailureKind if failure in failed}
    n = len(results)
    return Tally(
        n, correct, wilson(correct, n), kinds["parse"], truncated, kinds["missing"] + kinds["engine"], failures
    )


def list_errors(results: Sequence[Result]) -> Errors:
    """The results without a verdict of their own."""
    errored = [r for r in results if r.error_type in ERROR_TYPES]
    shown = [ErroredEntry(r.id, r.category, str(r.error_type), r.error or "", r.sample) for r in errored[:SHOWN]]
    return Errors(len(errored), tuple(shown))


def summary_tables(summary: Summary) -> list[Table]:
    """The summary as tables for a terminal: title, columns, rows."""
    # Thirteen categories with names of 22 letters fit a terminal of 80 columns only with headings of two lines.
    columns = ["category", "n", "% correct\n(95% interval)", "parse\nerrors", "cut\noff", "no\nanswer"]
    categories = [tally_row(name, tally) for name, tally in summary.categories.items()]
    metrics = [metric_row(name, metric) for name, metric in summary.metrics.items()]
    tables = [
        Table(f"{summary.bench}: {summary.source}", columns, categories),
        Table("metrics", ["metric", "value", "95% interval", "n", "method"], metrics),
    ]
    tables += [official_table(summary.official)] if summary.official is not None else []
    tables += [spread_table(summary.samples)] if summary.samples is not None else []
    return [*tables, *failure_tables(summary), *error_tables(summary.errors)]


def spread_table(spread: Spread) -> Table:
    """How the samples of each entry differ, as a table."""
    row = [str(len(spread.accuracies)), percent(spread.mean), percent(spread.standard_deviation)]
    return Table("over the samples of each entry", ["samples", "mean accuracy", "standard deviation"], [row])


def metric_row(name: str, metric: Interval) -> list[str]:
    """A figure as a row of its table."""
    interval = f"{show_number(metric.low, metric)} .. {show_number(metric.high, metric)}"
    return [name, show_number(metric.value, metric), interval, str(metric.n), metric.method]


def show_number(value: float, figure: Interval) -> str:
    """A value in the unit of a figure, shares in percent."""
    return spell(figure.scale * value, figure) + ("%" if figure.unit == "share" else "")


def spell(value: float, figure: Interval, *, sign: str = "") -> str:
    """A number as people read it with the digits of its kind; what they cannot tell from zero has no minus."""
    digits = 2 if figure.unit == "share" else 4
    return format(round(value, digits) + 0.0, f"{sign}.{digits}f")


def count_entries(n: int) -> str:
    """A number of entries in words."""
    return "1 entry" if n == 1 else f"{n} entries"


def failure_tables(summary: Summary) -> Iterator[Table]:
    """How answers fail, a row a category and a column a kind; nothing where all are right."""
    total: Counter[str] = Counter()
    for tally in summary.categories.values():
        total.update(tally.failures)
    kinds = [kind.value for kind in FailureKind if total[kind.value]]
    if kinds:
        rows = [[name, *(str(t.failures.get(kind, 0)) for kind in kinds)] for name, t in summary.categories.items()]
        rows.append(["all", *(str(total[kind]) for kind in kinds)])
        yield Table("failures", ["category", *(kind.replace("_", "\n") for kind in kinds)], rows)


def error_tables(errors: Errors) -> Iterator[Table]:
    """The entries without a verdict; nothing where there are none."""
    if errors.n:
        what = count_entries(errors.n) if errors.shown[0].sample is None else f"{errors.n} samples of entries"
        title = f"{what} without a verdict, counted wrong"
        title += ", the first of them" * (errors.n > SHOWN)
        yield Table(title, ["id", "error"], [[e.name, f"{e.error_type}: {e.error}"] for e in errors.shown])


def tally_row(name: str, tally: Tally) -> list[str]:
    """A category as a row of its table."""
    share, low, high = (f"{100 * bound:.1f}" for bound in bounds_of(tally.accuracy))
    counts = [str(count) for count in (tally.parse_failures, tally.truncated, tally.no_prediction)]
    return [name, str(tally.n), f"{share} ({low}-{high})", *counts]


def bounds_of(figure: Interval) -> tuple[float, float, float]:
    """Value, low and high."""
    return figure.value, figure.low, figure.high


def official_table(official: Json) -> Table:
    """The leaderboard's aggregation as a table."""
    rows = [
        [name, percent(official["groups"][name]), percent(official["groups_of_what_ran"][name])]
        for name in official["groups"]
    ]
    rows.append(["overall", percent(official["overall"]), percent(official["overall_of_what_ran"])])
    return Table(f"as {official['version']} adds up", ["group", "official (missing = 0)", "of what ran"], rows)


def percent(share: float | None) -> str:
    """A share in percent, `-` for none."""
    return "-" if share is None else f"{100 * share:.2f}%"
