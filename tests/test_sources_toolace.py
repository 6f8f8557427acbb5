"""ToolACE rows: calls as text, names that hold anything, and lists that are prose."""

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

FEED = {
    "name": "Pet Feed (Live) V2",
    "description": "A feed.",
    "parameters": {
        "type": "dict",
        "properties": {"pet": {"type": "str"}, "$top": {"type": "int"}},
        "required": ["pet"],
    },
    "required": None,
}
FEED_SCHEMA = {
    "type": "object",
    "properties": {"pet": {"type": "string"}, "$top": {"type": "integer"}},
    "required": ["pet"],
}
FEED_TOOL = {
    "type": "function",
    "function": {"name": "Pet Feed (Live) V2", "description": "A feed.", "parameters": FEED_SCHEMA},
}


def system(*tools: Json) -> str:
    """A system text around tools."""
    return f"Compose. These exist:\n{json.dumps(tools)}. \nWrite [func1(name=value, ...), func2(params)]\n"


def row(*answers: str, tools: tuple[Json, ...] = (FEED, {**PING, "name": "Pet"}), **fields: Any) -> Json:
    """A question and its answers, with a result between two of them."""
    turns = [said("tool", '[{"name": "x"}]') if i % 2 else said("assistant", a) for i, a in enumerate(answers)]
    return {"system": system(*tools), "conversations": [said("user", "Go."), *turns], **fields}


def read(call: str, *tools: Json) -> Json:
    """The arguments of a call of `f`."""
    target = last_target("toolace", row(call, tools=tools or ({"name": "f"},)))
    [found] = target.tool_calls
    assert found.name == "f"
    return found.arguments


def test_a_dialogue_becomes_its_steps() -> None:
    text = '[Pet Feed (Live) V2(pet="cat", $top=3), Pet()]'
    history: tuple[Json, ...] = (
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("Pet Feed (Live) V2", pet="cat", **{"$top": 3}), called("Pet")],
        },
        {"role": "tool", "content": '[{"name": "x"}]'},
    )
    tools = (FEED_TOOL, {**PING_TOOL, "function": {**PING, "name": "Pet"}})
    calls = Target(tool_calls=(ToolCall("Pet Feed (Live) V2", {"pet": "cat", "$top": 3}), ToolCall("Pet", {})))
    assert convert("toolace", row(text, "", "Two cats.", level=1)) == [
        Example("r-1", "toolace", tools, history[:1], calls, {"level": 1}),
        Example("r-2", "toolace", tools, history, Target(None, (), "Two cats."), {"level": 1}),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (" a = 1 , b=-2.5e3 ,", {"a": 1, "b": -2500.0}),
        ("from='x', a.b=1, a-b=2, $top=3, class=4", {"from": "x", "a.b": 1, "a-b": 2, "$top": 3, "class": 4}),
        (
            "a=true, b=True, c=null, d=None, e=false, f=False",
            {"a": True, "b": True, "c": None, "d": None, "e": False, "f": False},
        ),
        (r"""a='it\'s', b="say \"hi\"", c='say "hi"', d="it's" """, {"a": "it's", "b": 'say "hi"'}),
        ('a="[f(b=1), g()]", b=")"', {"a": "[f(b=1), g()]", "b": ")"}),
        (r'a="\u00e9\n\t\\ \/ \d", b="\ud83d\ude00"', {"a": "é\n\t\\ / \\d", "b": "😀"}),
        ('a="日本 é", b="two\nlines"', {"a": "日本 é", "b": "two\nlines"}),
        ("""a={"x": [1, {'y': None}], 'z': true}, b=[]""", {"a": {"x": [1, {"y": None}], "z": True}, "b": []}),
    ],
)
def test_values_are_json_or_python(arguments: str, expected: Json) -> None:
    assert read(f"[f({arguments})]").items() >= expected.items()


@pytest.mark.parametrize(
    "text",
    [
        "[f(a=1)",
        "[f(a=1)] and more",
        "[f(a=b)]",
        "[f(1)]",
        "[f(a=1, a=2)]",
        "[f(a=2024-01-02)]",
        "[f(a=007)]",
        '[f(a="x)]',
        '[f(a="say "hi"")]',
        "[f(a={1: 2})]",
        "[f(a=[1 2])]",
        "[f]",
        "[]",
        "[",
        '[{"name": "f"}]',
        "[f(a=" + "[" * 10_000 + "]" * 10_000 + ")]",
        "[f(a=" + '{"a":' * 10_000,
    ],
)
def test_what_opens_a_list_must_be_calls(text: str) -> None:
    with pytest.raises(DataError, match="calls not readable"):
        convert("toolace", row(text, tools=({"name": "f"},)))


@pytest.mark.parametrize("text", ["[Note] I cannot (yet).", "[docs](http://x) say so", "No tool fits.", "Use [f()]."])
def test_prose_is_a_response(text: str) -> None:
    assert last_target("toolace", row(text)) == Target(None, (), text)


def test_an_undeclared_name_is_read_so_that_it_can_be_named(tmp_path: Path) -> None:
    rows = [row("[Get It(a=1)]"), row('[Pet Feed (Live) V2(pet="x")]')]
    counts, [example] = prepare_rows(tmp_path, rows)
    assert counts == {"source": "toolace", "rows": 2, "converted": 1, "examples": 1}
    assert example["target"]["tool_calls"] == [{"name": "Pet Feed (Live) V2", "arguments": {"pet": "x"}}]
    [reject] = map(json.loads, (tmp_path / "out.rejects.jsonl").read_text().splitlines())
    assert reject["reason"] == "undeclared tool: 'Get It'"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": None}, "system must be a string, not null"),
        ({"system": "No list."}, "no tools: the system text holds no JSON list"),
        ({"system": 'Tools: [{"name": "f", "enum": []'}, "tools not JSON"),
        ({"system": '[{"name": 5}]'}, "tool name must be a string"),
        ({"system": '[{"name": "f"}, 7]'}, "tool must be an object"),
        ({"system": '[{"a":' * 10_000}, "tools not JSON"),
        ({"conversations": None}, "conversations must be a list"),
        ({"conversations": [said("user", "a"), said("bot", "b")]}, "unknown role: conversations[1]: 'bot'"),
        ({"conversations": [{"from": "user"}]}, "conversations[0].value must be a string"),
        ({"conversations": [said("user", "a"), said("assistant", "f(a=1)"), said("tool", "b")]}, "without a call"),
        ({"conversations": [said("user", "a")]}, "no assistant step"),
    ],
)
def test_a_malformed_row_is_refused(change: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert("toolace", {**row("Hi."), **change})


def test_no_tools_are_an_empty_list() -> None:
    [example] = convert("toolace", {**row("Hi."), "system": "Tools: []. Write [f()]"})
    assert example.tools == ()


def test_a_broken_list_of_tools_is_mended_when_asked_for() -> None:
    broken = {**row("[ping()]"), "system": 'Tools: [{"name": "ping" "parameters": {}}]. Write [f()]'}
    with repairing() as repairs:
        assert last_target("toolace", broken) == Target(tool_calls=(ToolCall("ping", {}),))
    assert len(repairs) == 1


def test_any_cut_is_refused_or_read() -> None:
    assert cut_anywhere("toolace", row('[Pet Feed (Live) V2(pet="c\\u00e9", $top=[{"a": None}])]', "", "Ok.")) > 100


@pytest.mark.parametrize("text", ["[f(" * 50_000, "[" * 200_000, '[f(a="' + '\\"' * 200_000, "[f(" + " " * 200_000])
def test_hostile_text_takes_linear_time(text: str) -> None:
    assert convert_or_refuse("toolace", row(text)).startswith("calls not readable")


def test_rows_with_tools_of_their_own_or_tags_are_of_another_source() -> None:
    assert recognise(row("Hi.")) == ["toolace"]
    others = ({**row("Hi."), "tools": "[]"}, row("<tool_call>{}</tool_call>"), {**row("Hi."), "system": "[1]"})
    assert not any("toolace" in recognise(other) for other in others)


@needs_data
def test_real_rows(tmp_path: Path) -> None:
    counts, examples = prepare_file(tmp_path, DATA / "format_fixtures" / "toolace_sample.jsonl")
    assert counts == {"source": "toolace", "rows": 3, "converted": 3, "examples": 5}
    assert [len(example["target"]["tool_calls"]) for example in examples] == [1, 0, 0, 1, 0]
