"""Seal-Tools' rows: calls that a catalogue defines, tools drawn beside them, and prompts of Python literals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import InProcess, read_rows, refusal, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import DATA, needs_data

from toolrl_cli.errors import DataError
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.base import Source
from toolrl_cli.sources.registry import SOURCES, recognise
from toolrl_cli.sources.sealtools import read_catalogue


def define(name: str, field: str = "Sea/Boats", **parameters: Json) -> Json:
    """A line of the catalogue; its first parameter is required."""
    return {
        "api_name": name,
        "api_description": f"Does {name}.",
        "field": field,
        "parameters": parameters,
        "required": list(parameters)[:1],
        "responses": {"result": {"type": "str", "description": "It."}},
    }


FIND = define("find", boat={"type": "str", "description": "Which."}, speed={"type": "float", "description": "Knots."})
FIND_TOOL = {
    "type": "function",
    "function": {
        "field": "Sea/Boats",
        "responses": {"result": {"type": "str", "description": "It."}},
        "name": "find",
        "description": "Does find.",
        "parameters": {
            "type": "object",
            "properties": {
                "boat": {"type": "string", "description": "Which."},
                "speed": {"type": "number", "description": "Knots."},
            },
            "required": ["boat"],
        },
    },
}
NEAR = [define(f"boat{i}") for i in range(5)]
AREA = [define(f"sea{i}", "Sea/Harbours") for i in range(20)]
FAR = [define(f"land{i}", "Land/Roads") for i in range(20)]


def seal(name: object, *responses: str, **parameters: object) -> Json:
    """A gold call."""
    return {"api": name, "parameters": parameters, "responses": list(responses)}


def row(*calling: object, **fields: object) -> Json:
    """A row with these calls."""
    return {"id": "dev-1", "query": "Find it.", "calling": list(calling), **fields}


def prompt_row(listed: str, answer: str, task: str = '"Find "it"."') -> Json:
    """A fine-tuning row."""
    prompt = f"Choose.\n\nInput:\napi_list = {listed}\ntask_instruction = {task}\nOutput:\n"
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": "train-1", "conversations": turns}


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A catalogue with tools of two areas."""
    return write_lines(tmp_path / "tool.jsonl", [*FAR, *AREA, FIND, *NEAR])


@pytest.fixture
def source(catalogue: Path) -> Source:
    """The source of a file beside the catalogue."""
    return SOURCES["sealtools"].open(catalogue.with_name("dev.jsonl"), None)


def names(example: Example) -> list[str]:
    """The names of the tools that an example offers."""
    return [tool["function"]["name"] for tool in example.tools]


class TestCalls:
    def test_a_row_is_one_step(self, source: Source) -> None:
        calls = (seal("find", "API_call_0", boat="Ann"), seal("find", "API_call_1", boat="API_call_0", speed="9"))
        [example] = source.convert(row(*calls, level="easy"), "r")
        first, second = ToolCall("find", {"boat": "Ann"}), ToolCall("find", {"boat": "API_call_0", "speed": "9"})
        assert FIND_TOOL in example.tools
        assert example == Example(
            id="r",
            source="sealtools",
            tools=example.tools,
            messages=({"role": "user", "content": "Find it."},),
            target=Target(tool_calls=(first, second)),
            meta={
                "id": "dev-1",
                "level": "easy",
                "drawn_tools": sorted(set(names(example)) - {"find"}),
                "calling": [{"responses": ["API_call_0"]}, {"responses": ["API_call_1"]}],
                "references": ["API_call_0"],
            },
        )

    def test_ten_tools_are_offered_the_nearest_first(self, source: Source) -> None:
        [example] = source.convert(row(seal("find", boat="Ann")), "r")
        drawn = example.meta["drawn_tools"]
        assert (len(names(example)), len(set(names(example)))) == (10, 10)
        assert {name for name in drawn if name.startswith("boat")} == {f"boat{i}" for i in range(5)}
        assert sum(name.startswith("sea") for name in drawn) == 4

    def test_the_draw_and_its_order_depend_on_the_id_alone(self, source: Source) -> None:
        rows = [row(seal("find", boat="Ann"), id=f"dev-{i}") for i in range(100)]
        offers = [names(source.convert(one, "r")[0]) for one in rows]
        assert offers == [names(source.convert(one, "another")[0]) for one in rows]
        assert len({tuple(offer) for offer in offers}) == 100
        assert {offer.index("find") for offer in offers} == set(range(10))

    def test_another_process_draws_the_same(self, source: Source, catalogue: Path, tmp_path: Path) -> None:
        [example] = source.convert(row(seal("find"), seal("land3")), "r")
        file = write_lines(tmp_path / "dev.jsonl", [row(seal("find"), seal("land3"))])
        command = [sys.executable, "-m", "toolrl_cli", "prepare", str(file), "-o", "-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert [tool["function"]["name"] for tool in json.loads(done.stdout)["tools"]] == names(example)

    def test_a_small_area_is_filled_from_all_others(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "few.jsonl", [FIND, *FAR, NEAR[0]])
        [example] = SOURCES["sealtools"].open(Path("dev.jsonl"), path).convert(row(seal("find")), "r")
        assert len(names(example)) == 10 and "boat0" in names(example)

    def test_all_called_tools_are_offered_however_many(self, source: Source) -> None:
        [example] = source.convert(row(*[seal(f"sea{i}") for i in range(12)]), "r")
        assert sorted(names(example)) == sorted(f"sea{i}" for i in range(12))
        assert example.meta["drawn_tools"] == []

    def test_no_calls_are_an_empty_target(self, source: Source) -> None:
        [example] = source.convert(row(), "r")
        assert (example.target, len(example.tools)) == (Target(), 10)

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (row(query=None), "query must be a string, not null"),
            (row(5), "calling[0] must be an object, not a number"),
            ({**row(), "calling": "find"}, "calling must be a list, not a string"),
            (row(seal(["find"])), "tool call name must be a string, not a list"),
            (row({"api": "find", "parameters": "boat"}), "arguments not JSON: 'boat'"),
            (row({"api": "find", "parameters": [1]}), "arguments of 'find' must be an object, not a list"),
        ],
    )
    def test_a_malformed_row_is_refused(self, source: Source, bad: Json, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            source.convert(bad, "r")


class TestPrompts:
    def test_the_list_of_the_prompt_is_offered(self) -> None:
        answer = (
            "[{'api': 'find', 'parameters': {'boat': 'Ann', 'speed': 2.5, 'now': True}, 'responses': ['API_call_0']}]"
        )
        assert SOURCES["sealtools"].convert(prompt_row(repr([FIND]), answer), "r") == [
            Example(
                id="r",
                source="sealtools",
                tools=(FIND_TOOL,),
                messages=({"role": "user", "content": 'Find "it".'},),
                target=Target(tool_calls=(ToolCall("find", {"boat": "Ann", "speed": 2.5, "now": True}),)),
                meta={"id": "train-1", "calling": [{"responses": ["API_call_0"]}]},
            )
        ]

    @pytest.mark.parametrize(
        ("listed", "answer", "reason"),
        [
            ("[{'api_name': 'a'", "[]", "tools not JSON"),
            ("open('/etc/passwd')", "[]", "tools not JSON"),
            ("{'a'}", "[]", "tools not JSON"),
            ("{[]: 1}", "[]", "tools not JSON"),
            ("[" * 100_000, "[]", "tools not JSON"),
            ("-" * 100_000 + "1", "[]", "tools not JSON"),
            ("9" * 5000, "[]", "tools not JSON"),
            ("['\\d\\0']", "[]", "tool must be an object, not a string"),
            ("['\0']", "[]", "tools not JSON"),
            ("5", "[]", "api_list must be a list, not a number"),
            ("[{'api_name': 5}]", "[]", "api_name must be a string, not a number"),
            ("[{'api_name': 'a', 'field': 5}]", "[]", "field must be a string, not a number"),
            ("[{'api_name': 'a', 'parameters': [5]}]", "[]", "tool parameters must be an object"),
            ("[]", "I call find", "answers not JSON: 'I call find'"),
            ("[]", "[b'x']", "answers not JSON"),
            ("[]", "{}", "calling must be a list, not an object"),
            ("[]", "[{'api': 'find', 'parameters': {1, 2}}]", "answers not JSON"),
        ],
    )
    def test_what_is_no_literal_is_refused(self, listed: str, answer: str, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            SOURCES["sealtools"].convert(prompt_row(listed, answer), "r")

    @pytest.mark.parametrize(
        ("turns", "reason"),
        [
            (None, "conversations must be a list, not null"),
            ([5], "conversations[0] must be an object"),
            ([{"from": "human", "value": "a"}], "must be a turn of human and one of gpt"),
            ([{"from": "human", "value": 5}, {"from": "gpt", "value": "[]"}], "value must be a string"),
            (
                [{"from": "human", "value": "api_list = []"}, {"from": "gpt", "value": "[]"}],
                "format: the prompt holds no",
            ),
        ],
    )
    def test_other_turns_are_refused(self, turns: object, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            SOURCES["sealtools"].convert({"conversations": turns}, "r")


class TestRecognises:
    @pytest.mark.parametrize("good", [row(), prompt_row("[]", "[]")])
    def test_by_this_source_alone(self, good: Json) -> None:
        assert recognise(good) == ["sealtools"]

    @pytest.mark.parametrize(
        "other",
        [
            {"query": "q", "tools": [], "answers": [], "calling": []},
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            {"conversations": []},
            {"conversations": [5]},
            {"conversations": {"value": "api_list = "}},
        ],
    )
    def test_other_rows_are_not(self, other: Json) -> None:
        assert not SOURCES["sealtools"].recognises(other)


class TestCatalogue:
    def test_examples_that_are_text_become_a_list(self, tmp_path: Path) -> None:
        spec = {"type": "str", "examples": "a, b"}
        tool = read_catalogue(write_lines(tmp_path / "t.jsonl", [define("f", p=spec)]))["f"].tool
        assert tool["function"]["parameters"]["properties"]["p"] == {"type": "string", "examples": ["a, b"]}

    def test_the_first_definition_of_a_name_counts(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "t.jsonl", [define("f", "A/B"), define("f", "C/D")])
        assert read_catalogue(path)["f"].field == "A/B"

    def test_a_malformed_line_is_named(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "tool.jsonl", [define("f"), {"name": "g"}])
        for tools in (path, None):
            with pytest.raises(DataError, match=re.escape(f"{path}:2: api_name must be a string, not null")):
                SOURCES["sealtools"].open(tmp_path / "dev.jsonl", tools)

    def test_a_given_one_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            SOURCES["sealtools"].open(Path("dev.jsonl"), tmp_path / "none.jsonl")

    def test_a_missing_one_is_the_message(self, tmp_path: Path, cli: InProcess) -> None:
        file = write_lines(tmp_path / "dev.jsonl", [row(seal("find"))])
        message = refusal(cli("prepare", file, "-o", tmp_path / "out.jsonl"))
        assert f"no catalogue: {file} needs tool.jsonl, which is not beside it; pass it with --tools" in message


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6) | st.sampled_from(["find", "human", "gpt", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["api", "parameters", "responses", "from", "value"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(bad=st.dictionaries(st.sampled_from(["id", "query", "calling", "conversations"]), VALUES, max_size=4))
def test_no_row_raises_anything_but_a_data_error(bad: Json) -> None:
    source = SOURCES["sealtools"]
    source.recognises(bad)
    try:
        source.convert(bad, "r")
    except DataError:
        return


@needs_data
class TestReleasedRows:
    FOLDER = DATA / "sealtools"

    @pytest.mark.slow
    def test_all_convert_and_references_reject_none(self, tmp_path: Path) -> None:
        output = tmp_path / "out.jsonl"
        inputs = tuple(self.FOLDER / f"{name}.jsonl" for name in ("dev", "test_in_domain", "test_out_domain"))
        summary = prepare_examples(PrepareConfig(inputs=inputs, output=output)).to_json()
        counts = summary["sources"]["sealtools"]
        assert (counts["rows"], counts["converted"], counts["examples"]) == (2054, 2054, 2054)
        assert counts["warnings"] == {"wrong type": 132}
        examples = read_rows(output)
        assert sum(len(example["target"]["tool_calls"]) for example in examples) == 5536
        assert sum("references" in example["meta"] for example in examples) == 85
        places: Counter[int] = Counter()
        for example in examples:
            offered = [tool["function"]["name"] for tool in example["tools"]]
            assert len(set(offered)) == len(offered) == 10
            places.update(offered.index(call["name"]) for call in example["target"]["tool_calls"])
        assert all(450 < places[place] < 650 for place in range(10))

    def test_fine_tuning_rows_need_no_catalogue(self, tmp_path: Path) -> None:
        file = tmp_path / "example.json"
        file.write_bytes((self.FOLDER / "example.json").read_bytes())
        output = tmp_path / "out.jsonl"
        summary = prepare_examples(PrepareConfig(inputs=(file,), output=output)).to_json()
        assert (summary["rows"], summary["converted"]) == (2, 2)
        assert [len(example["target"]["tool_calls"]) for example in read_rows(output)] == [1, 3]
