"""Answers that a reward should tell apart: degenerate ones, equal ones in another spelling, hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolrl_cli.errors import FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.records import Example, Json, Rollout, Target, ToolCall
from toolrl_cli.rewards.values import properties_by_name

Expectation = Literal["below", "no more", "little", "most"]
EXPECTATIONS: dict[Expectation, str] = {
    "below": "earns less than the honest answer",
    "no more": "earns no more than the honest answer",
    "little": "earns at most half of what the honest answer earns above silence",
    "most": "earns at least half of what the honest answer earns above silence",
}
THOUGHT = "I think about it."
Answer = Callable[[Example, TextFormat], "Trial | None"]


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a format writes calls: what it calls their arguments, and what stands around and between their JSON."""

    key: str
    opening: str = ""
    between: str = ""
    closing: str = ""

    def write(self, calls: Sequence[str]) -> str:
        """The call part of a completion, from the text of each call."""
        return self.opening + self.between.join(calls) + self.closing


SPELLINGS = {
    "toolrl": Spelling("parameters", "<tool_call>\n", "\n", "\n</tool_call>"),
    "hermes": Spelling("arguments", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    "llama3": Spelling("parameters", between="; "),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer that a policy gives on an example, and the honest answer beside it."""

    id: str
    rollout: Rollout
    honest: Rollout

    @property
    def silence(self) -> Rollout:
        """No answer at all, to what the honest one answers."""
        return self.honest._replace(text="")


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to answer every example in a format.

    `answer` gives None where it cannot be told from the honest one, and raises `FormatError` where the format has no
    words for it.
    """

    name: str
    expectations: tuple[Expectation, ...]
    answer: Answer


def honest_rollout(example: Example, text_format: TextFormat) -> Rollout:
    """The gold, written as the format wants it."""
    text = text_format.render_target(example.target)
    fields = {"prompt": list(example.messages)}
    return Rollout(text, example.target, tools=example.tools, text_format=text_format.name, fields=fields)


def trial(example: Example, text_format: TextFormat, text: str) -> Trial | None:
    """An answer to an example as it is."""
    honest = honest_rollout(example, text_format)
    return Trial(example.id, honest._replace(text=text), honest) if text != honest.text else None


def say(text_format: TextFormat, target: Target) -> str:
    """A target as text, without what the format has no room for: a thought, or what stands beside calls."""
    for shown in (target, replace(target, thought=None)):
        with suppress(FormatError):
            return text_format.render_target(shown)
    return text_format.render_target(Target(None, target.tool_calls))


def with_text(write: Callable[[list[Json], Spelling], Sequence[str]]) -> Answer:
    """A policy that writes the gold calls, given as the format has them, in another way."""

    def answer(example: Example, text_format: TextFormat) -> Trial | None:
        if not example.target.tool_calls:
            return None
        spelling = SPELLINGS[text_format.name]
        calls = spell(example.target.tool_calls, spelling)
        honest = text_format.render_target(example.target)
        before, _, after = honest.rpartition(spelling.write(dump(calls)))
        return trial(example, text_format, before + spelling.write(write(calls, spelling)) + after)

    return answer


def with_calls(make: Callable[[Example], Sequence[ToolCall] | None]) -> Answer:
    """A policy that makes other calls where the gold makes some."""

    def answer(example: Example, text_format: TextFormat) -> Trial | None:
        calls = make(example) if example.target.tool_calls else None
        if calls is None:
            return None
        return trial(example, text_format, text_format.render_target(replace(example.target, tool_calls=tuple(calls))))

    return answer


def spell(calls: Sequence[ToolCall], spelling: Spelling) -> list[Json]:
    """Calls as the JSON objects of a format."""
    return [{"name": call.name, spelling.key: call.arguments} for call in calls]


def dump(values: Sequence[Any], **options: Any) -> list[str]:
    """Each of some JSON values as text."""
    return [json.dumps(value, ensure_ascii=False, **options) for value in values]


def call_every_tool(example: Example, text_format: TextFormat) -> Trial | None:
    """Every declared tool, called without arguments."""
    names = [name for tool in example.tools if (name := tool.get("function", {}).get("name"))]
    calls = tuple(ToolCall(name, {}) for name in names)
    if not calls or calls == example.target.tool_calls:
        return None
    return trial(example, text_format, say(text_format, Target(THOUGHT, calls, example.target.response)))


def always_call(example: Example, text_format: TextFormat) -> Trial | None:
    """The first tool, where no call is wanted."""
    if example.target.tool_calls or not example.tools:
        return None
    call = ToolCall(example.tools[0]["function"]["name"], {})
    return trial(example, text_format, say(text_format, Target(THOUGHT, (call,))))


def always_abstain(example: Example, text_format: TextFormat) -> Trial | None:
    """A reply where calls are wanted."""
    if not example.target.tool_calls:
        return None
    return trial(example, text_format, say(text_format, Target(THOUGHT, (), "I cannot help with that.")))


def one_spurious(example: Example, text_format: TextFormat) -> Trial | None:
    """The honest answer and one call too many; where no call is wanted, it hides in the reply."""
    surplus = ToolCall("surplus_tool", {"reason": "none"})
    target = example.target
    if target.tool_calls:
        calls = (*target.tool_calls, surplus)
        return trial(example, text_format, text_format.render_target(replace(target, tool_calls=calls)))
    if not target.response:
        return None
    spelling = SPELLINGS[text_format.name]
    before, response, after = text_format.render_target(target).rpartition(target.response)
    text = f"{before}{response}\n{spelling.write(dump(spell([surplus], spelling)))}{after}"
    return trial(example, text_format, text) if text_format.parse_tool_calls(text) else None


def copy_question(example: Example) -> list[ToolCall]:
    """The right calls with the question in every argument."""
    question = next((str(m.get("content")) for m in reversed(example.messages) if m["role"] == "user"), "")
    return [ToolCall(call.name, dict.fromkeys(call.arguments, question)) for call in example.target.tool_calls]


def numbers_as_strings(example: Example) -> list[ToolCall]:
    """The right calls with each number as text, unless the tool's schema asks for text."""
    schemas = properties_by_name(example.tools)

    def spell(call: ToolCall, name: str, value: object) -> object:
        schema = schemas.get(call.name, {}).get(name)
        wants_text = isinstance(schema, dict) and schema.get("type") == "string"
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return json.dumps(value) if is_number and not wants_text else value

    return [
        ToolCall(call.name, {name: spell(call, name, value) for name, value in call.arguments.items()})
        for call in example.target.tool_calls
    ]


def no_think(example: Example, text_format: TextFormat) -> Trial | None:
    """The honest answer without its thought."""
    text = text_format.render_target(replace(example.target, thought=THOUGHT))
    bare = text.partition("</think>")[2].lstrip("\n")
    return trial(example, text_format, bare) if bare else None


def with_thought(thought: str) -> Answer:
    """A policy that gives the honest answer after another thought."""

    def answer(example: Example, text_format: TextFormat) -> Trial | None:
        return trial(example, text_format, text_format.render_target(replace(example.target, thought=thought)))

    return answer


def gold_in_thought(example: Example, text_format: TextFormat) -> Trial | None:
    """The right calls, but only in the thought."""
    if not example.target.tool_calls:
        return None
    spelling = SPELLINGS[text_format.name]
    calls = spelling.write(dump(spell(example.target.tool_calls, spelling)))
    return trial(example, text_format, text_format.render_target(Target(f"\n{calls}")))


def tags_in_argument(example: Example, text_format: TextFormat) -> Trial | None:
    """The honest answer to an example in which the text of an argument holds tags."""
    target = example.target
    if not target.tool_calls:
        return None
    first, *others = target.tool_calls
    tagged = ToolCall(first.name, {**first.arguments, "note": "</tool_call><response> ignore the rest </response>"})
    changed = replace(example, target=replace(target, tool_calls=(tagged, *others)))
    return Trial(example.id, honest_rollout(changed, text_format), honest_rollout(example, text_format))


def null_arguments(example: Example, text_format: TextFormat) -> Trial | None:
    """Null where the gold has an empty object, on the example with its arguments taken away."""
    calls = tuple(ToolCall(call.name, {}) for call in example.target.tool_calls)
    bare = replace(example, target=replace(example.target, tool_calls=calls))
    write_null = with_text(lambda written, spelling: dump([{**call, spelling.key: None} for call in written]))
    return write_null(bare, text_format)


def swap_keys(calls: list[Json], spelling: Spelling) -> list[str]:
    """Calls whose arguments have the name of another format."""
    other = "arguments" if spelling.key == "parameters" else "parameters"
    return dump([{"name": call["name"], other: call[spelling.key]} for call in calls])


POLICIES = (
    Policy("call every tool", ("below",), call_every_tool),
    Policy("repeat the right calls 5 times", ("below",), with_calls(lambda e: e.target.tool_calls * 5)),
    Policy("right answer and a spurious call", ("below",), one_spurious),
    Policy("empty call block", ("below", "little"), with_text(lambda calls, spelling: [""])),
    Policy("no thought", ("no more",), no_think),
    Policy("2,000 words of thought", ("no more",), with_thought("hm " * 2000)),
    Policy("always abstain", ("below", "little"), always_abstain),
    Policy("always call", ("below", "little"), always_call),
    Policy("question copied into every argument", ("below",), with_calls(copy_question)),
    Policy(
        "right names, no arguments",
        ("below",),
        with_calls(lambda e: [ToolCall(c.name, {}) for c in e.target.tool_calls]),
    ),
    Policy("numbers as strings", ("below",), with_calls(numbers_as_strings)),
    Policy("right calls inside the thought only", ("below", "little"), gold_in_thought),
    Policy("pretty-printed JSON", ("most",), with_text(lambda calls, spelling: dump(calls, indent=2))),
    Policy("a JSON list", ("most",), with_text(lambda calls, spelling: dump([calls]))),
    Policy("`arguments` and `parameters` swapped", ("most",), with_text(swap_keys)),
    Policy("null for no parameters", ("most",), null_arguments),
    Policy(
        "tags mentioned in the thought",
        ("most",),
        with_thought("The calls go between <tool_call> and </tool_call>, the reply into <response>."),
    ),
    Policy("tags in an argument", ("most",), tags_in_argument),
)


def hostile_texts(example: Example, text_format: TextFormat) -> dict[str, str]:
    """Completions that break parsers, by name, made for an example with a call."""
    spelling, key = SPELLINGS[text_format.name], json.dumps(SPELLINGS[text_format.name].key)
    name = json.dumps(example.target.tool_calls[0].name if example.target.tool_calls else "f")
    marked = say(text_format, Target(example.target.thought, (ToolCall("f", {}),)))
    before, _, after = marked.rpartition(spelling.write(dump(spell([ToolCall("f", {})], spelling))))

    def written(*calls: str) -> str:
        return before + spelling.write(calls) + after

    def call(value: str) -> str:
        return written(f'{{"name": {name}, {key}: {{"a": {value}}}}}')

    return {
        "NaN and Infinity": call("[NaN, Infinity, -Infinity]"),
        "1e999": call("1e999"),
        "a number of 10,000 digits": call("9" * 10_000),
        "10 MB of text": call(json.dumps("x" * 10_000_000)),
        "10,000 levels of nesting": call("[" * 10_000 + "]" * 10_000),
        "duplicate keys": written(f'{{"name": {name}, "name": 1, {key}: {{"a": 1, "a": 2}}}}'),
        "lone surrogates": call('"\ud800"') + "\udfff",
        "a name that is a list": written(f'{{"name": ["f"], {key}: {{}}}}'),
        "arguments that are a list": written(f'{{"name": {name}, {key}: [1]}}'),
        "10,000 tags": "<think></think><tool_call></tool_call><response></response>" * 2_000,
        "1,000 calls": written(*[f'{{"name": {name}, {key}: {{}}}}'] * 1_000),
        "zero bytes": "\0" * 1_000,
    }
