"""TRL's conversations, and what Arrow's padding does to them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hostile_rows import assert_only_data_errors, convert_all, deep, prepare_rows
from test_sources import CHAT, WEATHER_TOOL, TestExamples, ask, message_call

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import SOURCES, detect_source, recognise
from toolrl_cli.sources.trl import drop_padding

ROME = ToolCall("weather", {"city": "Rome"})
CALLED = message_call("weather", {"city": "Rome"})
RESULT = {"role": "tool", "name": "weather", "content": "sunny"}
SAID = {"role": "assistant", "content": "Sunny."}
ROW: Json = {"messages": ask(CALLED, RESULT, SAID), "tools": [WEATHER_TOOL]}
PAIR: Json = {"prompt": ask(), "completion": [CALLED, RESULT, SAID], "tools": [WEATHER_TOOL]}


def test_a_dialogue_gives_one_example_a_step() -> None:
    first, second = convert_all("trl", {**ROW, "chat_template_kwargs": {"a": 1}})
    meta = {"chat_template_kwargs": {"a": 1}}
    assert first == Example("r-1", "trl", (WEATHER_TOOL,), tuple(ask()), Target(tool_calls=(ROME,)), meta)
    assert (len(second.messages), second.target) == (3, Target(response="Sunny."))


def test_only_the_completion_is_learned() -> None:
    row = {**PAIR, "prompt": ask(SAID, {"role": "user", "content": "Sure?"})}
    assert convert_all("trl", PAIR) == convert_all("trl", ROW)
    examples = convert_all("trl", row)
    assert [(example.id, len(example.messages)) for example in examples] == [("r-1", 3), ("r-2", 5)]


def test_padding_goes_wherever_arrow_puts_it() -> None:
    function: Json = {"name": "weather", "description": "Now.", "strict": None}
    properties = {"city": {"type": "string", "enum": None, "default": None, "items": {"type": None}}, "day": None}
    function["parameters"] = {"type": "object", "properties": properties, "required": ["city"]}
    call = {"id": None, "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "day": None}}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "image": None}], "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
        ],
        "tools": [{"type": "function", "function": function, "cache": None}],
        "prompt": None,
        "note": None,
    }
    schema = {"type": "object", "properties": {"city": {"type": "string", "items": {}}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": schema}}
    assert convert_all("trl", row) == [
        Example("r-1", "trl", (tool,), tuple(ask()), Target(tool_calls=(ROME,)), {}),
    ]


NULLABLE = (
    {"type": "null"},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"oneOf": [{"type": "string"}, {"anyOf": [{"type": "null"}]}]},
    {"enum": ["a", None]},
    {"const": None},
    {"description": "Anything."},
)
NOT_NULLABLE = (
    {"type": "string"},
    {"type": ["string", "integer"]},
    {"type": "string", "enum": ["a", None]},
    {"anyOf": [{"type": "string"}]},
    {"enum": ["a"]},
    {"enum": 5},
    {"const": 1},
    {"$ref": "#/$defs/a"},
    5,
)


@pytest.mark.parametrize(("schema", "kept"), [*((s, True) for s in NULLABLE), *((s, False) for s in NOT_NULLABLE)])
def test_a_null_argument_stays_where_the_schema_allows_null(schema: object, kept: bool) -> None:
    outer = {"properties": {"x": schema, "deep": {"items": {"properties": {"x": schema}}}}}
    arguments = {"x": None, "y": None, "deep": [{"x": None, "y": None, "z": 1}, None]}
    rest = {"deep": [{"x": None, "z": 1}, None]} if kept else {"deep": [{"z": 1}, None]}
    assert drop_padding(arguments, [outer]) == ({"x": None, **rest} if kept else rest)


def test_arguments_in_json_text_and_nulls_in_lists_are_no_padding() -> None:
    call = message_call("weather", '{"city": null}')
    tool = {"name": "pick", "parameters": {"type": "object", "properties": {"a": {"enum": ["x", None]}}}}
    row = {"messages": ask(call, RESULT, message_call("pick", {"a": None})), "tools": [WEATHER_TOOL, tool]}
    first, second = convert_all("trl", row)
    assert first.target.tool_calls == (ToolCall("weather", {"city": None}),)
    assert second.target.tool_calls == (ToolCall("pick", {"a": None}),)
    assert second.tools[1]["function"]["parameters"]["properties"] == {"a": {"enum": ["x", None]}}


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (ROW, ["openai", "trl"]),
        (PAIR, ["trl"]),
        (CHAT, ["openai"]),
        ({"messages": ask(message_call("weather", "{}"))}, ["openai"]),
        ({**PAIR, "reward_model": {}}, []),
        ({"prompt": "Hi", "completion": "there"}, []),
        ({**TestExamples.ROW, "messages": ROW["messages"]}, ["examples"]),
    ],
)
def test_what_is_recognised(row: Json, names: list[str]) -> None:
    assert recognise(row) == names


def test_a_file_with_rows_without_calls_is_one_source() -> None:
    assert detect_source([CHAT, ROW]).name == "trl"
    assert detect_source([CHAT]).name == "openai"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": None}, "prompt must be a list, not null"),
        ({**PAIR, "completion": "Sunny."}, "completion must be a list, not a string"),
        ({**PAIR, "completion": [RESULT]}, "no assistant step"),
        ({**PAIR, "prompt": [{"role": "system", "content": "a"}]}, "no user message"),
        ({**ROW, "messages": ask(message_call("weather", [1]))}, "arguments of 'weather' must be an object"),
        ({**ROW, "tools": {"a": 1}}, "tools must be a list, not an object"),
    ],
)
def test_a_malformed_row_is_refused(row: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert_all("trl", row)


def test_no_broken_row_raises_anything_but_a_data_error() -> None:
    assert_only_data_errors("trl", ROW)
    assert_only_data_errors("trl", PAIR)


def test_prepare_reads_both_shapes_and_refuses_the_deep(tmp_path: Path) -> None:
    deep_row = {**ROW, "messages": ask(message_call("weather", {"city": deep(900)}))}
    examples, reasons = prepare_rows(tmp_path, [CHAT, ROW, PAIR, deep_row])
    assert [example["id"] for example in examples] == [f"trl-rows-{n}" for n in ("1-1", "2-1", "2-2", "3-1", "3-2")]
    assert reasons == ["nested too deeply"]


def make_property(rng: random.Random, number: int) -> Json:
    """A parameter whose name alone decides its type, as Arrow demands; what else it says is random."""
    kind = ("string", "integer", "boolean", "array", "object", "nullable")[number % 6]
    schema: Json = {"anyOf": [{"type": "string"}, {"type": "null"}]} if kind == "nullable" else {"type": kind}
    if rng.random() < 0.5:
        schema["description"] = f"Parameter {number}."
    if kind == "string" and rng.random() < 0.3:
        schema["enum"] = ["a", "b", None]
    if kind == "integer" and rng.random() < 0.3:
        schema |= {"default": rng.randrange(9), "minimum": 0}
    if kind == "array":
        items = {"type": "object", "properties": {f"i{n}": {"type": "string"} for n in pick(rng, 4)}}
        schema["items"] = items
    if kind == "object":
        schema |= {"properties": {f"o{n}": {"type": "integer"} for n in pick(rng, 4)}, "default": {f"o{number}": 1}}
    return schema


def pick(rng: random.Random, size: int) -> list[int]:
    """Some of the numbers below `size`, in order."""
    return sorted(rng.sample(range(size), rng.randint(0, min(size, 5))))


def make_tool(rng: random.Random, number: int) -> Json:
    """A tool with a few of thirty parameters; those that may be null are required."""
    chosen = pick(rng, 30)
    properties = {f"p{n}": make_property(rng, n) for n in chosen}
    required = [f"p{n}" for n in chosen if n % 6 == 5 or rng.random() < 0.5]
    function: Json = {"name": f"tool_{number}", "description": f"Tool {number}."}
    function["parameters"] = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": function | ({"strict": True} if rng.random() < 0.3 else {})}


def make_value(rng: random.Random, schema: Json) -> Any:
    """A value for a parameter; one that may be null is null half the time."""
    match schema.get("type"):
        case "string":
            return rng.choice("ab")
        case "integer":
            return rng.randrange(9)
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [{name: "x" for name in schema["items"]["properties"] if rng.random() < 0.7} for _ in range(2)]
        case "object":
            return {name: 5 for name in schema["properties"] if rng.random() < 0.7}
    return rng.choice(["text", None])


def make_row(rng: random.Random, first: int) -> Json:
    """A dialogue with four tools, each of which is called once."""
    tools = [make_tool(rng, number) for number in range(first, first + 4)]
    messages: list[Json] = ask()
    for tool in tools:
        function = tool["function"]
        properties, required = function["parameters"]["properties"], function["parameters"]["required"]
        given = [name for name in properties if name in required or rng.random() < 0.5]
        arguments = {name: make_value(rng, properties[name]) for name in given}
        messages += [message_call(function["name"], arguments), {"role": "tool", "content": "done"}]
    return {"messages": messages, "tools": tools}


def test_two_thousand_tools_come_back_from_arrow_as_they_went_in() -> None:
    datasets = pytest.importorskip("datasets")
    rng = random.Random(7)
    rows = [make_row(rng, first) for first in range(0, 2000, 4)]
    padded = list(datasets.Dataset.from_list(rows))
    assert padded[0] != rows[0]
    names = set()
    for row, back in zip(rows, padded, strict=True):
        examples = SOURCES["trl"].convert(back, "r")
        assert examples == SOURCES["trl"].convert(row, "r")
        assert list(examples[0].tools) == row["tools"]
        assert [c.arguments for e in examples for c in e.target.tool_calls] == [
            call["function"]["arguments"] for message in row["messages"] for call in message.get("tool_calls", [])
        ]
        names |= {tool["function"]["name"] for tool in examples[0].tools}
    assert len(names) == 2000


def test_a_null_that_arrow_cannot_tell_from_padding_is_lost() -> None:
    properties = {"city": {"type": "string", "default": None}}
    tool = {"name": "weather", "parameters": {"type": "object", "properties": properties}}
    [first, _] = convert_all("trl", {**ROW, "tools": [tool]})
    assert first.tools[0]["function"]["parameters"]["properties"] == {"city": {"type": "string"}}
