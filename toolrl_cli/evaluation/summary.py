"""What an evaluation found: counts, intervals, tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import NamedTuple

from toolrl_cli.benches.base import Bench, Result
from toolrl_cli.benches.stats import Interval, wilson
from toolrl_cli.records import Json


class Table(NamedTuple):
    """A table of texts, as `console.print_table` takes it."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Tally:
    """The results of one category; every entry counts in `n`, also one that got no completion."""

    n: int
    correct: int
    accuracy: Interval
    parse_failures: int
    truncated: int
    no_prediction: int


@dataclass(frozen=True)
class Summary:
    """What an evaluation found; all shares lie between 0 and 1 and carry 95% intervals."""

    bench: str
    source: str
    n: int
    metrics: Mapping[str, Interval]
    categories: Mapping[str, Tally]
    outcomes: Mapping[str, int]
    official: Json | None
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """The record as JSON values."""
        return asdict(self)


def summarize(bench: Bench, results: Sequence[Result], source: str, seed: int, notes: tuple[str, ...]) -> Summary:
    """Count the results by category and outcome, and add what the bench finds."""
    findings = bench.summarize(results, seed=seed)
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.category, []).append(result)
    return Summary(
        bench=bench.name,
        source=source,
        n=len(results),
        metrics=findings.metrics,
        categories={category: tally(group) for category, group in groups.items()},
        outcomes=dict(sorted(Counter(result.outcome or "no_prediction" for result in results).items())),
        official=findings.official,
        notes=notes + findings.notes,
    )


def tally(results: Sequence[Result]) -> Tally:
    """The counts of one category."""
    correct = sum(result.correct for result in results)
    kinds = Counter(result.error_type for result in results)
    truncated = sum(result.truncated for result in results)
    return Tally(len(results), correct, wilson(correct, len(results)), kinds["parse"], truncated, kinds["missing"])


def summary_tables(summary: Summary) -> list[Table]:
    """The summary as tables for a terminal: title, columns, rows."""
    # Thirteen categories with names of 22 letters fit a terminal of 80 columns only with headings of two lines.
    columns = ["category", "n", "% correct\n(95% interval)", "parse\nerrors", "cut\noff", "no\nanswer"]
    categories = [tally_row(name, tally) for name, tally in summary.categories.items()]
    metrics = [[name, f"{m.value:.4f}", f"{m.low:.4f} .. {m.high:.4f}"] for name, m in summary.metrics.items()]
    tables = [
        Table(f"{summary.bench}: {summary.source}", columns, categories),
        Table(f"over all {summary.n} entries", ["metric", "value", "95% interval"], metrics),
    ]
    return tables if summary.official is None else [*tables, official_table(summary.official)]


def tally_row(name: str, tally: Tally) -> list[str]:
    """A category as a row of its table."""
    share, low, high = (f"{100 * bound:.1f}" for bound in astuple(tally.accuracy))
    counts = [str(count) for count in (tally.parse_failures, tally.truncated, tally.no_prediction)]
    return [name, str(tally.n), f"{share} ({low}-{high})", *counts]


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
