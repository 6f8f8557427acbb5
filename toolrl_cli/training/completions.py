"""What GRPO's sampled completions leave on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolrl_cli.jsonl import RecordLog
from toolrl_cli.plugins.trl import Record
from toolrl_cli.records import Json, Rollout, Score
from toolrl_cli.training.launch import gather_rows, rank


def completion_log(path: Path) -> Record:
    """A function that appends the scored completions of all processes to a JSONL file that `toolrl score` reads."""

    def record(
        ids: Sequence[str], completions: Sequence[Any], rollouts: Sequence[Rollout], scores: Sequence[Score]
    ) -> None:
        rows = zip(ids, completions, rollouts, scores, strict=True)
        records = gather_rows([completion_record(*row) for row in rows])
        if rank() == 0:
            with RecordLog(path) as log:
                for each in records:
                    log.append(each)

    return record


def completion_record(id: str, completion: Any, rollout: Rollout, score: Score) -> Json:
    """A row of completions.jsonl: what was generated in which step and text format, the gold and the score.

    `step` counts finished optimizer steps, as the schedules do; tools stand in it where the reward reads them,
    and the messages of a trajectory where tools ran.
    """
    return {
        "id": id,
        "step": rollout.step,
        "text_format": rollout.text_format,
        "completion": rollout.text,
        "truncated": rollout.truncated,
        "target": rollout.target.to_json(),
        **({"tools": list(rollout.tools)} if rollout.tools else {}),
        **({"messages": completion} if isinstance(completion, list) else {}),
        "score": score.to_json(),
    }
