"""The records and their JSON forms."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrl_cli.errors import DataError, GateFailed, SetupError, ToolrlError, first_line
from toolrl_cli.records import Completion, Example, Outcome, Score, Target, ToolCall, expect, expect_each

TOOL = {"type": "function", "function": {"name": "weather"}}
LINE: dict[str, Any] = {
    "id": "a-1",
    "source": "xlam",
    "tools": [TOOL],
    "messages": [{"role": "user", "content": "Rome?"}],
    "target": {"thought": "t", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}], "response": None},
    "meta": {"split": "train"},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_an_example_is_read_and_written_whole() -> None:
    example = Example.from_json(LINE)
    assert example == Example(
        id="a-1",
        source="xlam",
        tools=(TOOL,),
        messages=({"role": "user", "content": "Rome?"},),
        target=Target("t", (ToolCall("weather", {"city": "Rome"}),), None),
        meta={"split": "train"},
    )
    assert example.to_json() == LINE
    assert list(example.to_json()) == ["id", "source", "tools", "messages", "target", "meta"]


def test_what_an_example_may_leave_out() -> None:
    bare = {"id": "a", "tools": [], "messages": [], "target": {"response": None}}
    assert Example.from_json(bare) == Example("a", "examples", (), (), Target(), {})
    assert Example.from_json({**bare, "meta": None, "target": {"tool_calls": None}}) == Example.from_json(bare)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": 5}, "id must be a string, not a number"),
        ({"id": None}, "id must be a string, not null"),
        ({"source": None}, "source must be a string, not null"),
        ({"tools": {}}, "tools must be a list, not an object"),
        ({"tools": [TOOL, "weather"]}, "tools[1] must be an object, not a string"),
        ({"messages": [True]}, "messages[0] must be an object, not a boolean"),
        ({"target": []}, "target must be an object, not a list"),
        ({"target": {"thought": 1.5}}, "thought must be a string, not a number"),
        ({"target": {"response": {}}}, "response must be a string, not an object"),
        ({"target": {"tool_calls": "f()"}}, "target.tool_calls must be a list, not a string"),
        ({"target": {"tool_calls": [[]]}}, "tool call must be an object, not a list"),
        ({"target": {"tool_calls": [{"arguments": {}}]}}, "tool call name must be a string, not null"),
        (
            {"target": {"tool_calls": [{"name": "f", "arguments": "{}"}]}},
            "tool call arguments must be an object, not a string",
        ),
        ({"meta": [1]}, "meta must be an object, not a list"),
    ],
)
def test_an_error_names_the_field(change: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as error:
        Example.from_json({**LINE, **change})
    assert str(error.value) == why


@pytest.mark.parametrize("name", ["id", "tools", "messages", "target"])
def test_an_unprepared_row_is_told_what_to_do(name: str) -> None:
    with pytest.raises(DataError) as error:
        Example.from_json({key: value for key, value in LINE.items() if key != name})
    assert str(error.value) == f'no "{name}" field; run toolrl prepare first'


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*LINE, *LINE["target"], "name"], json_values)) | json_values)
def test_any_json_is_read_or_refused(value: object) -> None:
    for read in (Example.from_json, Target.from_json, ToolCall.from_json):
        with suppress(DataError):
            read(value)


def test_records_are_frozen() -> None:
    for record, name in ((Target(), "thought"), (ToolCall("f", {}), "name"), (Completion("x"), "truncated")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, "other")


def test_a_score_puts_its_parts_beside_the_total() -> None:
    score = Score(2.5, {"format": 1.0, "correctness": 1.5}, Outcome.PARTIAL, ("missing call f",))
    assert list(score.to_json().items()) == [
        ("total", 2.5),
        ("format", 1.0),
        ("correctness", 1.5),
        ("outcome", "partial"),
        ("reasons", ["missing call f"]),
    ]


def test_expect() -> None:
    assert expect({"a": 1}, dict, "row") == {"a": 1}
    assert expect_each(["a", "b"], str, "names") == ["a", "b"]
    with pytest.raises(DataError, match=r"^names\[1\] must be a string, not null$"):
        expect_each(["a", None], str, "names")


def test_exit_statuses() -> None:
    statuses = {kind: kind.exit_status for kind in (ToolrlError, DataError, SetupError, GateFailed)}
    assert statuses == {ToolrlError: 1, DataError: 1, SetupError: 1, GateFailed: 3}


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("bad value\nwith a long story")) == "bad value"
    assert first_line(KeyError()) == "KeyError"
