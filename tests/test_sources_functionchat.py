"""FunctionChat-Bench's three shapes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hostile_rows import assert_only_data_errors, convert_all, count_real, prepare_rows
from test_sources import DATA, WEATHER_TOOL, ask, message_call, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import recognise

ROME, OSLO = ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})
OTHER_TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
DECISION: Json = {
    "serial_num": 1,
    "category": "CALL",
    "input_messages": ask(),
    "input_tools": [WEATHER_TOOL],
    "type_of_output": "call",
    "ground_truth": message_call("weather", '{"city": "Rome"}'),
    "acceptable_arguments": None,
}
ANSWER = {"role": "assistant", "content": "Which city?"}
DIALOG: Json = {
    "dialog_num": 4,
    "tools_count": 1,
    "tools": [WEATHER_TOOL],
    "turns": [
        {"turn_num": 1, "query": ask(), "ground_truth": ANSWER, "type_of_output": "slot"},
        {
            "turn_num": 2,
            "query": [*ask(), ANSWER, {"role": "user", "content": "Rome"}],
            "ground_truth": message_call("weather", '{"city": "Rome"}'),
            "type_of_output": "call",
        },
    ],
}


def call_text(call: ToolCall) -> str:
    """A call as the rows write it: JSON text in JSON text."""
    return json.dumps({"name": call.name, "arguments": json.dumps(call.arguments)})


SINGLE_CALL: Json = {
    "function_num": 1,
    "function_name": "weather",
    "function_info": {"required_parameters_count": 1},
    "query": [{"serial_num": 1, "content": "Rome?"}, {"serial_num": 2, "content": "Oslo?"}],
    "ground_truth": [{"serial_num": 2, "content": call_text(OSLO)}, {"serial_num": 1, "content": call_text(ROME)}],
    "acceptable_arguments": [{"serial_num": 1, "content": '{"city": "Roma"}'}],
    "tools": [
        {"type": "exact", "content": [WEATHER_TOOL]},
        {"type": "4_random", "content": [OTHER_TOOL, WEATHER_TOOL]},
    ],
}
ROWS = (DECISION, DIALOG, SINGLE_CALL)


def test_a_decision_is_one_example() -> None:
    meta = {"serial_num": 1, "category": "CALL", "type_of_output": "call", "acceptable_arguments": None}
    [example] = convert_all("functionchat", DECISION)
    assert example == Example("r", "functionchat", (WEATHER_TOOL,), tuple(ask()), Target(tool_calls=(ROME,)), meta)


def test_each_turn_of_a_dialogue_brings_its_own_history() -> None:
    first, second = convert_all("functionchat", DIALOG)
    meta = {"dialog_num": 4, "tools_count": 1, "turn_num": 1, "type_of_output": "slot"}
    answer = Target(response="Which city?")
    assert first == Example("r-1", "functionchat", (WEATHER_TOOL,), tuple(ask()), answer, meta)
    assert (len(second.messages), second.target, second.meta["turn_num"]) == (3, Target(tool_calls=(ROME,)), 2)


def test_each_query_meets_each_set_of_tools_and_finds_its_answer_by_number() -> None:
    examples = convert_all("functionchat", SINGLE_CALL)
    assert [(example.id, len(example.tools), example.target.tool_calls) for example in examples] == [
        ("r-1", 1, (ROME,)),
        ("r-2", 2, (ROME,)),
        ("r-3", 1, (OSLO,)),
        ("r-4", 2, (OSLO,)),
    ]
    assert examples[0].messages == ({"role": "user", "content": "Rome?"},)
    assert examples[1].meta == {
        "function_num": 1,
        "function_name": "weather",
        "function_info": {"required_parameters_count": 1},
        "serial_num": 1,
        "acceptable_arguments": '{"city": "Roma"}',
        "tools_type": "4_random",
    }
    assert examples[2].meta["acceptable_arguments"] is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**DECISION, "ground_truth": {"role": "user", "content": "a"}}, "no assistant step: ground_truth is of role"),
        ({**DECISION, "ground_truth": {"role": "assistant", "content": ""}}, "empty assistant step"),
        ({**DECISION, "ground_truth": None}, "ground_truth must be an object, not null"),
        ({**DECISION, "input_messages": None}, "messages must be a list, not null"),
        ({**DECISION, "input_tools": None}, "tools must be a list, not null"),
        ({**DIALOG, "turns": [5]}, "turns[0] must be an object, not a number"),
        ({**SINGLE_CALL, "ground_truth": []}, "tool call must be an object, not null"),
        ({**SINGLE_CALL, "ground_truth": [{"serial_num": 1, "content": "weather("}]}, "call not JSON: 'weather('"),
        ({**SINGLE_CALL, "tools": ["exact"]}, "tools[0] must be an object, not a string"),
    ],
)
def test_a_malformed_row_is_refused(row: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert_all("functionchat", row)


@pytest.mark.parametrize("row", ROWS)
def test_only_this_source_recognises_each_shape(row: Json) -> None:
    assert recognise(row) == ["functionchat"]


@pytest.mark.parametrize("row", ROWS)
def test_no_broken_row_raises_anything_but_a_data_error(row: Json) -> None:
    assert_only_data_errors("functionchat", row)


def test_a_bad_part_is_rejected_alone(tmp_path: Path) -> None:
    answers = [{"serial_num": 1, "content": call_text(ToolCall("weather", {}))}, *SINGLE_CALL["ground_truth"][:1]]
    examples, reasons = prepare_rows(tmp_path, [{**SINGLE_CALL, "ground_truth": answers}, *ROWS[:2]])
    assert [example["id"][len("functionchat-rows-") :] for example in examples] == ["1-3", "1-4", "2", "3-1", "3-2"]
    assert reasons == ["missing argument: 'weather': 'city' is a required property"] * 2


@needs_data
@pytest.mark.parametrize(("name", "parts"), [("Singlecall", 500), ("Dialog", 200), ("CallDecision", 606)])
def test_every_part_of_the_real_files_converts(tmp_path: Path, name: str, parts: int) -> None:
    counts = count_real(tmp_path, DATA / "functionchat" / f"FunctionChat-{name}.jsonl")
    assert counts == {"source": "functionchat", "rows": parts, "converted": parts, "examples": parts, "reasons": {}}
