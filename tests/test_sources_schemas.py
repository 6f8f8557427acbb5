"""Type words to JSON Schema, and calls against schemas."""

from __future__ import annotations

from typing import Any

import pytest

from toolrl_cli.errors import DataError
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.schemas import parameters_schema, read_type
from toolrl_cli.sources.validation import check_calls, require_json


@pytest.mark.parametrize(
    ("words", "schema", "optional"),
    [
        ("str", {"type": "string"}, False),
        ("String", {"type": "string"}, False),
        ("float", {"type": "number"}, False),
        ("dict", {"type": "object"}, False),
        ("list", {"type": "array"}, False),
        ("bool, optional", {"type": "boolean"}, True),
        ("str, optional, default: 'a, b'", {"type": "string"}, True),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}, False),
        ("List[List[float]]", {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, False),
        ("List[Dict[str, Any]], optional", {"type": "array", "items": {"type": "object"}}, True),
        ("Dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}, False),
        ("Dict[str, Any]", {"type": "object"}, False),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}, False),
        ("Set[str]", {"type": "array", "items": {"type": "string"}}, False),
        ("Union[int, float]", {"type": ["integer", "number"]}, False),
        ("int | List[int]", {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}, False),
        ("int or str", {"type": ["integer", "string"]}, False),
        ("Optional[int]", {"type": ["integer", "null"]}, True),
        ("Any", {}, False),
        ("Union[str, Any]", {}, False),
        ("Callable[[float], float]", {"x-type": "Callable[[float], float]"}, False),
        (["string", "null"], {"type": ["string", "null"]}, False),
        (["str", "int"], {"type": ["string", "integer"]}, False),
        (None, {}, False),
        (5, {"type": 5}, False),
    ],
)
def test_type_words_become_a_schema(words: object, schema: Json, optional: bool) -> None:
    assert read_type(words) == (schema, optional)


def test_a_flat_map_requires_what_has_no_default_and_is_not_optional() -> None:
    parameters = {
        "city": {"type": "str", "description": "Where."},
        "unit": {"type": "str", "default": "celsius"},
        "days": {"type": "int, optional"},
        "note": "str",
    }
    assert parameters_schema(parameters) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "unit": {"type": "string", "default": "celsius"},
            "days": {"type": "integer"},
            "note": {"type": "string"},
        },
        "required": ["city", "note"],
    }


def test_flags_and_a_list_of_the_tool_say_what_is_required() -> None:
    flagged = {"a": {"type": "str", "required": True}, "b": {"type": "str"}}
    properties = {"a": {"type": "string"}, "b": {"type": "string"}}
    assert parameters_schema(flagged) == {"type": "object", "properties": properties, "required": ["a"]}
    assert parameters_schema(flagged, ["b"]) == {"type": "object", "properties": properties, "required": ["b"]}


def test_parameters_called_type_and_properties_are_no_schema() -> None:
    parameters = {"type": {"type": "str"}, "properties": {"type": "list"}}
    assert parameters_schema(parameters) == {
        "type": "object",
        "properties": {"type": {"type": "string"}, "properties": {"type": "array"}},
        "required": ["type", "properties"],
    }


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": POINT}}, {"x": 1}, {"x": "1"}),
        ({"$ref": "#/definitions/A", "definitions": {"A": POINT}}, {"x": 1}, {}),
        ({"anyOf": [POINT, {"required": ["y"]}]}, {"y": 1}, {"z": 1}),
        ({"allOf": [POINT, {"required": ["y"]}]}, {"x": 1, "y": 1}, {"x": 1}),
        ({"oneOf": [POINT, {"required": ["y"]}]}, {"x": 1}, {"x": 1, "y": 1}),
        ({"additionalProperties": {"type": "int"}}, {"x": 1}, {"x": "1"}),
        ({"properties": {"n": {}}, "oneOf": [POINT, {"required": ["y"]}]}, {"x": 1}, {"n": 1}),
    ],
)
def test_a_schema_may_open_with_any_keyword(schema: Json, right: Json, wrong: Json) -> None:
    parameters = parameters_schema(schema)
    assert parameters.keys() == {"type", *schema}
    assert findings(right, parameters) == []
    assert findings(wrong, parameters) != []


def test_a_schema_may_only_say_that_it_takes_anything() -> None:
    assert parameters_schema({"additionalProperties": True}) == {"type": "object", "additionalProperties": True}


def test_a_schema_stays_as_it_is_but_for_type_names_and_nulls() -> None:
    schema = {
        "type": "dict",
        "title": "T",
        "properties": {
            "type": {"description": None, "type": "float", "minimum": 1, "default": None},
            "rows": {"type": "array", "items": {"type": "dict", "properties": {"x": {"enum": [None, "str"]}}}},
        },
        "required": None,
    }
    assert parameters_schema(schema, ["type"]) == {
        "type": "object",
        "required": ["type"],
        "title": "T",
        "properties": {
            "type": {"type": "number", "minimum": 1, "default": None},
            "rows": {"type": "array", "items": {"type": "object", "properties": {"x": {"enum": [None, "str"]}}}},
        },
    }


def test_a_schema_without_type_is_an_object() -> None:
    parameters = {"properties": {"a": {"type": "string"}}}
    assert parameters_schema(parameters) == {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize("raw", ["str", [1], 5])
def test_parameters_that_are_no_object_are_refused(raw: object) -> None:
    with pytest.raises(DataError, match="tool parameters must be an object"):
        parameters_schema(raw)


def findings(arguments: Json, schema: Json, *others: Json, name: str = "f") -> list[str]:
    """What a call of `f` gets wrong where `f` has this schema, or one of several."""
    tools = tuple({"type": "function", "function": {"name": "f", "parameters": s}} for s in (schema, *others))
    example = Example("r", "xlam", tools, (), Target(tool_calls=(ToolCall(name, arguments),)))
    return [str(finding) for finding in check_calls(example)]


MAIL: Json = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "n": {"type": "number"}, "k": {"enum": ["a", "b"]}},
    "required": ["to"],
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"to": "x", "n": 5, "k": "a"}, []),
        ({}, ["missing argument: 'f': 'to' is a required property"]),
        ({"to": 5}, ["wrong type: 'f.to': 5 is not of type string"]),
        ({"to": "x", "n": "5"}, ["wrong type: 'f.n': '5' is not of type number"]),
        ({"to": "x", "n": True}, ["wrong type: 'f.n': True is not of type number"]),
        ({"to": "x", "k": "c"}, ["wrong value: 'f.k': 'c' is not one of ['a', 'b']"]),
        ({"to": "x", "cc": "y"}, ["unknown argument: 'f': 'cc'"]),
    ],
)
def test_what_a_call_gets_wrong(arguments: Json, expected: list[str]) -> None:
    assert findings(arguments, MAIL) == expected


def test_additional_properties_are_reported_once_or_allowed() -> None:
    closed, anything = {**MAIL, "additionalProperties": False}, {**MAIL, "additionalProperties": True}
    assert findings({"to": "x", "cc": "y"}, closed) == ["unknown argument: 'f': 'cc'"]
    assert findings({"to": "x", "cc": "y"}, anything) == []
    assert findings({"cc": "y"}, {"type": "object"}) == []


def test_a_tool_that_is_not_declared() -> None:
    assert findings({}, MAIL, name="g") == ["undeclared tool: 'g'"]


def test_of_two_tools_with_one_name_the_better_fit_judges() -> None:
    assert findings({"a": 1}, MAIL, {"type": "object", "properties": {"a": {"type": "integer"}}}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"to": {"type": 5}}},
        {"type": "object", "properties": {"to": {"minimum": "1"}}},
        {"type": "object", "properties": {"to": {"$ref": "http://example.invalid/schema.json"}}},
        {"$ref": "#"},
        {"type": "object", "required": True},
    ],
)
def test_a_broken_schema_is_a_finding(schema: Json) -> None:
    [finding] = findings({"to": "x"}, schema)
    assert finding.startswith("broken schema: 'f': ")


def test_patterns_are_not_run() -> None:
    slow = {"type": "object", "properties": {"to": {"type": "string", "pattern": "^(a+)+$"}}}
    assert findings({"to": "a" * 64 + "!"}, slow) == []
    assert findings({"to": "x"}, {"type": "object", "properties": {"to": {"pattern": "\\p{L}"}}}) == []


def test_a_huge_value_is_named_in_few_words() -> None:
    [finding] = findings({"to": ["x" * 1000] * 1000}, MAIL)
    assert len(finding) < 700


@pytest.mark.parametrize("value", [float("nan"), [{"a": float("inf")}]])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="not finite: NaN or Infinity is no JSON"):
        require_json(value)
