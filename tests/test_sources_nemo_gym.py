"""NeMo Gym's requests to the Responses API."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hostile_rows import assert_only_data_errors, convert_all, count_real, deep, prepare_rows
from test_sources import DATA, WEATHER_TOOL, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import recognise

ROME, OSLO = ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})
FLAT_TOOL = {"type": "function", **WEATHER_TOOL["function"], "strict": None}  # type: ignore[dict-item]
ASKED: Json = {"role": "user", "type": "message", "content": "Weather in Rome?"}
CALL: Json = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "weather",
    "arguments": '{"city": "Rome"}',
    "status": "completed",
}
RESULT: Json = {"type": "function_call_output", "call_id": "c1", "output": "sunny", "id": None, "status": None}
THOUGHT: Json = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I look it up."}]}
SAID: Json = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]}


def row_of(*items: Json, **fields: object) -> Json:
    """A row with one tool."""
    return {"responses_create_params": {"input": list(items), "tools": [FLAT_TOOL]}, **fields}


def convert_one(row: Json) -> Example:
    """The one example of a row."""
    [example] = convert_all("nemo-gym", row)
    return example


ROW = row_of(ASKED, THOUGHT, CALL, RESULT, SAID, ASKED, expected_action=CALL)
CALLED = {"type": "function", "id": "c1", "function": ROME.to_json()}


def test_items_become_messages_and_the_action_the_target() -> None:
    row = {**ROW, "id": 7}
    row["responses_create_params"] = {
        **ROW["responses_create_params"],
        "instructions": "Be brief.",
        "temperature": 1.0,
        "top_p": None,
    }
    asked = {"role": "user", "content": "Weather in Rome?"}
    assert convert_one(row) == Example(
        id="r",
        source="nemo-gym",
        tools=(WEATHER_TOOL,),
        messages=(
            {"role": "system", "content": "Be brief."},
            asked,
            {"role": "assistant", "content": None, "reasoning_content": "I look it up.", "tool_calls": [CALLED]},
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Sunny."},
            asked,
        ),
        target=Target(tool_calls=(ROME,)),
        meta={"id": 7, "responses_create_params": {"temperature": 1.0}},
    )


@pytest.mark.parametrize(
    ("gold", "target"),
    [
        ({"expected_answers": [ROME.to_json(), OSLO.to_json()]}, Target(tool_calls=(ROME, OSLO))),
        ({"expected_answers": []}, Target()),
        ({"expected_action": {"type": "message", "content": "Hi."}}, Target(response="Hi.")),
        (
            {
                "expected_action": {
                    "type": "function_call_batch",
                    "calls": [CALL, {**CALL, "arguments": {"city": "Oslo"}}],
                }
            },
            Target(tool_calls=(ROME, OSLO)),
        ),
    ],
)
def test_each_kind_of_gold_is_a_target(gold: Json, target: Target) -> None:
    assert convert_one(row_of(ASKED, **gold)).target == target


def test_a_thought_at_the_end_of_the_input_belongs_to_the_target() -> None:
    example = convert_one(row_of(ASKED, THOUGHT, expected_action=CALL))
    assert (len(example.messages), example.target) == (1, Target("I look it up.", (ROME,)))


def test_calls_in_a_row_are_one_step_and_a_sealed_thought_says_nothing() -> None:
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    example = convert_one(row_of(ASKED, sealed, CALL, {**CALL, "call_id": "c2"}, RESULT, expected_action=CALL))
    step = {"role": "assistant", "content": None, "tool_calls": [CALLED, {**CALLED, "id": "c2"}]}
    assert example.messages[1] == step


def test_plain_text_is_what_a_user_says_and_hosted_tools_are_dropped() -> None:
    request = {"input": "Rome?", "tools": [FLAT_TOOL, {"type": "web_search"}]}
    example = convert_one({"responses_create_params": request, "expected_action": CALL})
    assert example.messages == ({"role": "user", "content": "Rome?"},)
    assert (example.tools, example.meta) == (
        (WEATHER_TOOL,),
        {"warnings": ["tool dropped: 'web_search' is no function"]},
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (row_of(ASKED), "no gold step: neither expected_answers nor expected_action"),
        (row_of(ASKED, ground_truth=[ROME.to_json()]), "no gold step: ground_truth lists the calls of a whole task"),
        (row_of(ASKED, expected_answers=None), "expected_answers must be a list, not null"),
        (row_of(ASKED, expected_action={"type": "sing"}), "unknown action: 'sing'"),
        (row_of(ASKED, expected_action={"type": "message", "content": ""}), "empty assistant step"),
        (row_of(ASKED, expected_action={"type": "message"}), "empty assistant step"),
        (row_of(ASKED, expected_action={**CALL, "arguments": "{"}), "arguments not JSON: '{'"),
        (row_of({"type": "computer_call"}, expected_action=CALL), "unknown item: input[0]: 'computer_call'"),
        (row_of({"role": "user"}, expected_action=CALL), "no content: messages[0]"),
        (row_of({"role": "user", "content": [{"type": "input_image"}]}, expected_action=CALL), "content is not text"),
        ({"responses_create_params": {"input": 5}, "expected_action": CALL}, "input must be a list, not a number"),
        ({"responses_create_params": None, "expected_action": CALL}, "responses_create_params must be an object"),
    ],
)
def test_a_malformed_row_is_refused(row: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert_one(row)


def test_only_this_source_recognises_a_row() -> None:
    assert recognise(ROW) == ["nemo-gym"]
    assert recognise({"responses_create_params": {}}) == []


def test_no_broken_row_raises_anything_but_a_data_error() -> None:
    assert_only_data_errors("nemo-gym", ROW)
    assert_only_data_errors("nemo-gym", row_of(ASKED, expected_answers=[ROME.to_json()]))


@pytest.mark.slow
def test_a_hundred_thousand_calls_are_one_step() -> None:
    example = convert_one(row_of(ASKED, *[CALL] * 100_000, RESULT, expected_action=CALL))
    assert len(example.messages[1]["tool_calls"]) == 100_000


def test_prepare_writes_the_step_or_the_reason(tmp_path: Path) -> None:
    examples, reasons = prepare_rows(tmp_path, [ROW, row_of(ASKED), {**ROW, "more": deep(900)}])
    assert [example["id"] for example in examples] == ["nemo-gym-rows-1"]
    assert reasons == ["no gold step: neither expected_answers nor expected_action", "nested too deeply"]


@needs_data
@pytest.mark.parametrize(
    ("name", "converted", "reasons"),
    [
        ("single_step_parallel", 5, {}),
        ("single_step_tool_use_with_argument_comparison", 5, {}),
        ("xlam_fc", 4, {"wrong type": 1}),
    ],
)
def test_real_rows_with_a_next_step(tmp_path: Path, name: str, converted: int, reasons: Json) -> None:
    counts = count_real(tmp_path, DATA / "nemo_gym" / f"{name}_example.jsonl")
    expected = {"source": "nemo-gym", "rows": 5, "converted": converted, "examples": converted, "reasons": reasons}
    assert counts == expected


@needs_data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("workplace_assistant_example", "ground_truth lists the calls of a whole task"),
        ("conversational_tool_use_simulation_example_parallel_tool_calls", "neither expected_answers nor"),
    ],
)
def test_real_rows_without_a_next_step(tmp_path: Path, name: str, reason: str) -> None:
    path = DATA / "nemo_gym" / f"{name}.jsonl"
    with pytest.raises(DataError, match=f"no row could be converted; first .*: no gold step: {reason}"):
        prepare_examples(PrepareConfig(inputs=(path,), output=tmp_path / "out.jsonl"))
