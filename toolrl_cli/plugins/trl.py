"""Reward functions for TRL's GRPOTrainer: one a part, so that each part is a curve of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from functools import wraps
from typing import Any

from toolrl_cli.errors import FormatError
from toolrl_cli.formats import stock_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import load_json
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

    Returns: a function for each part, which gives the part times its weight, so that TRL's sum is the total.

    Raises:
        ConfigError: as `find_reward` and `stock_format`.
    """
    found = find_reward(reward, matching=matching, settings=settings)
    functions = BatchScorer(found, text_format=stock_format(text_format).name).functions()
    return [weigh(function, weight) for function, weight in zip(functions, found.weights.values(), strict=True)]


def weigh(function: RewardFunction, weight: float) -> RewardFunction:
    """The function with every value times a weight."""

    @wraps(function)
    def weighted(*args: Any, **columns: Any) -> list[float | None]:
        return [None if value is None else weight * value for value in function(*args, **columns)]

    return weighted


class BatchScorer:
    """Scores each batch once and hands its parts to TRL one by one; a batch is new when anything in it is.

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
        self._batch: tuple[Sequence[Any], list[Json], int] = ((), [], 0)
        self._rollouts: list[Rollout] = []
        self._scores: list[Score] = []

    def functions(self) -> list[RewardFunction]:
        """One TRL reward function for each part of the reward, named after it.

        A part is None where it says nothing about a completion: TRL leaves it out of the part's mean.
        """
        return [self._function(part) for part in self._reward.weights]

    def _function(self, part: str) -> RewardFunction:
        def function(completions: Sequence[Any], **columns: Any) -> list[float | None]:
            step = getattr(columns.get("trainer_state"), "global_step", 0) or 0
            batch = completions, split_columns(completions, columns), step
            if completions is not self._batch[0] or batch != self._batch:
                self._score(*batch)
                self._batch = batch
                self._tell(completions, columns)
            return [
                score.parts[part] if self._reward.applies(part, rollout.target) else None
                for rollout, score in zip(self._rollouts, self._scores, strict=True)
            ]

        function.__name__ = part
        return function

    def _score(self, completions: Sequence[Any], rows: Sequence[Json], step: int) -> None:
        rollouts = [self._read(completion, row, step) for completion, row in zip(completions, rows, strict=True)]
        self._scores = self._reward.score_batch(rollouts, explain=self._record is not None)
        self._rollouts = rollouts

    def _tell(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> None:
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

    def _read(self, completion: Any, row: Json, step: int) -> Rollout:
        ids = row.get("completion_ids")
        cut = self._stop_ids is not None and bool(ids) and ids[-1] not in self._stop_ids  # type: ignore[index]
        target = read_gold(row["target"] if "target" in row else row["ground_truth"], self._text_format)
        tools = read_tools(row.get("tools")) if self._reward.reads_tools else ()
        text = text_of(completion, self._text_format)
        return Rollout(text, target, cut, step, tools, self._text_format, row)


def split_columns(completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Json]:
    """The row of each completion: itself, its prompt, and its value in every column that has one for each."""
    aligned = {
        "prompt" if name == "prompts" else name: values
        for name, values in columns.items()
        if isinstance(values, Sized) and not isinstance(values, (str, Mapping)) and len(values) == len(completions)
    }
    names = ("completion", *aligned)
    return [dict(zip(names, row, strict=True)) for row in zip(completions, *aligned.values(), strict=True)]


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


def read_arguments(arguments: Any) -> Any:
    """The arguments of a call from a record or its JSON text; what is neither stays, and is no object to a reward."""
    with suppress(ValueError):
        return load_json(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    return arguments


def write_trajectory(said: Sequence[Json], spoken: str, text_format: TextFormat) -> str:
    """All assistant messages as one step in a text format.

    A call that the chat template's parser has left in the text is malformed, and makes the whole so. A
    format without words for a response beside calls leaves it out.
    """
    thought = next((message["reasoning_content"] for message in said if message.get("reasoning_content")), None)
    functions = [call["function"] for message in said for call in message.get("tool_calls") or ()]
    calls = tuple(ToolCall(function["name"], read_arguments(function.get("arguments"))) for function in functions)
    with suppress(FormatError):
        if text_format.parse_tool_calls(spoken):
            return spoken
        with suppress(FormatError):
            return text_format.render_target(Target(thought, calls, spoken or None))
        return text_format.render_target(Target(tool_calls=calls))
    return spoken
