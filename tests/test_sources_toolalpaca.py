"""ToolAlpaca's rows: gold actions and recorded dialogues, the text that describes functions, and broken inputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import DATA, needs_data, real_rows

from toolrl_cli.errors import DataError
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.base import REPAIRS
from toolrl_cli.sources.registry import SOURCES, recognise
from toolrl_cli.sources.toolalpaca import GET_DETAILS, is_broken, read_function, read_parameter

SOURCE = SOURCES["toolalpaca"]
FUNCTIONS = {
    "findBoat": 'Finds boats.\nParameters: {"name": "Required. string. Its name.", "crew": "integer. How many."}\n'
    "Output: Fine.\n - Structure: Array[#Boat]",
    "listPorts": "Parameters: {}\nOutput: Ports.",
    "components": "#Boat: Object{id}",
}
FIND_BOAT = {
    "type": "function",
    "function": {
        "name": "findBoat",
        "description": "Finds boats.\nOutput: Fine.\n - Structure: Array[#Boat]",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Its name."},
                "crew": {"type": "integer", "description": "How many."},
            },
            "required": ["name"],
        },
    },
}
LIST_PORTS = {
    "type": "function",
    "function": {
        "name": "listPorts",
        "description": "Output: Ports.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
TOOLS = (FIND_BOAT, LIST_PORTS, GET_DETAILS)


def action(name: object, text: object) -> Json:
    """A gold action."""
    return {"Action": name, "Action_Input": text}


def api(*answers: object, **fields: object) -> Json:
    """A row whose instructions `Do 0`, `Do 1`, ... have these gold answers."""
    instructions = [f"Do {i}" for i in range(len(answers))]
    row = {"Name": "Boats", "Documentation": "{}", "Function_Description": FUNCTIONS}
    return {**row, "Instructions": instructions, "Golden_Answers": list(answers), **fields}


def recorded(*instances: object) -> Json:
    """A row with recorded dialogues."""
    return {"Name": "Boats", "Function_Description": FUNCTIONS, "Instructions": ["?"], "Instances": list(instances)}


INSTANCE: Json = {
    "input": "Where is Ann?\nHint: use a port",
    "intermediate_steps": [
        [["listPorts", "", " I list them.\nAction: listPorts\nAction Input: "], "[1]"],
        [["findBoat", '{"name": "Ann"}', "Thought: Now her.\nAction: findBoat\nAction Input: {}"], "at 1"],
    ],
    "Final Thought": "I know.",
    "output": "At port 1.",
}


def convert(row: Json) -> list[Example]:
    """The examples of all parts of a row."""
    return [example for part in SOURCE.split(row) for example in SOURCE.convert(part, "r")]


def convert_repaired(row: Json) -> tuple[list[Example], list[str]]:
    """The examples of a row where repairs are asked for, and what was repaired."""
    repairs: list[str] = []
    token = REPAIRS.set(repairs)
    try:
        return convert(row), repairs
    finally:
        REPAIRS.reset(token)


class TestGoldAnswers:
    def test_each_instruction_is_an_example_with_parallel_calls(self) -> None:
        row = api(
            [action("findBoat", '{"name": "Ann"}'), {**action("findBoat", {"name": "Bea"}), "Note": 1}],
            [action("listPorts", " ")],
            [],
            Category="Sea",
        )
        meta = {"Name": "Boats", "Category": "Sea", "components": "#Boat: Object{id}"}
        both = Target(tool_calls=(ToolCall("findBoat", {"name": "Ann"}), ToolCall("findBoat", {"name": "Bea"})))
        asked: list[tuple[Json, ...]] = [({"role": "user", "content": f"Do {i}"},) for i in range(3)]
        assert convert(row) == [
            Example("r", "toolalpaca", TOOLS, asked[0], both, {**meta, "actions": [{}, {"Note": 1}]}),
            Example("r", "toolalpaca", TOOLS, asked[1], Target(tool_calls=(ToolCall("listPorts", {}),)), meta),
            Example("r", "toolalpaca", TOOLS, asked[2], Target(), meta),
        ]

    def test_a_part_is_a_row_itself(self) -> None:
        row = api([action("listPorts", "{}")], [action("findBoat", '{"name": "Ann"}')])
        parts = SOURCE.split(row)
        assert [SOURCE.split(part) for part in parts] == [[part] for part in parts]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (api(), "no instruction"),
            (api([], Instructions=[]), "wrong shape: 0 Instructions but 1 Golden_Answers"),
            (api([], Instructions=None), "Instructions must be a list, not null"),
            (api([], Instructions=[5]), "instruction must be a string, not a number"),
            ({**api(), "Golden_Answers": {}}, "Golden_Answers must be a list, not an object"),
            (api("listPorts"), "gold answer must be a list, not a string"),
            (api([5]), "gold answer[0] must be an object, not a number"),
            (api([action(None, "{}")]), "tool call name must be a string, not null"),
            (api([action("listPorts", "[1]")]), "arguments of 'listPorts' must be an object, not a list"),
            (api([action("listPorts", 5)]), "arguments of 'listPorts' must be an object, not a number"),
            (api([action("findBoat", '{"name": An')]), "arguments not JSON: '{\"name\": An'"),
            (api([], Function_Description=None), "Function_Description must be an object, not null"),
            (api([], Function_Description={"a": 5}), "function 'a' must be a string, not a number"),
            (api([], Function_Description={"a": "Does it."}), "tools not JSON: function 'a' has no Parameters"),
            (api([], Function_Description={"a": "Parameters: {#Ref}"}), "tools not JSON: ' {#Ref}'"),
            (api([], Function_Description={"a": "Parameters: [1]"}), "parameters of 'a' must be an object"),
            (api([], Function_Description={"a": 'Parameters: {"b": 5}'}), "parameter 'b' must be a string"),
        ],
    )
    def test_a_malformed_row_is_refused(self, row: Json, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            convert(row)


class TestInstances:
    def test_a_recorded_dialogue_gives_an_example_a_step(self) -> None:
        ports, ann = ({"name": "listPorts", "arguments": {}}, {"name": "findBoat", "arguments": {"name": "Ann"}})
        history: tuple[Json, ...] = (
            {"role": "user", "content": "Where is Ann?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "function": ports}],
                "reasoning_content": "I list them.",
            },
            {"role": "tool", "content": "[1]", "name": "listPorts"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "function": ann}],
                "reasoning_content": "Now her.",
            },
            {"role": "tool", "content": "at 1", "name": "findBoat"},
        )
        meta = {"Name": "Boats", "components": "#Boat: Object{id}", "score": 3, "hint": "use a port"}
        shared = ("toolalpaca", TOOLS)
        assert convert(recorded({**INSTANCE, "score": 3})) == [
            Example("r-1", *shared, history[:1], Target("I list them.", (ToolCall("listPorts", {}),)), meta),
            Example("r-2", *shared, history[:3], Target("Now her.", (ToolCall("findBoat", {"name": "Ann"}),)), meta),
            Example("r-3", *shared, history, Target("I know.", (), "At port 1."), meta),
        ]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (recorded(), "no instruction"),
            (recorded("an error"), "Instances[0] must be an object, not a string"),
            (recorded({}), "input must be a string, not null"),
            (recorded({**INSTANCE, "intermediate_steps": 5}), "intermediate_steps must be a list, not a number"),
            (recorded({**INSTANCE, "intermediate_steps": [5]}), "intermediate_steps[0] must be a list, not a number"),
            (recorded({**INSTANCE, "intermediate_steps": [[["a", "{}"], "x"]]}), "wrong shape: a step must be"),
            (recorded({**INSTANCE, "intermediate_steps": [[["a", "{}", 5], "x"]]}), "log must be a string"),
            (recorded({**INSTANCE, "intermediate_steps": [[["a", "{}", ""], None]]}), "observation must be a string"),
            (recorded({**INSTANCE, "intermediate_steps": [[[["a"], "{}", ""], "x"]]}), "name must be a string"),
            (recorded({**INSTANCE, "output": None}), "output must be a string, not null"),
            (recorded({**INSTANCE, "Final Thought": 5}), "Final Thought must be a string, not a number"),
        ],
    )
    def test_a_malformed_dialogue_is_refused(self, row: Json, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            convert(row)


class TestRepair:
    @pytest.mark.parametrize(
        ("text", "arguments"),
        [
            ('{"name": ${name from listPorts}}', {"name": "${name from listPorts}"}),
            ('{"name": ${a}", "crew": [${b}, ${c}]}', {"name": "${a}", "crew": ["${b}", "${c}"]}),
            ('{"name": ${a from b, "crew": ${c}}', {"name": "${a from b}", "crew": "${c}"}),
            ('{"name": "name": "Ann", "crew": 2}', {"name": "Ann", "crew": 2}),
            ("{'name': 'Ann', 'crew': 2,}", {"name": "Ann", "crew": 2}),
            ('{"name": "Ann", "crew": 2', {"name": "Ann", "crew": 2}),
        ],
    )
    def test_a_broken_input_is_put_in_order_where_asked(self, text: str, arguments: Json) -> None:
        row = api([action("findBoat", text)])
        with pytest.raises(DataError, match="arguments not JSON"):
            convert(row)
        [example], repairs = convert_repaired(row)
        assert example.target == Target(tool_calls=(ToolCall("findBoat", arguments),))
        assert all(repair.startswith("arguments not JSON: ") for repair in repairs)

    def test_what_is_valid_stays_as_it_is(self) -> None:
        row = api([action("findBoat", '{"name": "say ${x}, \\"name\\":\\"name\\":"}')])
        assert convert_repaired(row) == (convert(row), [])

    def test_broken_parameters_of_a_function_too(self) -> None:
        row = api([], Function_Description={"a": 'Parameters: {"b": "string. A "quoted" word."}\nOutput: x'})
        [example], repairs = convert_repaired(row)
        assert list(example.tools[0]["function"]["parameters"]["properties"]) == ["b"]
        assert [repair.partition(":")[0] for repair in repairs] == ["tools not JSON"]

    def test_text_that_is_no_object_stays_refused(self) -> None:
        with pytest.raises(DataError, match="arguments not JSON"):
            convert_repaired(api([action("findBoat", "the boat")]))

    @pytest.mark.parametrize("piece", [":${", '"a":', '"a": "a":', "[ ", ": " * 50, "${a}"])
    def test_hostile_text_takes_linear_time(self, piece: str) -> None:
        with pytest.raises(DataError):
            convert(api([action("findBoat", "x" + piece * 100_000)]))
        assert is_broken("x" + piece * 100_000)


class TestParameters:
    @pytest.mark.parametrize(
        ("text", "schema"),
        [
            ("Required. string. A name.", {"type": "string", "description": "A name."}),
            ("Optional. Integer. How many", {"type": "integer", "description": "How many"}),
            ("number.", {"type": "number", "description": ""}),
            ("boolean", {"type": "boolean", "description": ""}),
            (
                "Array[string]. Words.",
                {"type": "array", "items": {"type": "string"}, "description": "Words."},
            ),
            (
                "Array[Object{id: string. An id., tags: Array[string]. }. ]. A list.",
                {"type": "array", "items": {"type": "object"}, "description": "A list."},
            ),
            ("Object{id: integer}. One.", {"type": "object", "description": "One."}),
            (
                "string. How. One of: [slow, very fast]. Defaults to slow.",
                {
                    "type": "string",
                    "enum": ["slow", "very fast"],
                    "description": "How. One of: [slow, very fast]. Defaults to slow.",
                },
            ),
            ("string. One of: [a, b", {"type": "string", "description": "One of: [a, b"}),
            ("integer. One of: [1, 2].", {"type": "integer", "description": "One of: [1, 2]."}),
            ("The name. Required.", {"description": "The name. Required."}),
            ("Object of love. Yes.", {"description": "Object of love. Yes."}),
            ("Array[" * 100_000, {"description": "Array[" * 100_000}),
            ("", {"description": ""}),
        ],
    )
    def test_a_text_becomes_a_schema(self, text: str, schema: Json) -> None:
        assert read_parameter(text, "p") == schema

    def test_a_function_may_speak_of_parameters(self) -> None:
        tool = read_function("f", "Takes Parameters: none.\nOutput of it.\nParameters: {}")
        assert tool["function"]["description"] == "Takes Parameters: none.\nOutput of it."


class TestRecognises:
    @pytest.mark.parametrize("row", [api([]), recorded(INSTANCE)])
    def test_by_this_source_alone(self, row: Json) -> None:
        assert recognise(row) == ["toolalpaca"]

    def test_an_api_alone_is_not(self) -> None:
        assert recognise({"Name": "Boats", "Function_Description": FUNCTIONS}) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6) | st.sampled_from([*FUNCTIONS.values(), "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Action", "Action_Input", *INSTANCE]), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = ("Function_Description", "Instructions", "Golden_Answers", "Instances", "Name")


@settings(max_examples=300, deadline=None)
@given(row=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), repair=st.booleans())
def test_no_row_raises_anything_but_a_data_error(row: Json, repair: bool) -> None:
    SOURCE.recognises(row)
    row = {"Function_Description": FUNCTIONS, **row}
    try:
        convert_repaired(row) if repair else convert(row)
    except DataError:
        return


def write_array(path: Path, *rows: Json) -> Path:
    """A JSON array of rows."""
    path.write_text(json.dumps(rows), "utf-8")
    return path


class TestPrepare:
    def test_each_instruction_is_rejected_for_itself(self, tmp_path: Path, cli: InProcess) -> None:
        row = api([action("listPorts", "{}")], [action("listPorts", "{")], [action("[Optional]listPorts", "{}")])
        file = write_array(tmp_path / "apis.json", row, recorded(INSTANCE))
        result = cli("prepare", file, "-o", tmp_path / "out.jsonl", "--json")
        summary = json.loads(result.stdout)["sources"]["toolalpaca"]
        assert summary["reasons"] == {"arguments not JSON": 1, "undeclared tool": 1}
        ids = ["toolalpaca-apis-1-1", *(f"toolalpaca-apis-2-{step}" for step in (1, 2, 3))]
        assert [example["id"] for example in read_rows(tmp_path / "out.jsonl")] == ids
        rejects = read_rows(tmp_path / "out.rejects.jsonl")
        assert [reject["row"]["Instructions"] for reject in rejects] == [["Do 1"], ["Do 2"]]


@needs_data
class TestReleasedRows:
    FILES = ("eval_real.json", "eval_simulated.json")

    def prepare(self, folder: Path, on_invalid: Any) -> tuple[Json, list[Any]]:
        """The counts of both files together, and the examples."""
        output = folder / "out.jsonl"
        inputs = tuple(DATA / "toolalpaca" / name for name in self.FILES)
        summary = prepare_examples(PrepareConfig(inputs=inputs, output=output, on_invalid=on_invalid)).to_json()
        return summary["sources"]["toolalpaca"], read_rows(output)

    def test_36_inputs_of_34_answers_are_no_json(self) -> None:
        rows = [row for name in self.FILES for row in real_rows(DATA / "toolalpaca" / name)]
        broken = [
            sum(is_broken(action["Action_Input"]) for action in answer)
            for row in rows
            for answer in row["Golden_Answers"]
        ]
        assert (len(broken), sum(broken), sum(map(bool, broken))) == (214, 36, 34)

    def test_what_is_rejected(self, tmp_path: Path) -> None:
        counts, examples = self.prepare(tmp_path, "reject")
        reasons = {
            "arguments not JSON": 34,
            "undeclared tool": 7,
            "wrong value": 4,
            "wrong type": 3,
            "unknown argument": 1,
        }
        assert (counts["rows"], counts["converted"], counts["reasons"]) == (214, 165, reasons)
        assert sum(len(example["target"]["tool_calls"]) for example in examples) == 214

    def test_repair_mends_every_input(self, tmp_path: Path) -> None:
        counts, examples = self.prepare(tmp_path, "repair")
        assert "arguments not JSON" not in counts["reasons"]
        repaired = [example for example in examples if "repairs" in example["meta"]]
        assert len(repaired) == counts["converted"] - 165 == 23
