"""Glaive rows: a dialogue in one text, whose markers and quotes its speakers use too."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
)
from test_sources import DATA, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import recognise

END = "<|endoftext|>"
SYSTEM = (
    f"SYSTEM: You help with these functions -\n{json.dumps(PING, indent=2)}\n\n{json.dumps({**PING, 'name': 'pong'})}\n"
)
CALL = """<functioncall> {"name": "ping", "arguments": '{"to": "a"}'}"""
PONG_TOOL = {"type": "function", "function": {**PING, "name": "pong"}}
CHAT = (
    f"USER: Go.\n\n\nASSISTANT: Sure. {CALL} {END}\n\n\nFUNCTION RESPONSE: ok\n\n\nASSISTANT: Done. {END}\n\n\n"
    f"USER: Thanks.\n\n\nASSISTANT: Bye. {END}\n"
)


def row(chat: str, system: str = SYSTEM) -> Json:
    """A row of both texts."""
    return {"system": system, "chat": chat}


def answer(text: str) -> Json:
    """A row with one answer."""
    return row(f"USER: Go.\n\n\nASSISTANT: {text} {END}\n")


def spoken(chat: str) -> list[tuple[str, str | None]]:
    """Who says what in a chat, the last answer included."""
    *_, last = convert("glaive", row(chat))
    return [*((m["role"], m["content"]) for m in last.messages), ("assistant", last.target.response)]


@pytest.mark.parametrize(
    "chat", [CHAT, CHAT.replace("\n\n\n", "\n"), CHAT.replace("\n\n\n", " "), CHAT.rstrip()[: -len(END)]]
)
def test_a_dialogue_becomes_its_steps(chat: str) -> None:
    history: tuple[Json, ...] = (
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Sure.", "tool_calls": [called("ping", to="a")]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks."},
    )
    tools = (PING_TOOL, PONG_TOOL)
    assert convert("glaive", {**row(chat), "split": 1}) == [
        Example(
            "r-1", "glaive", tools, history[:1], Target(None, (ToolCall("ping", {"to": "a"}),), "Sure."), {"split": 1}
        ),
        Example("r-2", "glaive", tools, history[:3], Target(None, (), "Done."), {"split": 1}),
        Example("r-3", "glaive", tools, history, Target(None, (), "Bye."), {"split": 1}),
    ]


def test_a_system_text_without_tools_stays() -> None:
    [example] = convert("glaive", {**answer("Hi."), "system": "SYSTEM: You have no access to functions."})
    assert example.tools == ()
    assert example.messages[0] == {"role": "system", "content": "You have no access to functions."}


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("""{"name": "ping", "arguments": '{"to": "it's O'Hara's"}'}""", {"to": "it's O'Hara's"}),
        (r"""{"name": "ping", "arguments": '{"to": "it\'s"}'}""", {"to": "it's"}),
        (
            """{"name": "ping", "arguments": '{"to": "two\nlines", "n": [1, {"a": null}]}'}""",
            {"to": "two\nlines", "n": [1, {"a": None}]},
        ),
        ("""{"name": "ping", "arguments": '{'to': True}'}""", {"to": True}),
        ("""{"name": "ping", "arguments": ''}""", {}),
        ("""{"name": "ping", "arguments": '{}'}""", {}),
        ("""{"name": "ping", "arguments": {"to": "a"}}""", {"to": "a"}),
        ("""{"name": "ping", "arguments": "{\\"to\\": \\"a\\"}"}""", {"to": "a"}),
        ("""{'name': 'ping', 'arguments': {'to': None}}""", {"to": None}),
        ("""{"name": "ping"}""", {}),
    ],
)
def test_arguments_may_be_quoted_in_any_way(call: str, arguments: Json) -> None:
    assert last_target("glaive", answer(f"<functioncall> {call}")) == Target(tool_calls=(ToolCall("ping", arguments),))


def test_several_calls_are_one_step() -> None:
    assert len(last_target("glaive", answer(f"{CALL} {CALL}")).tool_calls) == 2


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (
            f"USER: What do USER: and ASSISTANT: mean?\n\n\nASSISTANT: USER: is you.\nASSISTANT: is me. {END}",
            [("user", "What do USER: and ASSISTANT: mean?"), ("assistant", "USER: is you.\nASSISTANT: is me.")],
        ),
        (
            f"USER: Say USER: x ASSISTANT: USER: x {END}",
            [("user", "Say USER: x"), ("assistant", "USER: x")],
        ),
        (
            "USER: a ASSISTANT: b USER: c ASSISTANT: d",
            [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        ),
        (
            f"ASSISTANT: Hello. {END} USER: SUPERUSER: a ASSISTANT: b {END}",
            [("assistant", "Hello."), ("user", "SUPERUSER: a"), ("assistant", "b")],
        ),
    ],
)
def test_speakers_may_use_the_markers(chat: str, expected: list[tuple[str, str]]) -> None:
    assert spoken(chat) == expected


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"system": None, "chat": CHAT}, "system must be a string"),
        ({"system": SYSTEM, "chat": 5}, "chat must be a string"),
        (row("Hello USER: a ASSISTANT: b"), "history: text before the first speaker: 'Hello '"),
        (row("Hello"), "history: text before the first speaker"),
        (row(""), "no user message"),
        (row("USER: a"), "no assistant step"),
        (row(f"USER: a ASSISTANT: b {END} c"), f"history: text behind {END}"),
        (row(f"USER: a ASSISTANT: b {END} FUNCTION RESPONSE: c ASSISTANT: d {END}"), "observation without a call"),
        (answer(""), "empty assistant step"),
        (answer("<functioncall> ping"), "call not JSON: 'ping'"),
        (answer("<functioncall>"), "tool call name must be a string"),
        (answer("""<functioncall> {"name": "ping", "arguments": '{"to": '}"""), "arguments not JSON"),
        (answer("""<functioncall> {"name": "ping", "arguments": '[{"to": 1}]'}"""), "arguments of 'ping' must be"),
        (answer("""<functioncall> {"name": "ping", "arguments": '""" + "[" * 10_000 + "'}"), "arguments not JSON"),
        (row(CHAT, 'Functions -\n{"name": "ping"'), "tools not JSON"),
        (row(CHAT, 'Functions -\n{"name": "ping"} and more'), "tools not JSON"),
        (row(CHAT, '{"a":' * 10_000), "tools not JSON"),
    ],
)
def test_a_malformed_row_is_refused(broken: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert("glaive", broken)


def test_broken_json_is_mended_when_asked_for(tmp_path: Path) -> None:
    broken = row(CHAT.replace('"a"}', '"a"'), SYSTEM.rstrip()[:-1])
    with repairing() as repairs:
        assert convert("glaive", broken) == convert("glaive", row(CHAT))
    assert len(repairs) == 2
    counts, examples = prepare_rows(tmp_path, [row(CHAT), broken], on_invalid="repair")
    assert counts == {"source": "glaive", "rows": 2, "converted": 2, "examples": 6}
    assert [len(example["meta"].get("repairs", [])) for example in examples] == [0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    "chat",
    [
        "USER: " * 100_000,
        "USER: a" + " ASSISTANT:" * 100_000,
        f"USER: a ASSISTANT: b {END * 100_000}",
        "USER: a ASSISTANT: " + "<functioncall>" * 100_000,
        """USER: a ASSISTANT: <functioncall> {"name": "x", "arguments": '""" + "' " * 100_000,
        "USER: a\n\n\nASSISTANT: b" + "\n" * 100_000 + "x",
    ],
)
def test_hostile_text_takes_linear_time(chat: str) -> None:
    convert_or_refuse("glaive", row(chat))


def test_any_cut_is_refused_or_read() -> None:
    assert cut_anywhere("glaive", row(CHAT)) > 100


def test_both_texts_are_needed() -> None:
    assert recognise(row(CHAT)) == ["glaive"]
    others: tuple[Json, ...] = ({"system": "x"}, {"system": "x", "chat": None}, {"chat": "USER: x"})
    assert [recognise(other) for other in others] == [[], [], []]


@needs_data
def test_real_rows(tmp_path: Path) -> None:
    counts, examples = prepare_file(tmp_path, DATA / "format_fixtures" / "glaive_sample.jsonl")
    assert counts == {"source": "glaive", "rows": 3, "converted": 3, "examples": 7}
    assert [len(example["target"]["tool_calls"]) for example in examples] == [1, 0, 0, 1, 0, 1, 0]
