"""What a benchmark must do, and the records that pass through one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from toolrl_cli.benches.stats import Interval
from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Failure
from toolrl_cli.records import Completion, Json, Outcome, PredictedCall, ToolCall, expect

MAX_DEPTH = 64
"""Deeper arguments belong to no tool; refusing them keeps every later JSON encoder within its recursion limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of a benchmark: what the model sees, and in `payload` what its grading needs."""

    id: str
    category: str
    tools: tuple[Json, ...]
    messages: tuple[Json, ...]
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion that has been read: its calls, or in `error` why they cannot be read."""

    completion: Completion
    calls: tuple[ToolCall, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What follows an answer: messages for the model's next one, and its tools from there on, where they change."""

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a benchmark says of an answer; `error_type` is a short name to count by."""

    correct: bool
    outcome: Outcome | None
    error_type: str | None = None
    error: str | None = None
    score: Json | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A line of results.jsonl: one graded entry; `steps` are all completions of a dialogue.

    `sample` counts an entry's completions from 0, where it is asked for several.
    """

    id: str
    category: str
    correct: bool
    outcome: str | None
    error_type: str | None
    error: str | None
    truncated: bool
    prompt_hash: str
    completion: str | None
    tool_calls: list[Json]
    score: Json | None = None
    steps: list[str] | None = None
    sample: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The key of its prompt."""
        return self.id, self.sample or 0

    @classmethod
    def from_json(cls, raw: object) -> Result:
        """Read a line of results.jsonl; raise `DataError` when it is none."""
        record = expect(raw, dict, "result")
        try:
            return cls(**record)
        except TypeError as error:
            raise DataError("not a result of toolrl eval; use --overwrite") from error

    def to_json(self) -> Json:
        """The record as JSON values; `score`, `steps` and `sample` only where there are any."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in ("score", "steps", "sample")}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a benchmark says of all its results: its headline numbers, its own aggregation, words of caution."""

    metrics: Mapping[str, Interval]
    official: Json | None = None
    notes: tuple[str, ...] = ()


class Bench(Protocol):
    """Questions and how to grade their answers."""

    name: str

    def entries(self) -> list[Entry]:
        """Every question, in the benchmark's order."""
        ...

    def follow(self, entry: Entry, answers: Sequence[Answer]) -> Turn | None:
        """What comes after these answers, None when the entry is done; never raises on what a model wrote."""
        ...

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """Judge the answers of an entry, of which there is one at least; never raises on what a model wrote."""
        ...

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """The headline numbers over all results, in the benchmark's order."""
        ...


class SingleTurn:
    """For benches whose entries end with the first answer."""

    def follow(self, entry: Entry, answers: Sequence[Answer]) -> Turn | None:
        """Nothing."""
        return None


def read_answer(text_format: TextFormat, completion: Completion) -> Answer:
    """Parse a completion's calls; each must name a string and give an object of arguments."""
    try:
        predicted = text_format.parse_tool_calls(completion.text)
        return Answer(completion, tuple(read_call(call) for call in predicted))
    except FormatError as error:
        return Answer(completion, error=str(error))


def read_call(call: PredictedCall) -> ToolCall:
    """The call as a record; raise `FormatError` when name or arguments are of another kind."""
    if not isinstance(call.name, str):
        raise FormatError(f"the name of a call is no string: {repr(call.name)[:80]}")
    if not isinstance(call.arguments, dict):
        raise FormatError(f"the arguments of a call are no object: {repr(call.arguments)[:80]}")
    if is_deeper(call.arguments, MAX_DEPTH):
        raise FormatError(f"arguments are nested deeper than {MAX_DEPTH} levels")
    return ToolCall(call.name, call.arguments)


def is_deeper(value: object, depth: int) -> bool:
    """Whether containers nest more than `depth` levels; walks without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item for v in level for item in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())
        ]
    return bool(level)


def as_missing(verdict: Verdict, failure: Failure | None) -> Verdict:
    """The verdict on an entry that got no completion: wrong, whatever an empty completion would have been."""
    error_type, error = ("missing", "no prediction") if failure is None else ("engine", failure.reason)
    return replace(verdict, correct=False, outcome=None, error_type=error_type, error=error)
