"""What CI asks of a finished evaluation: compare it, gate it, report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toolrl_cli.benches.stats import Unit
from toolrl_cli.errors import UsageError
from toolrl_cli.evaluation.compare import Comparison, compare, comparison_tables, flips_line, refuse_other_bench
from toolrl_cli.evaluation.gates import MAX_DROP, Gate, check_drops, check_levels, check_limits, enforce
from toolrl_cli.evaluation.junit import refuse_other_file, write_junit
from toolrl_cli.evaluation.recorded import Recorded, read_recorded
from toolrl_cli.evaluation.summary import Summary, Table, summary_tables
from toolrl_cli.records import Json


@dataclass(frozen=True)
class ReviewConfig:
    """What an evaluation is held against; limits are by metric or category (see `gates`).

    Raises:
        UsageError: a drop is limited, but there is no baseline; `junit` is a file that is no JUnit report.
    """

    baseline: Path | None = None
    fail_under: Mapping[str, float] = field(default_factory=dict)
    max_drop: Mapping[str, float] = field(default_factory=dict)
    junit: Path | None = None

    def __post_init__(self) -> None:
        if self.max_drop and self.baseline is None:
            raise UsageError(f"{MAX_DROP} compares with an earlier evaluation; give it as --baseline DIR")
        if self.junit is not None:
            refuse_other_file(self.junit)

    def check(self, bench: str, units: Mapping[str, Unit] | None = None, own: Iterable[Path] = ()) -> None:
        """Find before a long run what would fail after it.

        Args:
            bench: what is evaluated on.
            units: of the metrics and categories of its summary.
            own: the files that the run itself will write.

        Raises:
            ConfigError: the baseline is of another bench.
            DataError: the baseline is no finished evaluation.
            UsageError: a limit names what there will not be, or is out of reach; `junit` is one of its `own` files.
        """
        if self.junit is not None and self.junit.resolve() in {path.resolve() for path in own}:
            raise UsageError(f"--junit {self.junit}: a file that the evaluation itself writes; choose another file")
        if units is not None:
            check_limits(self.fail_under, self.max_drop, units)
        if self.baseline is not None:
            refuse_other_bench(bench, read_recorded(self.baseline))


@dataclass(frozen=True)
class Review:
    """A finished evaluation with what was asked of it."""

    folder: Path
    summary: Summary
    comparison: Comparison | None
    gates: tuple[Gate, ...]

    def to_json(self) -> Json:
        """The summary as JSON values, with `comparison` and `gates` where they were asked for."""
        compared = {"comparison": self.comparison.to_json()} if self.comparison else {}
        gated = {"gates": [gate.to_json() for gate in self.gates]} if self.gates else {}
        return {**self.summary.to_json(), **compared, **gated}

    def tables(self) -> list[Table]:
        """Everything as tables for a terminal."""
        return summary_tables(self.summary) + (comparison_tables(self.comparison) if self.comparison else [])

    def lines(self) -> list[str]:
        """What the tables leave out."""
        compared = [flips_line(self.comparison.flips)] if self.comparison else []
        notes = [*self.summary.notes, *(self.comparison.notes if self.comparison else ())]
        return [*compared, *(f"note: {note}" for note in notes), *(f"gate: {gate.text}" for gate in self.gates)]

    def enforce(self) -> None:
        """Raise `GateFailed` when a gate is not met."""
        enforce(str(self.folder), self.gates)


def review(recorded: Recorded, config: ReviewConfig) -> Review:
    """Compare and gate a finished evaluation, and write its JUnit file where one is wanted.

    Raises:
        ConfigError: a limit names what there is not or is out of reach, or the baseline is of another bench.
        DataError: the baseline is no finished evaluation, or has no entry in common.
        SetupError: the JUnit file cannot be written.
    """
    summary = recorded.summary
    if config.junit is not None:
        write_junit(config.junit, summary.bench, recorded.results.values())
    comparison = compare(recorded, read_recorded(config.baseline)) if config.baseline else None
    gates = check_levels(summary, config.fail_under) + check_drops(comparison, config.max_drop)
    return Review(recorded.folder, summary, comparison, tuple(gates))
