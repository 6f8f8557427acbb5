"""What became of the rows: counts by source and reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from toolrl_cli.records import Json


@dataclass(frozen=True, slots=True)
class Reject:
    """A row, or a part of one, that gave no example, and why; `kind` is the reason without its details."""

    path: str
    line: int
    source: str
    kind: str
    reason: str
    row: Any

    def to_json(self) -> Json:
        """The record as JSON values; `row` is text where it could not be decoded."""
        return {
            "path": self.path,
            "line": self.line,
            "source": self.source,
            "reason": self.reason,
            "row": self.row,
        }


@dataclass(slots=True)
class SourceCounts:
    """What became of the rows of one source; the counters are by kind of reason."""

    rows: int = 0
    examples: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_json(cls, raw: Json) -> SourceCounts:
        """The counts that `to_json` gave."""
        counters = [Counter[str](raw[name]) for name in ("reasons", "repairs", "warnings")]
        return cls(raw["rows"], raw["examples"], *counters)

    def to_json(self) -> Json:
        """The counts as JSON values, the most frequent reason first."""
        rejected = self.rejected.total()
        return {
            "rows": self.rows,
            "converted": self.rows - rejected,
            "examples": self.examples,
            "rejected": rejected,
            "reasons": dict(self.rejected.most_common()),
            "repairs": dict(self.repaired.most_common()),
            "warnings": dict(self.flagged.most_common()),
        }

    def add(self, other: SourceCounts) -> None:
        """Add the counts of other rows of this source."""
        self.rows += other.rows
        self.examples += other.examples
        self.rejected += other.rejected
        self.repaired += other.repaired
        self.flagged += other.flagged


@dataclass(slots=True)
class Summary:
    """The counts of a run, filled while rows pass; every row read is converted or rejected.

    `dropped` are examples that were converted and not chosen, by reason.
    """

    output: str
    written: int = 0
    rejects: str | None = None
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    splits: dict[str, int] = field(default_factory=dict)
    notes: Json = field(default_factory=dict)
    seconds: float = 0.0

    def of(self, source: str) -> SourceCounts:
        """The counts of a source."""
        return self.sources.setdefault(source, SourceCounts())

    def to_json(self) -> Json:
        """The totals and, below them, each source; `examples` are those written to the output."""
        sources = {name: counts.to_json() for name, counts in self.sources.items()}
        totals = {name: sum(counts[name] for counts in sources.values()) for name in ("rows", "converted", "rejected")}
        chosen = {"changed": dict(self.changed), "dropped": dict(self.dropped), "splits": self.splits, **self.notes}
        return {
            **totals,
            "examples": self.written,
            "output": self.output,
            "rejects": self.rejects,
            **{name: value for name, value in chosen.items() if value},
            "sources": sources,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(totals["rows"] / self.seconds) if self.seconds else None,
        }

    @property
    def rejected_line(self) -> str | None:
        """How many rows were rejected and where they are, None when none was."""
        totals = self.to_json()
        where = f", see {self.rejects}" if self.rejects else ""
        return f"{totals['rejected']} of {totals['rows']} rows rejected{where}" if totals["rejected"] else None

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for a terminal: what became of the rows of each source, and of all."""
        columns = ["rows", "converted", "rejected", "examples"]
        totals = self.to_json()
        converted = sum(counts.examples for counts in self.sources.values())
        counted = {**totals["sources"], "total": {**totals, "examples": converted}}
        return ["source", *columns], [[name, *(str(c[column]) for column in columns)] for name, c in counted.items()]

    def lines(self) -> list[str]:
        """A line for each reason of rejects, repair, warning and change, with its count, and the lengths of prompts."""
        lines = []
        for name, counts in self.sources.items():
            lines += count_lines(f"{name}: ", counts.rejected.most_common())
            lines += count_lines(f"{name}: ", counts.repaired.most_common(), " (repaired)")
            lines += count_lines(f"{name}: ", counts.flagged.most_common(), " (kept, with a warning)")
        lines += count_lines("changed: ", self.changed.most_common())
        lines += count_lines("dropped: ", self.dropped.most_common())
        lines += count_lines("written to ", self.splits.items())
        lengths = "  ".join(f"{name} {count}" for name, count in self.notes.get("prompt_tokens", {}).items())
        return [*lines, f"prompt tokens: {lengths}"] if lengths else lines


def count_lines(start: str, counts: Iterable[tuple[str, int]], end: str = "") -> list[str]:
    """`name  count`, a line each."""
    return [f"{start}{name}{end}  {count}" for name, count in counts]
