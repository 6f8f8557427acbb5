"""The reward as TRL wants it: one function a part, so that each part is a curve."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from toolrl_cli.jsonl import RecordLog, load_json
from toolrl_cli.records import Json, Outcome, Score, Target
from toolrl_cli.rewards import Reward

RewardFunction = Callable[..., list[float]]


class BatchScorer:
    """Scores each batch once, hands its parts to TRL one by one, and logs the completions.

    Args:
        reward: what to score with.
        completions_path: JSONL file that gets every scored completion, in the form that `toolrl score` reads.
        stop_ids: token ids that end a completion; one that ends otherwise was cut off.
    """

    def __init__(self, reward: Reward, completions_path: Path, stop_ids: Collection[int]) -> None:
        self._reward = reward
        self._path = completions_path
        self._stop_ids = frozenset(stop_ids)
        self._batch: Sequence[Any] = ()
        self._scores: list[Score] = []

    def functions(self) -> list[RewardFunction]:
        """One TRL reward function for each part of the reward, named after it."""
        return [self._function(part) for part in self._reward.parts]

    def _function(self, part: str) -> RewardFunction:
        def function(completions: list[list[Json]], **columns: Any) -> list[float]:
            if completions is not self._batch:
                self._batch, self._scores = completions, self._score(completions, **columns)
            return [score.parts[part] for score in self._scores]

        function.__name__ = part
        return function

    def _score(
        self,
        completions: list[list[Json]],
        *,
        completion_ids: list[list[int]],
        id: list[str],
        target: list[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[Score]:
        texts = [messages[0]["content"] for messages in completions]
        targets = [load_json(gold) for gold in target]
        truncated = [ids[-1] not in self._stop_ids for ids in completion_ids]
        scores = self._reward.score_batch(texts, [Target.from_json(gold) for gold in targets], truncated)
        right = sum(score.outcome in (Outcome.EXACT, Outcome.ABSTAINED) for score in scores)
        log_metric("exact", right / len(scores))
        with RecordLog(self._path) as log:
            for row in zip(id, texts, targets, truncated, scores, strict=True):
                log.append(completion_record(trainer_state.global_step + 1, *row))
        return scores


def completion_record(step: int, id: str, text: str, target: Json, truncated: bool, score: Score) -> Json:
    """A row of completions.jsonl: what was generated in which step, the gold and the score."""
    return {
        "id": id,
        "step": step,
        "completion": text,
        "truncated": truncated,
        "target": target,
        "score": score.to_json(),
    }
