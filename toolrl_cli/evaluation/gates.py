"""Limits that an evaluation must keep, for CI: `--fail-under` and `--max-drop`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from toolrl_cli.benches.samples import PASS
from toolrl_cli.benches.stats import Interval, Unit
from toolrl_cli.errors import GateFailed, UsageError, nearest
from toolrl_cli.evaluation.compare import Change, Comparison
from toolrl_cli.evaluation.summary import Summary, spell
from toolrl_cli.limits import DIGITS, read_limits
from toolrl_cli.records import Json

FAIL_UNDER, MAX_DROP = "--fail-under", "--max-drop"
HEADLINE = ""
"""The name of a limit that was given without one: the first metric."""
F = TypeVar("F")


@dataclass(frozen=True)
class Gate:
    """A limit and what it met; all numbers as people read them, shares in percent and percentage points."""

    option: str
    name: str
    limit: float
    value: float
    passed: bool
    text: str

    def to_json(self) -> Json:
        """The record as JSON values."""
        return asdict(self)


def read_gates(option: str, texts: Iterable[str]) -> dict[str, float]:
    """The limits of an option by metric or category; raise `UsageError` for what is no limit."""
    return read_limits(option, texts, default=HEADLINE, kind="metric")


def check_levels(summary: Summary, limits: Mapping[str, float]) -> list[Gate]:
    """Metrics and categories against the lowest values they may have; raise as `resolve`."""
    levels = unite(summary.metrics, {name: tally.accuracy for name, tally in summary.categories.items()})
    found = resolve(FAIL_UNDER, limits, {name: figure.unit for name, figure in levels.items()})
    return [check_level(name, levels[name], limit) for name, limit in found.items()]


def check_drops(comparison: Comparison | None, limits: Mapping[str, float]) -> list[Gate]:
    """How far metrics and categories fell against the most they may fall; raise as `resolve`."""
    if comparison is None:
        return []
    changes = unite(comparison.metrics, comparison.categories)
    found = resolve(MAX_DROP, limits, {name: change.difference.unit for name, change in changes.items()})
    return [check_drop(name, changes[name], limit) for name, limit in found.items()]


def check_limits(fail_under: Mapping[str, float], max_drop: Mapping[str, float], units: Mapping[str, Unit]) -> None:
    """Find before a run what would fail after it: `units` are of what it will find; raise as `resolve`."""
    resolve(FAIL_UNDER, fail_under, units)
    # Only the first of several samples is compared.
    resolve(MAX_DROP, max_drop, {name: unit for name, unit in units.items() if not name.startswith(PASS)})


def unite(metrics: Mapping[str, F], categories: Mapping[str, F]) -> dict[str, F]:
    """The metrics, and behind them the categories that are called otherwise."""
    return dict(metrics) | {name: figure for name, figure in categories.items() if name not in metrics}


def resolve(option: str, limits: Mapping[str, float], units: Mapping[str, Unit]) -> dict[str, float]:
    """The limits by the metric or category that each names, of those that have units; the first stands for no name.

    Raises:
        UsageError: there is no such metric or category, or it can never be beyond the limit.
    """
    found: dict[str, float] = {}
    for given, limit in limits.items():
        name = given or next(iter(units))
        if name not in units:
            choices = f"{', '.join(units)}{nearest(name, units)}"
            raise UsageError(f"{option} {name}: no such metric or category here; choose from {choices}")
        if units[name] == "share" and not 0 <= limit <= 100:
            raise UsageError(f"{option} {limit:g}: {name} is a share of entries, in percent; give 0 to 100")
        if option == MAX_DROP and limit < 0:
            raise UsageError(f"{option} {limit:g}: {name} may fall by 0 or more")
        found[name] = limit
    return found


def check_level(name: str, figure: Interval, limit: float) -> Gate:
    """One figure against the lowest it may be."""
    sign = "%" if figure.unit == "share" else ""
    value = round(figure.scale * figure.value, DIGITS)
    passed = value >= round(limit, DIGITS)
    shown, low, high = (spell(figure.scale * bound, figure) for bound in (figure.value, figure.low, figure.high))
    how = "not under" if passed else "under"
    text = f"{name} {shown}{sign} (95% interval {low} to {high}, n {figure.n}) is {how} {limit:g}{sign}"
    return Gate(FAIL_UNDER, name, limit, value, passed, text)


def check_drop(name: str, change: Change, limit: float) -> Gate:
    """One change against the most it may fall."""
    figure, unit = change.difference, " points" if change.difference.unit == "share" else ""
    drop = round(-figure.scale * figure.value, DIGITS) + 0.0
    passed = drop <= round(limit, DIGITS)
    before, now, low, high = (
        spell(figure.scale * value, figure) for value in (change.before, change.now, figure.low, figure.high)
    )
    text = (
        f"{name} went from {before} to {now}, by {spell(-drop, figure, sign='+')}{unit} (95% interval {low} to {high}, "
        f"n {figure.n}), {'within' if passed else 'beyond'} the drop of {limit:g} that is allowed"
    )
    return Gate(MAX_DROP, name, limit, drop, passed, text)


def enforce(where: str, gates: Iterable[Gate]) -> None:
    """Raise `GateFailed`, with the numbers in one line, when a gate is not met."""
    failed = [gate.text for gate in gates if not gate.passed]
    if failed:
        raise GateFailed(f"{where}: {'; '.join(failed)}")
