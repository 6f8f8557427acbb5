"""ShareGPT rows with function_call and observation turns."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hostile_rows import assert_only_data_errors, convert_all, count_real, deep, prepare_rows
from test_sources import DATA, WEATHER, WEATHER_TOOL, message_call, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import SOURCES, detect_source, recognise

ROME, OSLO = ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})


def turns(*pairs: tuple[str, str]) -> list[Json]:
    """Turns of a dialogue that opens with a question."""
    return [{"from": speaker, "value": value} for speaker, value in (("human", "Weather?"), *pairs)]


def call_text(*calls: ToolCall) -> str:
    """Calls as the value of a turn: one object, or a list of several."""
    values = [call.to_json() for call in calls]
    return json.dumps(values if len(values) > 1 else values[0])


def row_of(*pairs: tuple[str, str]) -> Json:
    """A row with one tool."""
    return {"conversations": turns(*pairs), "tools": json.dumps([WEATHER])}


ROW = row_of(("function_call", call_text(ROME)), ("observation", "sunny"), ("gpt", "Sunny."))


def test_each_step_of_a_dialogue_becomes_an_example() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": ROME.to_json()}]}
    history: tuple[Json, ...] = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        called,
        {"role": "tool", "content": "sunny"},
    )
    assert convert_all("sharegpt", {**ROW, "system": "Be brief.", "lang": "en"}) == [
        Example("r-1", "sharegpt", (WEATHER_TOOL,), history[:2], Target(tool_calls=(ROME,)), {"lang": "en"}),
        Example("r-2", "sharegpt", (WEATHER_TOOL,), history, Target(response="Sunny."), {"lang": "en"}),
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [("function_call", call_text(ROME, OSLO))],
        [("function_call", call_text(ROME)), ("function_call", call_text(OSLO))],
    ],
)
def test_calls_in_a_row_or_in_a_list_are_one_step(pairs: list[tuple[str, str]]) -> None:
    first, second = convert_all("sharegpt", row_of(*pairs, ("observation", "a"), ("observation", "b"), ("gpt", "ok")))
    assert first.target == Target(tool_calls=(ROME, OSLO))
    assert [message["role"] for message in second.messages] == ["user", "assistant", "tool", "tool"]


def test_text_right_before_a_call_belongs_to_its_step() -> None:
    [example] = convert_all("sharegpt", row_of(("gpt", "Let me see."), ("function_call", call_text(ROME))))
    assert example.target == Target(response="Let me see.", tool_calls=(ROME,))


def test_two_answers_in_a_row_are_two_steps() -> None:
    examples = convert_all("sharegpt", row_of(("gpt", "Well."), ("gpt", "Sunny.")))
    assert [example.target.response for example in examples] == ["Well.", "Sunny."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": turns(("gpt", "Calc: 1"), ("observation", "1"), ("gpt", "One."))}, "observation without a"),
        ({"conversations": [{"from": "observation", "value": "1"}]}, "observation without a call: conversations[0]"),
        ({"conversations": turns(("bot", "a"))}, "unknown role: conversations[1]: 'bot'"),
        ({"conversations": turns(("function_call", "weather(Rome)"))}, "call not JSON: 'weather(Rome)'"),
        ({"conversations": turns(("function_call", "5"))}, "tool call must be an object, not a number"),
        ({"conversations": turns(("function_call", "[]"))}, "empty assistant step"),
        ({"conversations": turns()}, "no assistant step"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "no user message"),
        ({"conversations": None}, "conversations must be a list, not null"),
        ({"system": 5}, "system must be a string, not a number"),
        ({"tools": "[{"}, "tools not JSON"),
        ({"chosen": {}, "rejected": {}}, "preference pair: chosen and rejected answers"),
    ],
)
def test_a_malformed_row_is_refused(change: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert_all("sharegpt", {**ROW, **change})


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (ROW, ["sharegpt"]),
        ({"conversations": ROW["conversations"]}, ["sharegpt"]),
        ({"conversations": turns(("gpt", "a")), "tools": "[]"}, ["sharegpt"]),
        ({"conversations": turns(("gpt", "a"))}, []),
        ({"conversations": turns(("gpt", "a")), "system": "[]"}, []),
        ({"conversations": [], "tools": "[]"}, []),
    ],
)
def test_tools_or_calls_beside_the_text_tell_the_source(row: Json, names: list[str]) -> None:
    assert [name for name in recognise(row) if name == "sharegpt"] == names


@pytest.mark.parametrize("tag", ["<tools>[]</tools>", "<tool_call>{}</tool_call>"])
def test_tools_or_calls_in_tags_are_of_another_source(tag: str) -> None:
    assert not SOURCES["sharegpt"].recognises(row_of(("gpt", tag)))


def test_no_broken_row_raises_anything_but_a_data_error() -> None:
    assert_only_data_errors("sharegpt", {**ROW, "system": "s", "tools": [WEATHER]})


@pytest.mark.slow
def test_a_huge_row_takes_linear_time() -> None:
    start = time.perf_counter()
    [example] = convert_all("sharegpt", row_of(*[("function_call", call_text(ROME))] * 50_000))
    assert len(example.target.tool_calls) == 50_000
    with pytest.raises(DataError, match="call not JSON"):
        convert_all("sharegpt", row_of(("function_call", "[" * 2_000_000)))
    assert time.perf_counter() - start < 20


def test_prepare_counts_and_repairs(tmp_path: Path) -> None:
    broken = row_of(("function_call", '{"name": "weather", "arguments": {"city": "Rome"}'))
    nested = row_of(("function_call", json.dumps(deep(900))))
    examples, reasons = prepare_rows(tmp_path, [ROW, broken, nested, {**ROW, "extra": deep(900)}])
    assert [example["id"] for example in examples] == ["sharegpt-rows-1-1", "sharegpt-rows-1-2"]
    assert [reason.split(":")[0] for reason in reasons] == ["call not JSON", "wrong shape", "nested too deeply"]
    [_, _, mended], _ = prepare_rows(tmp_path, [ROW, broken], on_invalid="repair", overwrite=True)
    assert mended["target"]["tool_calls"] == [ROME.to_json()]
    [note] = mended["meta"]["repairs"]
    assert note.startswith("call not JSON: ")


def test_an_openai_row_is_another_source() -> None:
    with pytest.raises(DataError, match="holds rows of"):
        detect_source([ROW, {"messages": [message_call("weather", "{}")]}])


@needs_data
@pytest.mark.parametrize(
    ("language", "converted", "examples", "reasons"),
    [
        ("en", 299, 954, {"wrong type": 1}),
        ("zh", 292, 913, {"missing argument": 4, "wrong value": 2, "observation without a call": 2}),
    ],
)
def test_real_rows(tmp_path: Path, language: str, converted: int, examples: int, reasons: Json) -> None:
    path = DATA / "llamafactory" / f"glaive_toolcall_{language}_demo.json"
    counts = {"source": "sharegpt", "rows": 300, "converted": converted, "examples": examples, "reasons": reasons}
    assert count_real(tmp_path, path) == counts


@needs_data
@pytest.mark.parametrize(("language", "calls"), [("en", 211), ("zh", 216)])
def test_every_real_call_turn_becomes_a_call(language: str, calls: int) -> None:
    rows = json.loads((DATA / "llamafactory" / f"glaive_toolcall_{language}_demo.json").read_text("utf-8"))
    found = 0
    for row in rows:
        try:
            found += sum(len(example.target.tool_calls) for example in SOURCES["sharegpt"].convert(row, "r"))
        except DataError as error:
            assert str(error).startswith("observation without a call")
    assert found == calls
