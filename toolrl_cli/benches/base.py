"""What a benchmark must do, and the records that pass through one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from toolrl_cli.benches.stats import Interval, Unit
from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.records import Completion, Json, Outcome, PredictedCall, ToolCall, expect

MAX_DEPTH = 64
"""Deeper arguments belong to no tool; refusing them keeps every later JSON encoder within its recursion limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of a benchmark: what the model sees, and in `payload` what its grading needs.

    `prompt` are the messages that the model is given as they are, where the text format is not to word them.
    `turns` is how often the user speaks in a dialogue, 0 where the first answer ends the entry.
    """

    id: str
    category: str
    tools: tuple[Json, ...]
    messages: tuple[Json, ...]
    payload: Any = None
    prompt: tuple[Json, ...] | None = None
    turns: int = 0


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
    """What a benchmark says of an answer; `error_type` is a short name to count by.

    `failure` is one of `failures.FailureKind`, where the benchmark knows better than outcome and error type tell.
    """

    correct: bool
    outcome: Outcome | None
    error_type: str | None = None
    error: str | None = None
    score: Json | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A line of results.jsonl: one graded entry; `steps` are all completions of a dialogue, `failure` is a kind.

    `sample` counts an entry's completions from 0, where it is asked for several; `unset` names the sampling
    parameters that the server would not take.
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
    failure: str | None = None
    sample: int | None = None
    unset: list[str] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The key of its prompt."""
        return self.id, self.sample or 0

    @property
    def reason(self) -> str:
        """Why it is wrong, in words: what the checker says, or else the reward."""
        return self.error or "; ".join((self.score or {}).get("reasons", ()))

    @classmethod
    def from_json(cls, raw: object) -> Result:
        """Read a line of results.jsonl; raise `DataError` when it is none."""
        record = expect(raw, dict, "result")
        try:
            return cls(**record)
        except TypeError as error:
            raise DataError("not a result of toolrl eval; use --overwrite") from error

    def to_json(self) -> Json:
        """The record as JSON values; `score`, `steps`, `sample` and `unset` only where there are any."""
        return {
            k: v for k, v in asdict(self).items() if v is not None or k not in ("score", "steps", "sample", "unset")
        }


@dataclass(frozen=True, slots=True)
class Findings:
    """What a benchmark says of all its results: its headline numbers, its own aggregation, words of caution.

    The first of the `metrics` is the share of correct entries. A metric that is a weighted sum of the
    accuracies of categories has its weights in `weights`, so that it can be compared and resampled.
    """

    metrics: Mapping[str, Interval]
    official: Json | None = None
    notes: tuple[str, ...] = ()
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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


class BenchConfig(Protocol):
    """What a bench may read of the configuration of an evaluation; `EvalConfig` says what each means."""

    @property
    def data(self) -> Path | None: ...
    @property
    def reward(self) -> str: ...
    @property
    def categories(self) -> tuple[str, ...]: ...
    @property
    def bfcl_wheel(self) -> Path | None: ...
    @property
    def own_prompt(self) -> bool: ...
    @property
    def search(self) -> str | None: ...
    @property
    def record(self) -> Path | None: ...
    @property
    def judge(self) -> str | None: ...


def accept(config: BenchConfig) -> None:
    """Refuse nothing."""


def hash_nothing(config: BenchConfig) -> dict[str, str]:
    """No hashes."""
    return {}


@dataclass(frozen=True)
class BenchKind:
    """A benchmark as `--bench` knows it; one that a module of this package holds is found by its name.

    `open` gives the bench, ready for use inside its block. `options` are the fields of the configuration that only
    some benches read, this one among them; one with `data` cannot do without. `check` raises `UsageError` for
    values that contradict each other, `hashes` are those of what the bench brings along, for the manifest.
    """

    name: str
    open: Callable[[BenchConfig, TextFormat], AbstractContextManager[Bench]]
    options: frozenset[str] = frozenset()
    check: Callable[[BenchConfig], None] = accept
    hashes: Callable[[BenchConfig], dict[str, str]] = hash_nothing


def data_of(config: BenchConfig) -> Path:
    """The file or folder of `--data`, for a bench that reads one."""
    assert config.data is not None
    return config.data


@runtime_checkable
class ShowsGold(Protocol):
    """A bench that can say what the right answer of an entry is."""

    def gold(self, entry: Entry) -> str:
        """The right answer, worded for a person."""
        ...


@runtime_checkable
class Replays(Protocol):
    """A bench whose tools answer the same calls alike and at no cost, so that a dialogue can be shown with them."""

    def replay(self, entry: Entry, answers: Sequence[Answer]) -> list[tuple[Json, ...]]:
        """The messages that came behind each answer but the last."""
        ...


@runtime_checkable
class ForeseesMetrics(Protocol):
    """A bench that can say before a run which metrics its summary will have, so that limits are checked in time."""

    def foresee(self, categories: Sequence[str]) -> dict[str, Unit]:
        """The unit of each metric over entries of these categories, in the order of `summarize`."""
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


def as_missing(verdict: Verdict, error_type: str, error: str) -> Verdict:
    """The verdict on an entry that got no completion: wrong, whatever an empty completion would have been."""
    return replace(verdict, correct=False, outcome=None, error_type=error_type, error=error)


def explain_missing(entry: Entry, answers: Sequence[Answer]) -> str:
    """What is there, and what is wanted, where a prediction gives only these answers to an entry."""
    if not answers:
        return "no prediction"
    ended = sum(not answer.calls for answer in answers)
    where = f"in turn {ended + 1}" if answers[-1].calls else f"before turn {ended + 1}"
    given = "1 answer" if len(answers) == 1 else f"{len(answers)} answers"
    return f'the prediction ends after {given}, {where} of {entry.turns}; a dialogue needs "turns", one for each'
