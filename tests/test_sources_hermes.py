"""Hermes rows: tools and calls in tags, which the prompt's own words and thoughts mention too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dialogues import (
    PING,
    PING_TOOL,
    called,
    convert,
    convert_or_refuse,
    cut_anywhere,
    last_target,
    prepare_file,
    prepare_rows,
    repairing,
    said,
)
from test_sources import DATA, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import recognise

TOOLS = json.dumps([PING_TOOL])
WORDS = 'Tools stand in <tools> </tools> tags. {} Answer as:\n<tool_call>\n{{"name": <name>}}\n</tool_call>'
CALL = '<tool_call>\n{"name": "ping", "arguments": {"to": "a"}}\n</tool_call>'
PINGED = ToolCall("ping", {"to": "a"})


def row(*answers: str, listed: str = f"<tools> {TOOLS} </tools>", **fields: Any) -> Json:
    """A system text with tools, a question and its answers, with a result between two of them."""
    results = [
        said("tool", "<tool_response>\nok\n</tool_response>") if i % 2 else said("gpt", a)
        for i, a in enumerate(answers)
    ]
    return {"conversations": [said("system", WORDS.format(listed)), said("human", "Go."), *results], **fields}


def test_an_argument_twice_is_refused() -> None:
    twice = '{"name": "ping", "arguments": {"to": "a", "to": "b"}}'
    for call, reason in ((twice, "a key twice: 'to'"), (twice.replace('"', "'"), "call not JSON: .*")):
        with pytest.raises(DataError, match=f"^{reason}$"):
            convert("hermes", row(f"<tool_call>\n{call}\n</tool_call>"))


def test_a_dialogue_becomes_its_steps() -> None:
    history: tuple[Json, ...] = (
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "On it.",
            "tool_calls": [called("ping", to="a"), called("ping", to="a")],
            "reasoning_content": "A <tool_call> is due.",
        },
        {"role": "tool", "content": "ok"},
    )
    step = f"<think>\nA <tool_call> is due.\n</think>\nOn it.\n{CALL}\n{CALL}"
    target = Target("A <tool_call> is due.", (PINGED, PINGED), "On it.")
    assert convert("hermes", row(step, "", "Done.", category="net")) == [
        Example("r-1", "hermes", (PING_TOOL,), history[:1], target, {"category": "net"}),
        Example("r-2", "hermes", (PING_TOOL,), history, Target(None, (), "Done."), {"category": "net"}),
    ]


@pytest.mark.parametrize(
    "listed",
    [
        f"<tools>{TOOLS}</tools>",
        f"<tools>{{tools}}</tools> or <tools>[tools]</tools>: <tools>\n{TOOLS}\n</tools>",
        f"<tools>{json.dumps(PING_TOOL)}\n{json.dumps(PING_TOOL)}</tools>",
        f"<tools>{[PING_TOOL]}</tools>",
        f"<tools>{PING}\n</tools>",
    ],
)
def test_tools_are_found_behind_placeholders_in_json_or_python(listed: str) -> None:
    [example] = convert("hermes", row("Hi.", listed=listed))
    assert example.tools == (PING_TOOL,)


def test_a_description_may_hold_the_closing_tag() -> None:
    tool = {**PING, "description": "Not </tools> yet, it's <tools>[]"}
    [example] = convert("hermes", row("Hi.", listed=f"<tools>[{json.dumps(tool)}]</tools>"))
    assert example.tools[0]["function"]["description"] == tool["description"]


@pytest.mark.parametrize("field", [TOOLS, [PING_TOOL], str([PING_TOOL]), json.dumps(TOOLS)])
def test_the_field_goes_before_the_text(field: object) -> None:
    [example] = convert("hermes", row("Hi.", listed='<tools>[{"name": "x"}]</tools>', tools=field))
    assert example.tools == (PING_TOOL,)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        (CALL.replace("\n", ""), Target(None, (PINGED,))),
        ("<tool_call>{'arguments': {'to': 'a'}, 'name': 'ping'}</tool_call>", Target(None, (PINGED,))),
        ('<tool_call>[{"name": "ping"}, {"name": "ping"}]</tool_call>', Target(None, (ToolCall("ping", {}),) * 2)),
        (
            "<tool_call>{'name': 'ping', 'arguments': {'to': \"it's </tool_call>\", 'on': True}}</tool_call>",
            Target(None, (ToolCall("ping", {"to": "it's </tool_call>", "on": True}),)),
        ),
        (f"<scratch_pad>\nA\n</scratch_pad>\n{CALL}\nB", Target("A", (PINGED,), "B")),
        (f"<think>A</think><think>B</think>C{CALL}D", Target("A\nB", (PINGED,), "C\nD")),
        ("<think>A</think>", Target("A")),
    ],
)
def test_a_step_is_thought_calls_and_words(answer: str, target: Target) -> None:
    assert last_target("hermes", row(answer)) == target


@pytest.mark.parametrize(
    ("speaker", "text", "results"),
    [
        ("tool", "plain", ["plain"]),
        ("tool", "<tool_response>1</tool_response>\n<tool_response>\n{'a': 2}\n</tool_response>", ["1", "{'a': 2}"]),
        ("user", "<tool_response>1</tool_response>", ["1"]),
        ("tool", "<tool_response>a <tool_response> b</tool_response>", ["a <tool_response> b"]),
        ("tool", "<tool_response>1", ["<tool_response>1"]),
        ("tool", "x <tool_response>1</tool_response>", ["x <tool_response>1</tool_response>"]),
    ],
)
def test_each_result_is_a_message(speaker: str, text: str, results: list[str]) -> None:
    dialogue = row(CALL)
    dialogue["conversations"] += [said(speaker, text), said("gpt", "Done.")]
    assert convert("hermes", dialogue)[-1].messages[2:] == tuple({"role": "tool", "content": r} for r in results)


def test_a_system_text_without_tools_stays() -> None:
    dialogue = row("Hi.", system="Be brief.")
    [example] = convert("hermes", dialogue)
    assert example.messages[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (row("<tool_call>ping()</tool_call>"), "call not JSON: 'ping()'"),
        (row(CALL.replace("}}", "}} x")), "call not JSON"),
        (row(CALL.removesuffix("</tool_call>")), "call not JSON: no </tool_call>"),
        (row("<tool_call>5</tool_call>"), "must be an object"),
        (row("<tool_call></tool_call>"), "call not JSON"),
        (row("<tool_call>" + "[" * 10_000 + "]" * 10_000 + "</tool_call>"), "call not JSON"),
        (row('<tool_call>{"name": "ping", "arguments": "{"}</tool_call>'), "arguments not JSON"),
        (row("<think>A"), "format: no </think>"),
        (row("A</think>B"), "format: </think> closes nothing"),
        (row("Hi.", listed="<tools>[{]</tools>"), "tools not JSON"),
        (row("Hi.", listed="<tools>" + "[" * 10_000), "tools not JSON"),
        (row("Hi.", tools="[{"), "tools not JSON"),
        (row("Hi.", tools="[" * 10_000 + "]" * 10_000), "tools not JSON"),
        (row("Hi.", tools=5), "tools must be a list"),
        (row("Hi.", "", "Ho."), "observation without a call: messages[2]"),
        (row("Hi.", chosen={}, rejected={}), "preference pair"),
        (row(), "no assistant step"),
    ],
)
def test_a_malformed_row_is_refused(broken: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert("hermes", broken)


def test_broken_json_is_mended_when_asked_for(tmp_path: Path) -> None:
    broken = row('<tool_call>{"name": "ping", "arguments": {"to": "a"}', listed=f"<tools>{TOOLS[:-1]}</tools>")
    with repairing() as repairs:
        assert last_target("hermes", broken) == Target(tool_calls=(PINGED,))
    assert len(repairs) == 3
    counts, examples = prepare_rows(tmp_path, [row(CALL), broken], on_invalid="repair")
    assert counts == {"source": "hermes", "rows": 2, "converted": 2, "examples": 2}
    assert [len(example["meta"].get("repairs", [])) for example in examples] == [0, 3]


@pytest.mark.parametrize(
    "text", ["<tool_call>" * 100_000, "<think>" * 100_000, '<tool_call>{"a": "' + "x<tool_call>" * 100_000]
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    assert convert_or_refuse("hermes", row(text))
    with repairing():
        assert convert_or_refuse("hermes", row(text))


def test_any_cut_is_refused_or_read() -> None:
    dialogue = row(f"<think>A</think>B{CALL}", "", "Done.", tools=TOOLS)
    assert cut_anywhere("hermes", dialogue) > 100


def test_what_has_no_tags_is_not_claimed() -> None:
    assert recognise(row("Hi.")) == recognise({"conversations": [said("human", "a"), said("gpt", CALL)]}) == ["hermes"]
    others: tuple[object, ...] = (
        [said("human", f"{CALL} <tools>")],
        [said("system", "x"), said("gpt", "Hi.")],
        [],
        [1],
        "x",
        None,
    )
    assert not any("hermes" in recognise({"conversations": turns}) for turns in others)


@needs_data
@pytest.mark.parametrize(("name", "rows", "examples"), [("reasoning", 1, 2), ("v1", 2, 4)])
def test_real_rows(tmp_path: Path, name: str, rows: int, examples: int) -> None:
    counts, found = prepare_file(tmp_path, DATA / "format_fixtures" / f"hermes_{name}_sample.jsonl")
    assert counts == {"source": "hermes", "rows": rows, "converted": rows, "examples": examples}
    assert (found[0]["target"]["thought"] is not None) == (name == "reasoning")


@needs_data
def test_a_real_preference_pair_is_refused() -> None:
    [text] = (DATA / "format_fixtures" / "fc_dpo_sample.jsonl").read_text("utf-8").splitlines()
    pair = json.loads(text)
    assert "hermes" not in recognise(pair)
    with pytest.raises(DataError, match="preference pair"):
        convert("hermes", pair)
