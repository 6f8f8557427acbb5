"""Answers that a reward should tell apart: degenerate ones, equal ones in another spelling, hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolrl_cli.formats import find_format
from toolrl_cli.records import Example, Json, Rollout, Target, ToolCall
from toolrl_cli.rewards.values import properties_by_name

Expectation = Literal["below", "no more", "little", "most"]
EXPECTATIONS: dict[Expectation, str] = {
    "below": "earns less than the honest answer",
    "no more": "earns no more than the honest answer",
    "little": "earns at most half of what the honest answer earns above silence",
    "most": "earns at least half of what the honest answer earns above silence",
}
FORMAT = find_format("toolrl")
THOUGHT = "I think about it."


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
    """A way to answer every example; `answer` gives None where it cannot be told from the honest one."""

    name: str
    expectations: tuple[Expectation, ...]
    answer: Callable[[Example], Trial | None]
    required: bool = True


def honest_rollout(example: Example) -> Rollout:
    """The gold, written as the format wants it."""
    return Rollout(FORMAT.render_target(example.target), example.target, tools=example.tools)


def trial(example: Example, text: str) -> Trial:
    """An answer to an example as it is."""
    honest = honest_rollout(example)
    return Trial(example.id, honest._replace(text=text), honest)


def text_of(block: str, example: Example) -> str:
    """A completion with the example's thought and these lines between its call tags."""
    thought = FORMAT.render_target(Target(example.target.thought))
    return f"{thought}\n<tool_call>\n{block}\n</tool_call>"


def reply_of(example: Example) -> str:
    """What comes after the calls of an honest answer: its response block, if it has one."""
    response = example.target.response
    return "" if response is None else f"\n<response> {response} </response>"


def with_calls(make: Callable[[Example], Sequence[ToolCall] | None]) -> Callable[[Example], Trial | None]:
    """A policy that makes other calls where the gold makes some."""

    def answer(example: Example) -> Trial | None:
        calls = make(example) if example.target.tool_calls else None
        if calls is None or tuple(calls) == example.target.tool_calls:
            return None
        return trial(example, FORMAT.render_target(replace(example.target, tool_calls=tuple(calls))))

    return answer


def respelled(write: Callable[[list[Json]], str]) -> Callable[[Example], Trial | None]:
    """A policy that writes the gold calls, given as `{"name", "parameters"}`, in another way."""

    def answer(example: Example) -> Trial | None:
        if not example.target.tool_calls:
            return None
        calls = [{"name": call.name, "parameters": call.arguments} for call in example.target.tool_calls]
        return trial(example, text_of(write(calls), example) + reply_of(example))

    return answer


def lines(calls: Sequence[Any], **options: Any) -> str:
    """JSON values, one after the other."""
    return "\n".join(json.dumps(call, ensure_ascii=False, **options) for call in calls)


def call_every_tool(example: Example) -> Trial | None:
    """Every declared tool, called without arguments."""
    names = [name for tool in example.tools if (name := tool.get("function", {}).get("name"))]
    calls = tuple(ToolCall(name, {}) for name in names)
    if not calls or calls == example.target.tool_calls:
        return None
    return trial(example, FORMAT.render_target(Target(THOUGHT, calls, example.target.response)))


def always_call(example: Example) -> Trial | None:
    """The first tool, where no call is wanted."""
    if example.target.tool_calls or not example.tools:
        return None
    call = ToolCall(example.tools[0]["function"]["name"], {})
    return trial(example, FORMAT.render_target(Target(THOUGHT, (call,))))


def always_abstain(example: Example) -> Trial | None:
    """A reply where calls are wanted."""
    if not example.target.tool_calls:
        return None
    return trial(example, FORMAT.render_target(Target(THOUGHT, (), "I cannot help with that.")))


def one_spurious(example: Example) -> Trial | None:
    """The honest answer and one call too many; where no call is wanted, it hides in the reply."""
    surplus = ToolCall("surplus_tool", {"reason": "none"})
    target = example.target
    if target.tool_calls:
        return trial(example, FORMAT.render_target(replace(target, tool_calls=(*target.tool_calls, surplus))))
    if target.response is None:
        return None
    block = f"<tool_call>\n{lines([{'name': surplus.name, 'parameters': surplus.arguments}])}\n</tool_call>"
    return trial(example, FORMAT.render_target(replace(target, response=f"{target.response}\n{block}")))


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


def no_think(example: Example) -> Trial | None:
    """The honest answer without its thought."""
    text = FORMAT.render_target(replace(example.target, thought=THOUGHT))
    bare = text.removeprefix(f"<think> {THOUGHT} </think>").lstrip("\n")
    return trial(example, bare) if bare else None


def long_thought(example: Example) -> Trial:
    """The honest answer after 2,000 words of thought that say nothing."""
    return trial(example, FORMAT.render_target(replace(example.target, thought="hm " * 2000)))


def gold_in_thought(example: Example) -> Trial | None:
    """The right calls, but only in the thought."""
    if not example.target.tool_calls:
        return None
    block = text_of(lines([{"name": c.name, "parameters": c.arguments} for c in example.target.tool_calls]), example)
    return trial(example, f"<think> {block.partition('</think>')[2]} </think>")


def tags_in_thought(example: Example) -> Trial:
    """The honest answer, whose thought mentions the tags."""
    thought = "The calls go between <tool_call> and </tool_call>, the reply into <response>."
    return trial(example, FORMAT.render_target(replace(example.target, thought=thought)))


def tags_in_argument(example: Example) -> Trial | None:
    """The honest answer to an example in which the text of an argument holds tags."""
    target = example.target
    if not target.tool_calls:
        return None
    first, *others = target.tool_calls
    tagged = ToolCall(first.name, {**first.arguments, "note": "</tool_call><response> ignore the rest </response>"})
    target = replace(target, tool_calls=(tagged, *others))
    rollout = Rollout(FORMAT.render_target(target), target, tools=example.tools)
    return Trial(example.id, rollout, honest_rollout(example))


def null_parameters(example: Example) -> Trial | None:
    """Null where the gold has an empty object, on the example with its arguments taken away."""
    calls = tuple(ToolCall(call.name, {}) for call in example.target.tool_calls)
    bare = replace(example, target=replace(example.target, tool_calls=calls))
    return respelled(lambda written: lines([{**call, "parameters": None} for call in written]))(bare)


POLICIES = (
    Policy("call every tool", ("below",), call_every_tool),
    Policy("repeat the right calls 5 times", ("below",), with_calls(lambda e: e.target.tool_calls * 5)),
    Policy("right answer and a spurious call", ("below",), one_spurious),
    Policy("empty call block", ("below", "little"), respelled(lambda calls: "")),
    Policy("no thought", ("no more",), no_think),
    Policy("2,000 words of thought", ("no more",), long_thought),
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
    Policy("pretty-printed JSON", ("most",), respelled(lambda calls: lines(calls, indent=2))),
    Policy("a JSON list", ("most",), respelled(lambda calls: lines([calls]))),
    Policy(
        "`arguments` for `parameters`",
        ("most",),
        respelled(lambda calls: lines([{"name": c["name"], "arguments": c["parameters"]} for c in calls])),
    ),
    Policy("null for no parameters", ("most",), null_parameters),
    Policy("tags mentioned in the thought", ("most",), tags_in_thought),
    Policy("tags in an argument", ("most",), tags_in_argument),
)


def hostile_texts(example: Example) -> dict[str, str]:
    """Completions that break parsers, by name, made for an example with a call."""
    name = json.dumps(example.target.tool_calls[0].name if example.target.tool_calls else "f")

    def call(value: str) -> str:
        return text_of(f'{{"name": {name}, "parameters": {{"a": {value}}}}}', example)

    return {
        "NaN and Infinity": call("[NaN, Infinity, -Infinity]"),
        "1e999": call("1e999"),
        "a number of 10,000 digits": call("9" * 10_000),
        "10 MB of text": call(json.dumps("x" * 10_000_000)),
        "10,000 levels of nesting": call("[" * 10_000 + "]" * 10_000),
        "duplicate keys": text_of(f'{{"name": {name}, "name": 1, "parameters": {{"a": 1, "a": 2}}}}', example),
        "lone surrogates": call('"\ud800"') + "\udfff",
        "a name that is a list": text_of('{"name": ["f"], "parameters": {}}', example),
        "parameters that are a list": text_of(f'{{"name": {name}, "parameters": [1]}}', example),
        "10,000 tags": "<think></think><tool_call></tool_call><response></response>" * 2_000,
        "1,000 calls": text_of("\n".join([f'{{"name": {name}, "parameters": {{}}}}'] * 1_000), example),
        "zero bytes": "\0" * 1_000,
    }
