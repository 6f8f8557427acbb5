"""The vocabulary of the program: frozen records that flow from prepare to eval.

Each record knows its JSON form. Reading raises `DataError` that names the field; the reader of
the file adds path and line (see `jsonl`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

from msgspec import Struct
from msgspec import field as json_field

from toolrl_cli.errors import DataError

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool: its name and the decoded JSON arguments."""

    name: str
    arguments: Json

    @classmethod
    def from_json(cls, raw: object) -> ToolCall:
        """Read `{"name": str, "arguments": {...}}`; raise `DataError` otherwise."""
        record = expect(raw, dict, "tool call")
        return cls(
            name=expect(record.get("name"), str, "tool call name"),
            arguments=expect(record.get("arguments"), dict, "tool call arguments"),
        )

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {"name": self.name, "arguments": self.arguments}


class PredictedCall(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A call as a model wrote it: any JSON value may stand where a name and an object belong.

    It is decoded straight from `{"name", "parameters"}`. `extra` says that the object had other
    fields too, so that as a whole it equals no gold call.
    """

    extra: ClassVar[bool] = False

    name: object
    arguments: object = json_field(default=None, name="parameters")


class ExtendedCall(PredictedCall, frozen=True, gc=False):
    """A predicted call with other fields beside `name` and `parameters`."""

    extra: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Target:
    """The assistant step to be learned: a thought, calls, a response, or several of them."""

    thought: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    response: str | None = None

    @classmethod
    def from_json(cls, raw: object) -> Target:
        """Read `{"thought", "tool_calls", "response"}`, at least one of them; raise `DataError` otherwise."""
        record = expect(raw, dict, "target")
        if not record.keys() & {"thought", "tool_calls", "response"}:
            raise DataError("target has no thought, tool_calls or response")
        calls = record.get("tool_calls")
        calls = [] if calls is None else expect(calls, list, "target.tool_calls")
        return cls(
            thought=expect_optional_text(record, "thought"),
            tool_calls=tuple(ToolCall.from_json(call) for call in calls),
            response=expect_optional_text(record, "response"),
        )

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {
            "thought": self.thought,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "response": self.response,
        }


@dataclass(frozen=True, slots=True)
class Example:
    """One step of a dialogue in tool-integrated reasoning: what the model sees and should answer.

    `tools` are OpenAI tool objects (`{"type": "function", "function": {...}}`), `messages` the
    history up to the step, with `tool_calls[].function.arguments` as objects.
    """

    id: str
    source: str
    tools: tuple[Json, ...]
    messages: tuple[Json, ...]
    target: Target
    meta: Json = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: object) -> Example:
        """Read a line of examples.jsonl; raise `DataError` that names the field at fault."""
        record = expect(raw, dict, "example")
        for name in ("id", "tools", "messages", "target"):
            if name not in record:
                raise DataError(f'no "{name}" field; run toolrl prepare first')
        tools, messages = (expect_each(record[name], dict, name) for name in ("tools", "messages"))
        for i, tool in enumerate(tools):
            function = expect(tool.get("function"), dict, f"tools[{i}].function")
            expect(function.get("name"), str, f"tools[{i}].function.name")
        for i, message in enumerate(messages):
            expect(message.get("role"), str, f"messages[{i}].role")
        return cls(
            id=expect(record["id"], str, "id"),
            source=expect(record.get("source", "examples"), str, "source"),
            tools=tuple(tools),
            messages=tuple(messages),
            target=Target.from_json(record["target"]),
            meta=expect(record.get("meta") or {}, dict, "meta"),
        )

    def to_json(self) -> Json:
        """The record as JSON values, in the order of the documentation."""
        return {
            "id": self.id,
            "source": self.source,
            "tools": list(self.tools),
            "messages": list(self.messages),
            "target": self.target.to_json(),
            "meta": self.meta,
        }


class Outcome(StrEnum):
    """What became of a completion; never one boolean."""

    EXACT = "exact"
    PARTIAL = "partial"
    WRONG = "wrong"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    NO_CALL = "no_call"
    SPURIOUS_CALL = "spurious_call"
    ABSTAINED = "abstained"


class Rollout(NamedTuple):
    """What a reward looks at: a completion, its gold, and where it comes from.

    `truncated` says that the text ran into the token limit, `step` is the training step that
    schedules read, `tools` are the example's, for rewards that compare values by their schemas.
    `text_format` is the name of the format that the text is in, `fields` are all of the row, which
    rewards that a user wrote may read.
    """

    text: str
    target: Target
    truncated: bool = False
    step: int = 0
    tools: tuple[Json, ...] = ()
    text_format: str = "toolrl"
    fields: Mapping[str, Any] = MappingProxyType({})


class Score(Struct, frozen=True, gc=False):
    """A reward with its parts, what became of the completion, and reasons a person can act on.

    A part is None where a user's reward function says nothing about the completion.
    """

    total: float
    parts: Mapping[str, float | None]
    outcome: Outcome
    reasons: tuple[str, ...] = ()

    @property
    def succeeds(self) -> bool:
        """Whether the step was done right: the exact calls, or none where none is gold."""
        return self.outcome in (Outcome.EXACT, Outcome.ABSTAINED)

    def to_json(self) -> Json:
        """The record as JSON values: `{"total", <part>..., "outcome", "reasons"}`."""
        return {"total": self.total, **self.parts, "outcome": self.outcome.value, "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine generated for one prompt; `truncated` when it ran into the token limit.

    `unset` names the sampling parameters that the server would not take, so that its own values ruled.
    """

    text: str
    truncated: bool = False
    unset: tuple[str, ...] = ()


def scored_total(raw: object) -> tuple[str, float]:
    """The id and the total of a row that `toolrl score -o` wrote; raise `DataError` when it has no score."""
    row = expect(raw, dict, "row")
    score = expect(row.get("score"), dict, 'the "score" of a row (toolrl score -o writes it)')
    total = score.get("total")
    if isinstance(total, bool) or not isinstance(total, int | float):
        raise DataError("score.total must be a number")
    return str(row.get("id")), float(total)


def expect(value: object, kind: type[T], name: str) -> T:
    """`value` when it is a `kind`; else raise `DataError` that names the field."""
    if not isinstance(value, kind):
        raise DataError(f"{name} must be {JSON_NAMES[kind]}, not {JSON_NAMES.get(type(value), 'null')}")
    return value


def expect_each(values: object, kind: type[T], name: str) -> list[T]:
    """`values` when it is a list of `kind`; else raise `DataError` that names the element."""
    return [expect(value, kind, f"{name}[{i}]") for i, value in enumerate(expect(values, list, name))]


def expect_optional_text(record: Json, name: str) -> str | None:
    """The text field `name`, None when absent or null; else raise `DataError`."""
    value = record.get(name)
    return None if value is None else expect(value, str, name)


JSON_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
