"""Messages of the openai source in typed parts, and tools that are no functions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hostile_rows import assert_only_data_errors, convert_all, count_real, prepare_rows
from test_sources import DATA, WEATHER, WEATHER_TOOL, ask, message_call, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.records import Json, Target, ToolCall
from toolrl_cli.sources.registry import SOURCES, recognise

ROME, OSLO = ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})


def part(kind: str, value: Any) -> Json:
    """A part in the words of LLaMA-Factory."""
    return {"type": kind, "value": value}


def call_part(call: ToolCall) -> Json:
    """A part that holds a call as JSON text."""
    return part("tool_call", json.dumps(call.to_json()))


def row_of(*parts: object) -> Json:
    """A dialogue of one step."""
    messages = [{"role": "user", "content": [part("text", "Weather?")]}, {"role": "assistant", "content": list(parts)}]
    return {"messages": messages, "tools": json.dumps([WEATHER])}


ROW = row_of(part("reasoning", "I look."), part("text", "Let me see."), call_part(ROME), call_part(OSLO))


def test_parts_are_thought_calls_and_text() -> None:
    [example] = convert_all("openai", ROW)
    assert example.messages == ({"role": "user", "content": "Weather?"},)
    assert (example.tools, example.target) == ((WEATHER_TOOL,), Target("I look.", (ROME, OSLO), "Let me see."))


def test_parts_join_what_the_message_has_beside_them() -> None:
    message = {**message_call("weather", '{"city": "Rome"}'), "reasoning_content": "Hm. "}
    message["content"] = [part("reasoning", "I look."), call_part(OSLO)]
    [example] = convert_all("openai", {"messages": ask(message), "tools": [WEATHER]})
    assert example.target == Target("Hm. I look.", (ROME, OSLO), None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (part("image", "x"), "content is not text: messages[1].content[0]: 'image'"),
        (part("text", None), "messages[1].content[0] must be a string, not null"),
        (part("reasoning", 5), "messages[1].content[0] must be a string, not a number"),
        (part("tool_call", "weather("), "call not JSON: 'weather('"),
        (part("tool_call", "[]"), "tool call must be an object, not a list"),
        ("text", "messages[1].content[0] must be an object, not a string"),
    ],
)
def test_a_malformed_part_is_refused(bad: object, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert_all("openai", row_of(bad))


def test_no_parts_are_no_content() -> None:
    with pytest.raises(DataError, match="empty assistant step"):
        convert_all("openai", row_of())
    with pytest.raises(DataError, match=re.escape("no content: messages[0]")):
        convert_all("openai", {"messages": [{"role": "user", "content": []}]})


@pytest.mark.parametrize("known", [["old"], "old"])
def test_a_tool_that_is_no_function_is_dropped_with_a_warning(known: object) -> None:
    row = {**ROW, "tools": [WEATHER, {"type": "code_interpreter"}], "warnings": known}
    [example] = convert_all("openai", row)
    assert example.tools == (WEATHER_TOOL,)
    assert example.meta == {"warnings": ["old", "tool dropped: 'code_interpreter' is no function"]}


@pytest.mark.parametrize("tool", [{"type": "function"}, {"type": 5}, {}, {"type": "custom", "name": 5}])
def test_a_broken_function_is_not_dropped(tool: Json) -> None:
    with pytest.raises(DataError, match="tool name must be a string"):
        convert_all("openai", {**ROW, "tools": [tool]})


def test_no_broken_row_raises_anything_but_a_data_error() -> None:
    assert_only_data_errors("openai", {**ROW, "tools": [WEATHER_TOOL]})


def test_prepare_keeps_a_dropped_tool_as_a_warning_and_repairs_a_call(tmp_path: Path) -> None:
    broken = row_of(part("tool_call", '{"name": "weather", "arguments": {"city": "Rome"'))
    row = {**ROW, "tools": [WEATHER, {"type": "web_search"}]}
    examples, reasons = prepare_rows(tmp_path, [row, broken], on_invalid="repair")
    assert [example["meta"].get("warnings") for example in examples] == [
        ["tool dropped: 'web_search' is no function"],
        None,
    ]
    assert examples[1]["target"]["tool_calls"] == [ROME.to_json()]
    assert reasons == []


@needs_data
def test_real_typed_parts(tmp_path: Path) -> None:
    path = DATA / "llamafactory" / "reason_tool_use_demo_50.jsonl"
    reasons = {"unknown argument": 1}
    assert count_real(tmp_path, path) == {
        "source": "openai",
        "rows": 50,
        "converted": 49,
        "examples": 110,
        "reasons": reasons,
    }
    examples = [e for line in path.open(encoding="utf-8") for e in SOURCES["openai"].convert(json.loads(line), "r")]
    assert sum(len(example.target.tool_calls) for example in examples) == 68
    assert (len(examples), sum(example.target.thought is not None for example in examples)) == (112, 112)


@needs_data
def test_real_calls_of_a_code_interpreter_are_no_json() -> None:
    row = json.loads((DATA / "functionary" / "test_case.json").read_text("utf-8"))
    assert recognise(row) == ["openai"]
    with pytest.raises(DataError, match='arguments not JSON: "l='):
        SOURCES["openai"].convert(row, "r")
    steps = SOURCES["openai"].convert({**row, "messages": row["messages"][:11]}, "r")
    assert [len(example.target.tool_calls) for example in steps] == [0, 2, 0, 1, 0]
    assert steps[0].meta == {"warnings": ["tool dropped: 'code_interpreter' is no function"]}


@needs_data
def test_real_rows_with_a_role_of_their_own_are_refused() -> None:
    [row] = json.loads((DATA / "hammerbench" / "en_examples.json").read_text("utf-8"))
    with pytest.raises(DataError, match=re.escape("unknown role: messages[1]: 'function call'")):
        SOURCES["openai"].convert(row, "r")
