"""What GRPO's sampled completions leave on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from toolrl_cli.jsonl import RecordLog
from toolrl_cli.records import Json, Rollout, Score
from toolrl_cli.training.launch import gather_rows, rank


class Sampled(NamedTuple):
    """A scored completion of an example, as text or messages; `dropped` when its group was not trained on."""

    id: str
    completion: Any
    rollout: Rollout
    score: Score
    dropped: bool = False


Sink = Callable[[Sequence[Sampled]], None]


class Recorder:
    """Passes what the reward scored on to sinks, unless somebody took it aside."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._aside: list[Sampled] | None = None

    def __call__(
        self, ids: Sequence[str], completions: Sequence[Any], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> None:
        """Take a scored batch."""
        rows = list(map(Sampled, ids, completions, rollouts, scores))
        if self._aside is None:
            self.pass_on(rows)
        else:
            self._aside += rows

    def pass_on(self, rows: Sequence[Sampled]) -> None:
        """Hand rows to every sink."""
        for sink in self._sinks:
            sink(rows)

    @contextmanager
    def aside(self) -> Iterator[list[Sampled]]:
        """Collect what is scored in the block in a list that no sink sees."""
        rows: list[Sampled] = []
        self._aside = rows
        try:
            yield rows
        finally:
            self._aside = None


def completion_log(path: Path) -> Sink:
    """A function that appends the scored completions of all processes to a JSONL file that `toolrl score` reads."""

    def record(rows: Sequence[Sampled]) -> None:
        records = gather_rows([completion_record(row) for row in rows])
        if rank() == 0:
            with RecordLog(path) as log:
                for each in records:
                    log.append(each)

    return record


def completion_record(row: Sampled) -> Json:
    """A row of completions.jsonl: what was generated in which step and text format, the gold and the score.

    `step` counts finished optimizer steps, as the schedules do; tools stand in it where the reward reads them,
    the messages of a trajectory where tools ran, and `dropped` where it is true.
    """
    rollout = row.rollout
    return {
        "id": row.id,
        "step": rollout.step,
        "text_format": rollout.text_format,
        "completion": rollout.text,
        "truncated": rollout.truncated,
        "target": rollout.target.to_json(),
        **({"tools": list(rollout.tools)} if rollout.tools else {}),
        **({"trajectory": row.completion} if isinstance(row.completion, list) else {}),
        "score": row.score.to_json(),
        **({"dropped": True} if row.dropped else {}),
    }
