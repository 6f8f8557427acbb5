"""Limits that an evaluation must keep, for CI: `--fail-under` and `--max-drop`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from toolrl_cli.benches.stats import Interval
from toolrl_cli.errors import ConfigError, GateFailed, nearest
from toolrl_cli.evaluation.compare import Change, Comparison
from toolrl_cli.evaluation.summary import Summary
from toolrl_cli.limits import read_limits
from toolrl_cli.records import Json

FAIL_UNDER, MAX_DROP = "--fail-under", "--max-drop"
HEADLINE = ""
"""The name of a limit that was given without one: the first metric."""
DIGITS = 9
"""Numbers are rounded to these before they are compared, so that 41% less 40% is no more than one point."""


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
    """The limits of an option by metric or category; raise `ConfigError` for what is no limit."""
    return read_limits(option, texts, default=HEADLINE, kind="metric")


def check_levels(summary: Summary, limits: Mapping[str, float]) -> list[Gate]:
    """Metrics and categories against the lowest values they may have; raise `ConfigError` for an unknown name."""
    levels = {name: tally.accuracy for name, tally in summary.categories.items()} | dict(summary.metrics)
    found = [(resolve(name, FAIL_UNDER, summary, levels), limit) for name, limit in limits.items()]
    return [check_level(name, levels[name], limit) for name, limit in found]


def check_drops(summary: Summary, comparison: Comparison | None, limits: Mapping[str, float]) -> list[Gate]:
    """How far metrics and categories fell against the most they may fall; raise `ConfigError` for an unknown name."""
    if comparison is None:
        return []
    changes = {**comparison.categories, **comparison.metrics}
    found = [(resolve(name, MAX_DROP, summary, changes), limit) for name, limit in limits.items()]
    return [check_drop(name, changes[name], limit) for name, limit in found]


def resolve(name: str, option: str, summary: Summary, known: Mapping[str, object]) -> str:
    """The metric or category that a limit names; raise `ConfigError` when there is none."""
    resolved = name or next(iter(summary.metrics))
    if resolved in known:
        return resolved
    names = [*(n for n in summary.metrics if n in known), *(n for n in summary.categories if n in known)]
    choices = f"{', '.join(names)}{nearest(resolved, names)}"
    raise ConfigError(f"{option} {resolved}: no such metric or category here; choose from {choices}")


def check_level(name: str, figure: Interval, limit: float) -> Gate:
    """One figure against the lowest it may be."""
    sign = "%" if figure.unit == "share" else ""
    value = round(figure.scale * figure.value, DIGITS)
    passed = value >= limit
    shown, low, high = (spell(figure.scale * bound, figure) for bound in (figure.value, figure.low, figure.high))
    how = "not under" if passed else "under"
    text = f"{name} {shown}{sign} (95% interval {low} to {high}, n {figure.n}) is {how} {limit:g}{sign}"
    return Gate(FAIL_UNDER, name, limit, value, passed, text)


def check_drop(name: str, change: Change, limit: float) -> Gate:
    """One change against the most it may fall."""
    figure, unit = change.difference, " points" if change.difference.unit == "share" else ""
    drop = round(-figure.scale * figure.value, DIGITS) + 0.0
    passed = drop <= limit
    before, now, low, high = (
        spell(figure.scale * value, figure) for value in (change.before, change.now, figure.low, figure.high)
    )
    text = (
        f"{name} went from {before} to {now}, by {spell(-drop, figure, sign='+')}{unit} (95% interval {low} to {high}, "
        f"{figure.n} pairs), {'within' if passed else 'beyond'} the drop of {limit:g} that is allowed"
    )
    return Gate(MAX_DROP, name, limit, drop, passed, text)


def spell(value: float, figure: Interval, *, sign: str = "") -> str:
    """A number with the digits of its kind."""
    return format(value, f"{sign}.{2 if figure.unit == 'share' else 4}f")


def enforce(where: str, gates: Iterable[Gate]) -> None:
    """Raise `GateFailed`, with the numbers in one line, when a gate is not met."""
    failed = [gate.text for gate in gates if not gate.passed]
    if failed:
        raise GateFailed(f"{where}: {'; '.join(failed)}")
