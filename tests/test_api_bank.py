"""API-Bank as a bench: its two forms as entries, and every kind of answer scored."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import InProcess, read_rows, refusal, write_lines
from test_eval import ScriptedEngine
from test_sources import DATA, needs_data
from test_sources_api_bank import LAMP_INFO, ai, api, user, write_catalogue

from toolrl_cli.benches.api_bank import ApiBankBench, released_calls
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.evaluation import EvalConfig, Summary, evaluate, to_prompt
from toolrl_cli.formats import find_format
from toolrl_cli.records import Json, Target, ToolCall

FORMAT = find_format("toolrl")
SYSTEM = """Help.

**Tools**
1. Name: Lamp
Description: Switches: a lamp.
Parameters: {'lamp': {'type': 'str', 'description': "One's lamp."}, 'on': {'type': 'bool'}}
2. Clock: The time.
Parameters: {}

**Steps**
1. **Think:** Well.
2. **Act**"""
USER = """**Dialogue Records History**
<user>Light, please.</user>
<response>Sure.</response>
<response> Which one? </response>

<user> The one
in the hall. </user>
<response>Yes.</response>
<tool_call>
{"name": "Clock", "parameters": {}}
</tool_call>
<obs> {'time': 1} </obs>

<user> Only one call. </user>
"""
GOLD: Json = {"name": "Lamp", "parameters": {"lamp": "hall", "on": "1"}}
LAMP = {
    "type": "function",
    "function": {
        "name": "Lamp",
        "description": "Switches: a lamp.",
        "parameters": {
            "type": "object",
            "properties": {"lamp": {"type": "string", "description": "One's lamp."}, "on": {"type": "boolean"}},
            "required": ["lamp", "on"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "Clock",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
CLOCK_CALL = {"type": "function", "function": {"name": "Clock", "arguments": {}}}
MESSAGES = (
    {"role": "user", "content": "Light, please."},
    {"role": "assistant", "content": "Sure.\nWhich one?"},
    {"role": "user", "content": "The one\nin the hall."},
    {"role": "assistant", "content": "Yes.", "tool_calls": [CLOCK_CALL]},
    {"role": "tool", "content": "{'time': 1}"},
    {"role": "user", "content": "Only one call."},
)


def row(answer: object = None, system: str = SYSTEM, history: str = USER) -> Json:
    """A processed row."""
    return {"system": system, "user": history, "answer": answer or [GOLD], "other": {"id": 0}}


def write_rows(path: Path, *rows: object) -> Path:
    """A file as ToolRL released it: one JSON array."""
    path.write_text(json.dumps(rows), "utf-8")
    return path


def answer(*calls: object) -> str:
    """A completion with these calls, one a line; text stays as it is."""
    lines = "\n".join(call if isinstance(call, str) else json.dumps(call) for call in calls)
    return f"<think> x </think>\n<tool_call>\n{lines}\n</tool_call>"


def run(folder: Path, data: Path, texts: dict[str, str], **options: object) -> Summary:
    """Evaluate scripted completions."""
    config = EvalConfig(bench="api-bank", output=folder / "out", data=data, model="scripted")
    return evaluate(replace(config, **options), engine=ScriptedEngine(texts))  # type: ignore[arg-type]


def test_a_processed_row_is_read_back(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "level-2-api_processed.json", row(), row(GOLD, history=USER.replace("**D", "***D")))
    one, two = ApiBankBench(data, FORMAT).entries()
    assert (one.id, one.category, one.tools, one.messages) == ("level-2-0", "level-2", (LAMP, CLOCK), MESSAGES)
    assert one.payload == two.payload == ToolCall("Lamp", {"lamp": "hall", "on": "1"})
    assert (two.id, two.messages, two.prompt) == ("level-2-1", MESSAGES, None)


def test_the_prompt_of_the_data_is_shown_as_it_is(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "level-1.json", row())
    (entry,) = ApiBankBench(data, FORMAT, own_prompt=True).entries()
    assert to_prompt(entry, FORMAT).messages == (
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": USER},
    )
    with pytest.raises(ConfigError, match="asks for answers in the toolrl format, not hermes"):
        ApiBankBench(data, find_format("hermes"), own_prompt=True)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1], ":1: row must be an object, not a number"),
        ([row(), {"system": "", "user": ""}], ":2: no API-Bank row; it must hold system, user and answer"),
        ([row(answer=[{"name": "f"}])], ":1: answer.parameters must be an object"),
        ([row(system="1. Name: f\nDescription: g")], ":1: the system text lists no tools that can be read"),
        ([row(system=SYSTEM.replace("2. Clock:", "2. Clock"))], ":1: the system text lists no tools that can be read"),
        ([row(system=SYSTEM.replace("{}", "{open('x')}"))], ":1: broken tool parameters: \"{open('x')}\""),
        ([row(history=USER + "more")], ":1: the user text has something outside its blocks: 'more'"),
        ([row(history=USER.replace('{"name": "Clock"', "{"))], ":1: a call of the history is no JSON: '{, "),
        ([], ": no gold calls; give other files"),
    ],
)
def test_what_is_no_api_bank_is_refused_with_its_row(tmp_path: Path, raw: list[object], message: str) -> None:
    data = write_rows(tmp_path / "level-1.json", *raw)
    with pytest.raises(DataError) as raised:
        ApiBankBench(data, FORMAT).entries()
    assert str(raised.value).startswith(f"{data}{message}")


APIS = """Ask well.

API descriptions:
{"name": "Lamp", "description": "Switches: a lamp.", "input_parameters": {"lamp": {"type": "str", \
"description": "One's lamp."}, "on": {"type": "bool"}}, "output_parameters": {}}
{"name": "Clock", "description": "The time.", "input_parameters": {}}"""
SPOKEN = """User: Light, please.
AI: Sure.
AI: Which one?
User: The one
in the hall.
AI: Yes.
API-Request: [Clock()]->{'time': 1}
User: Only one call.
Generate API Request:
"""


def official(**changes: object) -> Json:
    """A row of API-Bank's own files."""
    gold = "API-Request: [Lamp(lamp='hall', on='1')]"
    return {"instruction": APIS, "input": SPOKEN, "expected_output": gold, "file": "x", "id": 0} | changes


def test_a_row_of_the_official_files_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [official(), official(expected_output="AI: Done."), official(output="API-Request: [Clock()]")]
    del rows[2]["expected_output"]
    write_rows(tmp_path / "level-1-api.json", *rows)
    one, two = ApiBankBench(tmp_path / "level-1-api.json", FORMAT).entries()
    assert (one.id, one.category, one.tools, one.messages) == ("level-1-0", "level-1", (LAMP, CLOCK), MESSAGES)
    assert (one.payload, two.id, two.payload) == (ToolCall(**arguments(GOLD)), "level-1-2", ToolCall("Clock", {}))
    with pytest.raises(ConfigError, match="only processed rows have a prompt of their own"):
        ApiBankBench(tmp_path, FORMAT, own_prompt=True).entries()

    pytest.importorskip("datasets")
    (tmp_path / "org" / "bank").mkdir(parents=True)
    write_lines(tmp_path / "org" / "bank" / "test.jsonl", [official()])
    monkeypatch.chdir(tmp_path)
    (hub,) = ApiBankBench(Path("hf://org/bank"), FORMAT).entries()
    assert (hub.id, hub.category, hub.messages) == ("api-bank-0", "api-bank", MESSAGES)


def arguments(gold: Json) -> Json:
    """A gold call as the fields of our record."""
    return {"name": gold["name"], "arguments": gold["parameters"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expected_output": "API-Request: [Lamp(open('x'))]"}, "broken API request: \" [Lamp(open('x'))]\""),
        ({"expected_output": "API-Request: [Lamp(lamp=open('x'))]"}, "broken API request"),
        ({"expected_output": "API-Request: Lamp(lamp="}, "broken API request"),
        ({"input": "Hello\nUser: x"}, "the dialogue has a text of no speaker: 'Hello'"),
        ({"instruction": "Ask."}, "the instruction describes no APIs"),
        ({"instruction": "API descriptions:\nLamp"}, "an API description is no JSON: 'Lamp'"),
        ({"input": 3}, "input must be a string, not a number"),
    ],
)
def test_official_rows_that_cannot_be_read_are_refused(tmp_path: Path, changes: Json, message: str) -> None:
    data = write_rows(tmp_path / "level-1.json", official(**changes))
    with pytest.raises(DataError) as raised:
        ApiBankBench(data, FORMAT).entries()
    assert str(raised.value).startswith(f"{data}:1: {message}")


def test_each_call_of_a_raw_dialogue_is_a_step(tmp_path: Path) -> None:
    write_catalogue(tmp_path, Lamp=LAMP_INFO)
    lines = [
        user("Light."),
        ai("Which?"),
        user("Hall."),
        ai("Yes."),
        api("Lamp", "on", lamp="hall"),
        api("Lamp", "off", lamp="attic"),
        ai("Done."),
    ]
    for folder in ("level-1-given-desc", "level-2-toolsearcher"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "Lamp-level-1-7.jsonl", lines)
    entries = ApiBankBench(tmp_path, FORMAT).entries()
    ids = [f"level-{level}-Lamp-level-1-7-{step}" for level in (1, 2) for step in (2, 3)]
    assert [entry.id for entry in entries] == ids
    assert [entry.payload.arguments for entry in entries[:2]] == [{"lamp": "hall"}, {"lamp": "attic"}]
    assert [message["role"] for message in entries[1].messages] == ["user", "assistant", "user", "assistant", "tool"]
    assert {entry.category for entry in entries[2:]} == {"level-2"}
    with pytest.raises(ConfigError, match="only processed rows have a prompt of their own"):
        ApiBankBench(tmp_path, FORMAT, own_prompt=True).entries()


def test_a_folder_without_levels_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "other.json", row())
    with pytest.raises(DataError, match="no API-Bank in this folder"):
        ApiBankBench(tmp_path, FORMAT).entries()
    assert [e.id for e in ApiBankBench(tmp_path / "other.json", FORMAT).entries()] == ["api-bank-0"]


CALL = {"name": "Lamp", "parameters": {"lamp": "hall", "on": "1"}}
OTHER = {"name": "Clock", "parameters": {}}
WRONG = {"name": "Lamp", "parameters": {"lamp": "attic", "room": "x"}}
CASES: dict[str, tuple[str, bool, bool, str, str | None]] = {
    "exact": (answer(CALL), True, True, "exact", None),
    "and another": (answer(OTHER, CALL), True, False, "partial", None),
    "twice": (answer(CALL, CALL), True, False, "partial", None),
    "wrong tool": (answer(OTHER), False, False, "wrong", "wrong_tool"),
    "wrong arguments": (answer(OTHER, WRONG), False, False, "partial", "wrong_arguments"),
    "a number for its text": (answer(json.dumps(CALL).replace('"1"', "1")), False, False, "partial", "wrong_arguments"),
    "no call": ("<think> x </think>\n<response> No. </response>", False, False, "no_call", "no_call"),
    "nothing": ("", False, False, "no_call", "no_call"),
    "no call can be read": (answer("Lamp(hall)"), False, False, "malformed", "parse"),
    "one of two can be read": (answer(CALL, "Lamp("), True, False, "malformed", "parse"),
    "only arguments": (answer(CALL["parameters"]), True, False, "malformed", "parse"),
    "no tags": (json.dumps(CALL), True, False, "partial", None),
}


def test_every_kind_of_answer_has_its_score(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "level-3.json", *[row()] * len(CASES))
    texts = {f"level-3-{i}": case[0] for i, case in enumerate(CASES.values())}
    summary = run(tmp_path, data, texts)
    rows = {result["id"]: result for result in read_rows(tmp_path / "out" / "results.jsonl")}
    found = [
        (name, r["completion"], r["correct"], r["score"]["exact_match"] == 1.0, r["outcome"], r["error_type"])
        for name, r in zip(CASES, (rows[id] for id in texts), strict=True)
    ]
    assert found == [(name, *case) for name, case in CASES.items()]
    assert rows["level-3-4"]["error"] == "Lamp: 'lamp', 'on', 'room'"
    assert rows["level-3-3"]["error"] == "Clock is called; Lamp is wanted"
    assert {name: round(m.value * 12) for name, m in summary.metrics.items()} == {"soft_match": 6, "exact_match": 1}
    tally = summary.categories["level-3"]
    assert (tally.n, tally.correct, tally.parse_failures) == (12, 6, 3)


def test_other_formats_are_read_by_themselves(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "level-1.json", row(), row())
    call = '<tool_call>\n{"name": "Lamp", "arguments": {"lamp": "hall", "on": "1"}}\n</tool_call>'
    summary = run(tmp_path, data, {"level-1-0": call, "level-1-1": answer(CALL)}, format="hermes")
    assert (summary.metrics["soft_match"].value, summary.categories["level-1"].parse_failures) == (0.5, 1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("<tool_call>a</tool_call><tool_call>\n" + json.dumps(OTHER), ["Clock"]),
        (f"{json.dumps(OTHER)}\n\n[1]\nx\n{json.dumps(CALL)}</tool_call>", ["Clock", "Lamp"]),
        ("<tool_call>{}</tool_call>", ["gold"]),
        (f"{json.dumps(CALL)}\n1\n{json.dumps(OTHER)}", ["Lamp"]),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_calls_are_read_as_they_were_released(text: str, names: list[str]) -> None:
    assert [call.name for call in released_calls(text, ToolCall("gold", {}))] == names


def gold_of(bench: ApiBankBench) -> dict[str, str]:
    """The gold of each entry as a completion."""
    return {entry.id: FORMAT.render_target(Target(tool_calls=(entry.payload,))) for entry in bench.entries()}


@needs_data
@pytest.mark.parametrize("own_prompt", [False, True])
def test_the_released_gold_is_all_right(tmp_path: Path, own_prompt: bool) -> None:
    folder = DATA / "toolrl"
    summary = run(tmp_path, folder, gold_of(ApiBankBench(folder, FORMAT)), own_prompt=own_prompt)
    counts = {name: (tally.n, tally.correct) for name, tally in summary.categories.items()}
    assert counts == {"level-1": (399, 399), "level-2": (67, 67), "level-3": (131, 131)}
    assert [metric.value for metric in summary.metrics.values()] == [1.0, 1.0]


@needs_data
def test_the_raw_gold_is_all_right(tmp_path: Path) -> None:
    folder = DATA / "apibank"
    summary = run(tmp_path, folder, gold_of(ApiBankBench(folder, FORMAT)))
    counts = {name: (tally.n, tally.correct) for name, tally in summary.categories.items()}
    assert counts == {"level-1": (389, 389), "level-2": (119, 119)}


@needs_data
def test_the_released_prompts_lose_nothing() -> None:
    entries = ApiBankBench(DATA / "toolrl", FORMAT).entries()
    unlisted = [e.id for e in entries if e.payload.name not in {tool["function"]["name"] for tool in e.tools}]
    assert unlisted == [f"level-2-{i}" for i in (6, 13, 14, 19, 25, 54)]
    roles = Counter(message["role"] for entry in entries for message in entry.messages)
    assert (roles["user"], roles["tool"]) == (1678 + 211 + 262, 269 + 22 + 132)


def test_the_command_line(tmp_path: Path, cli: InProcess) -> None:
    data = write_rows(tmp_path / "level-1.json", row())
    call = {"name": "Lamp", "arguments": {"lamp": "hall", "on": "1"}}
    predictions = write_lines(tmp_path / "p.jsonl", [{"id": "level-1-0", "tool_calls": [call]}])
    asked = ["eval", "--bench", "api-bank", "--data", data, "--predictions", predictions, "-o"]
    done = cli(*asked, tmp_path / "out", "--json")
    assert json.loads(done.stdout)["metrics"]["exact_match"]["value"] == 1.0
    refused = refusal(cli(*asked, tmp_path / "two", "--own-prompt", "--format", "llama3"), 2)
    assert refused.startswith("--own-prompt asks")
