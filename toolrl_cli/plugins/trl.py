"""Reward functions for TRL's GRPOTrainer: one a part, so that each part is a curve of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from toolrl_cli.errors import FormatError
from toolrl_cli.formats import stock_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.plugins.gold import read_gold, read_tools
from toolrl_cli.records import Json, Outcome, Rollout, Score, Target, ToolCall
from toolrl_cli.rewards import Reward, find_reward

RewardFunction = Callable[..., list[float | None]]
CALLED = (Outcome.EXACT, Outcome.PARTIAL, Outcome.WRONG)
"""Outcomes of completions that hold calls, where calls are gold."""
Record = Callable[[Sequence[str], Sequence[Any], Sequence[Rollout], Sequence[Score]], None]


def reward_functions(
    reward: str = "fine-grained",
    *,
    matching: str | None = None,
    settings: Mapping[str, Any] | None = None,
    text_format: str = "toolrl",
) -> list[RewardFunction]:
    """Functions for `GRPOTrainer(reward_funcs=...)`.

    The data set needs a column `target` (a record of `toolrl prepare`, or better its JSON text) or
    `ground_truth` (the gold completion as text), and for rewards that read schemas `tools`.
    Schedules follow the trainer's step. Completions and such a text are in `text_format`.

    Raises:
        ConfigError: as `find_reward` and `stock_format`.
    """
    found = find_reward(reward, matching=matching, settings=settings)
    return BatchScorer(found, text_format=stock_format(text_format).name).functions()


class BatchScorer:
    """Scores each batch once and hands its parts to TRL one by one.

    Args:
        reward: what to score with.
        stop_ids: token ids that end a completion; one that ends otherwise was cut off. None: nothing is known of it.
        record: told the ids, completions as TRL has them, rollouts and scores of each batch.
        text_format: what the completions are written in.
    """

    def __init__(
        self,
        reward: Reward,
        stop_ids: Collection[int] | None = None,
        record: Record | None = None,
        text_format: str = "toolrl",
    ) -> None:
        self._reward = reward
        self._stop_ids = None if stop_ids is None else frozenset(stop_ids)
        self._record = record
        self._text_format = text_format
        self._batch: Sequence[Any] = ()
        self._rollouts: list[Rollout] = []
        self._scores: list[Score] = []

    def functions(self) -> list[RewardFunction]:
        """One TRL reward function for each part of the reward, named after it.

        A part is None where it says nothing about a completion: TRL leaves it out of the part's mean.
        """
        return [self._function(part) for part in self._reward.weights]

    def _function(self, part: str) -> RewardFunction:
        def function(completions: Sequence[Any], **columns: Any) -> list[float | None]:
            if completions is not self._batch:
                self._score(completions, **columns)
            return [
                score.parts[part] if self._reward.applies(part, rollout.target) else None
                for rollout, score in zip(self._rollouts, self._scores, strict=True)
            ]

        function.__name__ = part
        return function

    def _score(self, completions: Sequence[Any], **columns: Any) -> None:
        self._rollouts = list(map(self._read, completions, *self._aligned(len(completions), columns)))
        self._scores = self._reward.score_batch(self._rollouts, explain=self._record is not None)
        self._batch = completions
        if log_metric := columns.get("log_metric"):
            for name, share in self._shares():
                log_metric(name, share)
        if self._record:
            self._record(columns["id"], completions, self._rollouts, self._scores)

    def _shares(self) -> Iterator[tuple[str, float]]:
        """What share of the batch's completions is right, calls, calls unasked, and keeps the format."""
        count = len(self._scores)
        outcomes = Counter(score.outcome for score in self._scores)
        gold = [bool(rollout.target.tool_calls) for rollout in self._rollouts]
        calls = sum(score.outcome in CALLED and asked for score, asked in zip(self._scores, gold, strict=True))
        yield "exact", (outcomes[Outcome.EXACT] + outcomes[Outcome.ABSTAINED]) / count
        yield "call_share", (calls + outcomes[Outcome.SPURIOUS_CALL]) / count
        yield "gold_call_share", sum(gold) / count
        yield "spurious_call_share", outcomes[Outcome.SPURIOUS_CALL] / count
        if found := self._reward.full_format(self._rollouts[0].step):
            part, full = found
            yield "format_share", sum(score.parts[part] == full for score in self._scores) / count

    def _aligned(self, count: int, columns: Mapping[str, Any]) -> tuple[Sequence[Any], ...]:
        """Gold, tools, token ids and step for each completion."""
        nothing = [None] * count
        state = columns.get("trainer_state")
        step = getattr(state, "global_step", 0) or 0
        gold = columns["target"] if "target" in columns else columns["ground_truth"]
        tools = columns.get("tools") if self._reward.reads_tools else None
        return gold, tools or nothing, columns.get("completion_ids") or nothing, [step] * count

    def _read(self, completion: Any, gold: Any, tools: Any, ids: Sequence[int] | None, step: int) -> Rollout:
        cut = self._stop_ids is not None and bool(ids) and ids[-1] not in self._stop_ids  # type: ignore[index]
        target = read_gold(gold, self._text_format)
        return Rollout(text_of(completion, self._text_format), target, cut, step, read_tools(tools), self._text_format)


def text_of(completion: str | Sequence[Json], text_format: str = "toolrl") -> str:
    """The text of a completion: itself, or that of its messages.

    Where TRL's tool loop has run, the messages are a trajectory, and its text is one step with all
    its calls: the first thought, every call in order, and what was said.
    """
    if isinstance(completion, str):
        return completion
    said = [message for message in completion if message["role"] == "assistant"]
    spoken = "\n".join(text for message in said if (text := message.get("content")))
    if not any(message.get("tool_calls") or message.get("reasoning_content") for message in said):
        return spoken
    return write_trajectory(said, spoken, stock_format(text_format))


def write_trajectory(said: Sequence[Json], spoken: str, text_format: TextFormat) -> str:
    """All assistant messages as one step in a text format.

    A call that the chat template's parser has left in the text is malformed, and makes the whole so. A
    format without words for a response beside calls leaves it out.
    """
    thought = next((message["reasoning_content"] for message in said if message.get("reasoning_content")), None)
    functions = [call["function"] for message in said for call in message.get("tool_calls") or ()]
    calls = tuple(ToolCall(function["name"], function.get("arguments") or {}) for function in functions)
    with suppress(FormatError):
        if text_format.parse_tool_calls(spoken):
            return spoken
        with suppress(FormatError):
            return text_format.render_target(Target(thought, calls, spoken or None))
        return text_format.render_target(Target(tool_calls=calls))
    return spoken
