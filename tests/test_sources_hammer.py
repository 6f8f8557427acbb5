"""Hammer's masked rows: sections of an instruction, and a fenced list of calls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dialogues import (
    PING,
    PING_TOOL,
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

CALL = '[{"name": "ping", "arguments": {"to": "a"}}]'


def instruction(tools: str, query: str = "Ping a.") -> str:
    """An instruction with its sections."""
    return (
        f"[BEGIN OF AVAILABLE TOOLS]\n{tools}\n[END OF AVAILABLE TOOLS]\n\n"
        f'[BEGIN OF FORMAT]\n```\n[{{"name": "x"}}]\n```\n[END OF FORMAT]\n[BEGIN OF QUERY]\n{query}\n[END OF QUERY]\n'
    )


ROW: Json = {"instruction": instruction(json.dumps([PING])), "input": "", "output": f"```\n{CALL}\n```"}


@pytest.mark.parametrize("output", [CALL, f"```\n{CALL}\n```", f"```json\n{CALL}```\n"])
def test_a_triple_becomes_one_step(output: str) -> None:
    target = Target(tool_calls=(ToolCall("ping", {"to": "a"}),))
    messages: tuple[Json, ...] = ({"role": "user", "content": "Ping a."},)
    row = {**ROW, "output": output, "split": 1}
    assert convert("hammer", row) == [Example("r", "hammer", (PING_TOOL,), messages, target, {"split": 1})]


def test_no_calls_are_an_empty_target() -> None:
    assert last_target("hammer", {**ROW, "output": "```\n[]\n```"}) == Target()


def test_a_query_may_speak_of_sections() -> None:
    [example] = convert("hammer", {**ROW, "instruction": instruction("[]", "What is [END OF QUERY] for?")})
    assert example.messages == ({"role": "user", "content": "What is [END OF QUERY] for?"},)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": None}, "instruction must be a string"),
        ({"instruction": "Ping."}, "format: no section [BEGIN OF QUERY]"),
        ({"instruction": instruction("[]").replace("[END OF AVAILABLE", "[")}, "no section [BEGIN OF AVAILABLE TOOLS]"),
        ({"instruction": instruction("[]", " ")}, "no user message"),
        ({"instruction": instruction('[{"name"')}, "tools not JSON"),
        ({"instruction": instruction("[" * 10_000)}, "tools not JSON"),
        ({"input": "more"}, "wrong shape: input must be empty"),
        ({"output": 5}, "output must be a string"),
        ({"output": "```\n[{]\n```"}, "answers not JSON"),
        ({"output": "{}"}, "answers must be a list"),
        ({"output": "[1]"}, "answer must be an object"),
        ({"output": "[" * 10_000}, "answers not JSON"),
    ],
)
def test_a_malformed_row_is_refused(change: Json, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert("hammer", {**ROW, **change})


def test_a_broken_answer_is_mended_when_asked_for(tmp_path: Path) -> None:
    broken = {**ROW, "output": CALL[:-1]}
    with repairing():
        assert last_target("hammer", broken) == last_target("hammer", ROW)
    counts, examples = prepare_rows(tmp_path, [ROW, broken], on_invalid="repair")
    assert counts == {"source": "hammer", "rows": 2, "converted": 2, "examples": 2}
    assert [len(example["meta"].get("repairs", [])) for example in examples] == [0, 1]


def test_any_cut_is_refused_or_read() -> None:
    assert cut_anywhere("hammer", ROW) > 100


@pytest.mark.parametrize("text", ["[" * 10_000, '[{"a":' * 10_000, "[{" * 200_000])
def test_what_cannot_be_mended_is_refused(text: str) -> None:
    with repairing():
        assert convert_or_refuse("hammer", {**ROW, "output": text}).startswith("answers not JSON")


def test_a_plain_triple_is_not_claimed() -> None:
    assert recognise(ROW) == ["hammer"]
    assert recognise({**ROW, "instruction": "Add."}) == []


@needs_data
def test_real_rows(tmp_path: Path) -> None:
    """One row gives fractions where its tool wants booleans."""
    counts, examples = prepare_file(tmp_path, DATA / "hammer" / "masking_sft_data_example.json")
    assert counts == {"source": "hammer", "rows": 10, "converted": 9, "examples": 9}
    assert [len(example["target"]["tool_calls"]) for example in examples] == [0, 1, 2, 4, 2, 1, 2, 1, 0]
