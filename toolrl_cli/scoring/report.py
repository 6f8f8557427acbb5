"""A summary of scores for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from toolrl_cli.records import Json
from toolrl_cli.scoring.tally import PERCENTILES

BAR_WIDTH = 40


def table(summary: Json) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the total and each part with mean, spread and percentiles."""
    quantiles = [f"p{q}" for q in PERCENTILES]
    rows = [
        [
            name,
            f"{mean:.4f}",
            f"{summary['std'][name]:.4f}",
            *(f"{summary['percentiles'][name][q]:g}" for q in quantiles),
        ]
        for name, mean in summary["mean"].items()
    ]
    return ["", "mean", "std", *quantiles], rows


def lines(summary: Json) -> Iterator[str]:
    """What the table leaves out: the reward, the count of rows, outcomes, groups, the baseline."""
    bad = f", {summary['malformed_rows']} left out" if summary["malformed_rows"] else ""
    yield f"{summary['n']} rows{bad}, {summary['rows_per_second']} a second, reward {summary['reward']}"
    outcomes = [f"{name} {count}" for name, count in summary["outcomes"].items() if count]
    yield f"exact rate {summary['exact_rate']:.4f}; outcomes: {', '.join(outcomes)}"
    if "groups" in summary:
        yield from group_lines(summary["groups"])
        for name, histogram in summary["histograms"].items():
            yield from histogram_lines(name, histogram)
    if "baseline" in summary:
        yield baseline_line(summary["baseline"])


def group_lines(groups: Json) -> Iterator[str]:
    """What GRPO will see."""
    sizes = ", ".join(f"{count} of {size}" for size, count in groups["sizes"].items())
    yield f"{groups['groups']} groups ({sizes} completions)"
    yield (
        f"zero variance {groups['zero_variance']:.4f} (solved {groups['solved']:.4f}, stuck {groups['stuck']:.4f}), "
        f"learnable completions {groups['learnable']:.4f}"
    )
    yield f"in a group: mean {groups['mean']:.4f}, std {groups['std']:.4f}"
    passes = ", ".join(f"pass@{k} {value:.4f}" for k, value in groups["pass_at"].items())
    yield f"{passes} (over groups of k or more; what passes is exact, or rightly without a call)"


def histogram_lines(name: str, histogram: Json) -> Iterator[str]:
    """A part's values as bars."""
    most = max(histogram["counts"])
    yield f"{name}:"
    for low, count in zip(histogram["edges"], histogram["counts"], strict=False):
        yield f"  {low:>9.4f}  {'#' * round(BAR_WIDTH * count / most):<{BAR_WIDTH}}  {count}"


def baseline_line(baseline: Json) -> str:
    """The paired difference with its interval."""
    if baseline["low"] is None:
        interval = "over 1 id, too few for an interval or a verdict"
    else:
        interval = f"[{baseline['low']:.4f}, {baseline['high']:.4f}] over {baseline['pairs']} ids"
    return (
        f"against {baseline['file']}: total {baseline['difference']:+.4f} {interval} "
        f"({baseline['only_before']} only there, {baseline['only_now']} only here)"
    )
