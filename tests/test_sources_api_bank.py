"""API-Bank's dialogues: what becomes of a file, and how dirt is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from conftest import InProcess, read_rows, refusal, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import DATA, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.api_bank import TOOL_SEARCHER, ApiBankSource, read_catalogue
from toolrl_cli.sources.registry import SOURCES, recognise

LAMP_INFO = """description = "Switches a lamp."
input_parameters = {
    'lamp': {'type': 'str', 'description': 'Which one.'},
    'since': {'type': 'datetime', 'description': 'When.'},
}
output_parameters = {}"""
NOTHING_INFO = 'description = "The time."\ninput_parameters = {\n    None\n}'
LAMP_TOOL = {
    "type": "function",
    "function": {
        "name": "Lamp",
        "description": "Switches a lamp.",
        "parameters": {
            "type": "object",
            "properties": {
                "lamp": {"type": "string", "description": "Which one."},
                "since": {"x-type": "datetime", "description": "When."},
            },
            "required": ["lamp", "since"],
        },
    },
}
CLOCK_TOOL = {
    "type": "function",
    "function": {
        "name": "Clock",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


def quote(text: str) -> str:
    """A text as a field of CSV."""
    return '"' + text.replace('"', '""') + '"'


def write_catalogue(folder: Path, **infos: str) -> Path:
    """A catalogue of APIs by name."""
    path = folder / "all_apis.csv"
    lines = [f"{i},{name},{quote(info)}" for i, (name, info) in enumerate(infos.items(), start=1)]
    path.write_text("\n".join(["id,类名,api_info", *lines]), "utf-8")
    return path


def user(text: object) -> Json:
    """A line of the user."""
    return {"role": "User", "text": text}


def ai(text: object) -> Json:
    """A line of the assistant."""
    return {"role": "AI", "text": text}


def api(name: str, output: object, **arguments: object) -> Json:
    """A line of a call that went well."""
    result = {"api_name": name, "input": arguments, "output": output, "exception": None}
    return {"role": "API", "api_name": name, "param_dict": arguments, "result": result}


def call(name: str, **arguments: object) -> Json:
    """A call in the history."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


DIALOGUE = [
    user("Light?"),
    ai("One moment."),
    api("Clock", {"hour": 7}),
    api("Lamp", "success", lamp="desk", since="7:00"),
    ai("It is on."),
    ai("Anything else?"),
    user("No."),
]


@pytest.fixture
def source(tmp_path: Path) -> ApiBankSource:
    """The source over a catalogue of a lamp and a clock."""
    return ApiBankSource().open(tmp_path / "d.jsonl", write_catalogue(tmp_path, Lamp=LAMP_INFO, Clock=NOTHING_INFO))


class TestConvert:
    def test_texts_and_calls_become_steps(self, source: ApiBankSource) -> None:
        clock: Json = {"role": "assistant", "content": "One moment.", "tool_calls": [call("Clock")]}
        lamp: Json = {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("Lamp", lamp="desk", since="7:00")],
        }
        history: tuple[Json, ...] = (
            {"role": "user", "content": "Light?"},
            clock,
            {"role": "tool", "content": '{"hour": 7}', "name": "Clock"},
            lamp,
            {"role": "tool", "content": '"success"', "name": "Lamp"},
        )
        tools = (LAMP_TOOL, CLOCK_TOOL)
        lit = Target(None, (ToolCall("Lamp", {"lamp": "desk", "since": "7:00"}),))
        assert source.convert({"lines": DIALOGUE}, "r") == [
            Example("r-1", "api-bank", tools, history[:1], Target(None, (ToolCall("Clock", {}),), "One moment.")),
            Example("r-2", "api-bank", tools, history[:3], lit),
            Example("r-3", "api-bank", tools, history, Target(response="It is on.\nAnything else?")),
        ]

    def test_only_the_called_apis_are_offered_in_the_order_of_the_catalogue(self, source: ApiBankSource) -> None:
        lines = [user("Find a lamp."), api("ToolSearcher", [], keywords="lamp"), api("Unknown", 1)]
        assert [example.tools for example in source.convert({"lines": lines}, "r")] == [(TOOL_SEARCHER,)] * 2

    def test_an_exception_is_the_result_and_what_is_no_copy_stays_in_meta(self, source: ApiBankSource) -> None:
        failed = {"output": 1, "exception": "no such lamp", "input": {"lamp": 3}, "api_name": "Lamp", "cost": 2}
        lines = [
            {**user("On!"), "mood": "calm"},
            {"role": "API", "api_name": "Lamp", "param_dict": {"lamp": "3"}, "result": failed},
            ai("Sorry."),
        ]
        _, example = source.convert({"lines": lines}, "r")
        assert example.messages[-1] == {"role": "tool", "content": "no such lamp", "name": "Lamp"}
        rest = {"1": {"mood": "calm"}, "2": {"result": {"output": 1, "input": {"lamp": 3}, "cost": 2}}}
        assert example.meta == {"line_fields": rest}

    def test_an_exception_that_is_no_text_is_json(self, source: ApiBankSource) -> None:
        line = {"role": "API", "api_name": "Clock", "param_dict": {}, "result": {"exception": {"code": 5}}}
        *_, example = source.convert({"lines": [user("Now?"), line, ai("No idea.")]}, "r")
        assert example.messages[-1]["content"] == '{"code": 5}'

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            (None, "lines must be a list, not null"),
            ([1], "lines[0] must be an object, not a number"),
            ([], "no user message"),
            ([user("Hi")], "no assistant step"),
            ([user(None), ai("a")], "lines[0].text must be a string, not null"),
            ([user("Hi"), ai(["a"])], "lines[1].text must be a string, not a list"),
            ([user("Hi"), ai("")], "empty assistant step"),
            ([user("Hi"), {"role": "Robot", "text": "a"}], "unknown role: lines[1]: 'Robot'"),
            ([user("Hi"), {"role": ["AI"]}], "lines[1].role must be a string, not a list"),
            ([user("Hi"), {"role": "API", "api_name": ["Lamp"]}], "lines[1].api_name must be a string, not a list"),
            ([user("Hi"), {**api("Lamp", 1), "param_dict": "{}"}], "lines[1].param_dict must be an object"),
            ([user("Hi"), {**api("Lamp", 1), "result": None}], "lines[1].result must be an object, not null"),
        ],
    )
    def test_a_malformed_dialogue_is_refused(self, source: ApiBankSource, lines: object, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            source.convert({"lines": lines}, "r")

    def test_very_many_texts_in_a_row_are_one_step(self, source: ApiBankSource) -> None:
        [example] = source.convert({"lines": [user("Go."), *[ai("on") for _ in range(100_000)]]}, "r")
        assert example.target == Target(response="\n".join(["on"] * 100_000))

    @settings(max_examples=200, deadline=None)
    @given(
        lines=st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.sampled_from(["User", "AI", "API"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["role", "text", "api_name", "param_dict", "result", "output", "exception"]),
                    inner,
                    max_size=6,
                )
            ),
            max_leaves=12,
        )
    )
    def test_no_row_raises_anything_but_a_data_error(self, lines: object) -> None:
        try:
            ApiBankSource().convert({"lines": lines}, "r")
        except DataError:
            return


class TestRecognises:
    @pytest.mark.parametrize("line", DIALOGUE)
    def test_each_line_is_recognised_by_this_source_alone(self, line: Json) -> None:
        assert recognise(line) == ["api-bank"]

    @pytest.mark.parametrize(
        "line", [{}, {"role": "User"}, {"role": ["AI"], "text": "a"}, {"role": "user", "text": ""}]
    )
    def test_other_lines_are_not(self, line: Json) -> None:
        assert not SOURCES["api-bank"].recognises(line)


class TestCatalogue:
    def test_it_is_found_in_a_folder_above(self, tmp_path: Path) -> None:
        write_catalogue(tmp_path, Lamp=LAMP_INFO)
        file = tmp_path / "a" / "b" / "c" / "d.jsonl"
        file.parent.mkdir(parents=True)
        [first, *_] = ApiBankSource().open(file, None).convert({"lines": DIALOGUE}, "r")
        assert first.tools == (LAMP_TOOL,)

    def test_a_missing_one_says_what_is_sought_and_where(self, tmp_path: Path) -> None:
        write_catalogue(tmp_path, Lamp=LAMP_INFO)
        file = tmp_path / "1" / "2" / "3" / "4" / "d.jsonl"
        message = f"no catalogue: {file} needs all_apis.csv, which is not beside it or in the 3 folders above; pass it"
        with pytest.raises(DataError, match=re.escape(message)):
            ApiBankSource().open(file, None)

    @pytest.mark.parametrize(
        "info",
        [
            ".",
            "",
            "description = 'no parameters'",
            "input_parameters = open('/etc/passwd').read()",
            "input_parameters = {'a': {1, 2}}",
            "input_parameters = {'a': 5}",
            "input_parameters = {{}}",
            "input_parameters = " + "[" * 5000,
            "input_parameters = " + "-" * 50_000 + "1",
            "description = '\\d'\ninput_parameters = {'a': b'x'}",
            "input_parameters = {'a': {'type': " + "9" * 5000 + "}}",
        ],
    )
    def test_an_api_that_cannot_be_read_is_left_out(self, tmp_path: Path, info: str) -> None:
        assert read_catalogue(write_catalogue(tmp_path, Broken=info, Lamp=LAMP_INFO)) == {"Lamp": LAMP_TOOL}

    def test_a_parameter_map_may_be_none(self, tmp_path: Path) -> None:
        info = "description = 'The time.'\ninput_parameters = None"
        assert read_catalogue(write_catalogue(tmp_path, Clock=info)) == {"Clock": CLOCK_TOOL}

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "describes no API; expected the columns 类名 and api_info"),
            (b"id,name\n1,2,3,4\n", "describes no API"),
            ('类名,api_info\n"A","'.encode() + b"x" * 200_000, "not CSV (field larger than field limit"),
            (b"\xff\xfe", "not UTF-8 text"),
        ],
    )
    def test_a_malformed_one_is_refused(self, tmp_path: Path, content: bytes, reason: str) -> None:
        csv.field_size_limit(131_072)  # Python's own, which reading a CSV file of rows lifts
        path = tmp_path / "apis.csv"
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(reason)):
            ApiBankSource().open(tmp_path / "d.jsonl", path)


class TestPrepare:
    def test_a_folder_of_dialogues(self, tmp_path: Path, cli: InProcess) -> None:
        folder = tmp_path / "samples"
        folder.mkdir()
        write_catalogue(tmp_path, Lamp=LAMP_INFO, Clock=NOTHING_INFO)
        write_lines(folder / "one.jsonl", DIALOGUE)
        write_lines(folder / "two.jsonl", [user("On!"), api("Lamp", "success", lamp=5, room="hall")])
        (folder / "empty.jsonl").touch()
        (folder / "cut.jsonl").write_text(json.dumps(user("Hi")) + '\n{"role": "AI", "te', "utf-8")
        result = cli("prepare", folder, "--from", "api-bank", "-o", tmp_path / "out.jsonl", "--json")
        summary = json.loads(result.stdout)["sources"]["api-bank"]
        assert (summary["rows"], summary["examples"], summary["reasons"]) == (3, 4, {"not JSON": 1})
        assert summary["warnings"] == {"unknown argument": 1, "missing argument": 1, "wrong type": 1}
        ids = ["api-bank-one-1-1", "api-bank-one-1-2", "api-bank-one-1-3", "api-bank-two-1-1"]
        assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == ids

    def test_the_missing_catalogue_is_the_message(self, tmp_path: Path, cli: InProcess) -> None:
        file = write_lines(tmp_path / "one.jsonl", DIALOGUE)
        assert "needs all_apis.csv" in refusal(cli("prepare", file, "-o", tmp_path / "out.jsonl"))

    @needs_data
    def test_every_released_call_arrives(self, tmp_path: Path) -> None:
        output = tmp_path / "out.jsonl"
        summary = prepare_examples(PrepareConfig(inputs=(DATA / "apibank",), output=output)).to_json()
        assert summary["sources"] == {
            "api-bank": {
                "rows": 263,  # of 264 files, one is empty
                "converted": 263,
                "examples": 1363,
                "rejected": 0,
                "reasons": {},
                "repairs": {},
                "warnings": {"unknown argument": 275, "missing argument": 267, "wrong type": 36, "undeclared tool": 1},
            }
        }
        examples = read_rows(output)
        assert sum(len(example["target"]["tool_calls"]) for example in examples) == 508
        answers = [e for e in examples if e["target"]["tool_calls"] and e["target"]["response"]]
        assert (len(answers), len({e["id"] for e in examples})) == (346, 1363)
