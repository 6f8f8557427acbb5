"""Calls that contradict their tools, mended where the tool's schema leaves no doubt about what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from toolrl_cli.jsonl import load_json
from toolrl_cli.records import Example, Json, ToolCall
from toolrl_cli.sources.base import note_repair, shorten
from toolrl_cli.sources.validation import check_calls

NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


def repair_calls(example: Example) -> Example:
    """The example with the calls of its target mended, each mend noted; what cannot be mended stays as it is."""
    if not check_calls(example):
        return example
    calls = tuple(repair_call(call, example.tools) for call in example.target.tool_calls)
    return replace(example, target=replace(example.target, tool_calls=calls))


def repair_call(call: ToolCall, tools: Sequence[Json]) -> ToolCall:
    """A call with its tool's own name, and arguments of the declared names and types."""
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    name = call.name if call.name in functions else same_word(call.name, functions)
    if name is None:
        return call
    if name != call.name:
        note_repair(f"tool name: {shorten(call.name)} -> {shorten(name)}")
    schema = functions[name]["parameters"]
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ToolCall(name, call.arguments)
    return ToolCall(name, repair_arguments(call.arguments, properties, required_of(schema), name))


def repair_arguments(arguments: Json, properties: Json, required: Sequence[str], tool: str) -> Json:
    """Arguments under their declared names, of their declared types, with declared defaults where one is missing."""
    repaired: Json = {}
    for name, value in arguments.items():
        declared = name if name in properties else same_word(name, properties.keys() - arguments.keys())
        where = f"{shorten(tool)}.{name}"
        if declared is None:
            note_repair(f"unknown argument: {where} dropped")
            continue
        if declared != name:
            note_repair(f"argument name: {where} -> {declared}")
        if value is None and declared not in required and not allows(properties[declared], "null"):
            note_repair(f"null argument: {where} dropped")
            continue
        repaired[declared] = coerce(value, properties[declared])
        if repaired[declared] is not value:
            note_repair(f"type: {where}: {shorten(value)} -> {shorten(repaired[declared])}")
    for name in required:
        schema = properties.get(name)
        if name not in repaired and isinstance(schema, dict) and "default" in schema:
            note_repair(f"missing argument: {shorten(tool)}.{name} is its default")
            repaired[name] = schema["default"]
    return repaired


def same_word(name: str, known: Iterable[str]) -> str | None:
    """The one known name that differs only in case, spaces and punctuation."""
    wanted = NOT_ALPHANUMERIC.sub("", name).casefold()
    found = [other for other in known if NOT_ALPHANUMERIC.sub("", other).casefold() == wanted]
    return found[0] if len(found) == 1 and wanted else None


def required_of(schema: Json) -> list[str]:
    """The names that a schema requires."""
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def types_of(schema: object) -> list[str]:
    """The JSON types that a schema allows by name; none for any."""
    declared = schema.get("type") if isinstance(schema, dict) else None
    return [declared] if isinstance(declared, str) else list(declared) if isinstance(declared, list) else []


def allows(schema: object, kind: str) -> bool:
    """Whether a schema allows a JSON type."""
    return kind in types_of(schema) or not types_of(schema)


def coerce(value: Any, schema: object) -> Any:
    """The value as a type that the schema allows, itself where it is one or no reading is beyond doubt."""
    if not isinstance(schema, dict):
        return value
    options = schema.get("enum")
    if isinstance(options, list) and value not in options and isinstance(value, str):
        return next((o for o in options if isinstance(o, str) and o.casefold() == value.strip().casefold()), value)
    kinds = types_of(schema)
    if isinstance(value, list) and "array" in kinds:
        items = [coerce(item, schema.get("items")) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if not kinds or any(is_of(value, kind) for kind in kinds):
        return value
    for kind in kinds:
        with suppress(ValueError):
            return READERS[kind](value) if kind in READERS else value
    return [value] if "array" in kinds and value is not None else value


def is_of(value: object, kind: str) -> bool:
    """Whether a value is of a JSON type."""
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, PYTHON_TYPES.get(kind, object)) or (
        kind == "integer" and isinstance(value, float) and value.is_integer()
    )


def read_integer(value: Any) -> int:
    """An integer from its text."""
    if not isinstance(value, str):
        raise ValueError
    return int(value)


def read_number(value: Any) -> float:
    """A number from its text."""
    if not isinstance(value, str) or value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise ValueError
    with suppress(ValueError):
        return int(value)
    return float(value)


def read_boolean(value: Any) -> bool:
    """A truth value from its text."""
    words = {"true": True, "false": False}
    if not isinstance(value, str) or value.strip().lower() not in words:
        raise ValueError
    return words[value.strip().lower()]


def read_text(value: Any) -> str:
    """The JSON text of a number or a truth value."""
    if not isinstance(value, bool | int | float):
        raise ValueError
    return json.dumps(value)


def read_container(value: Any, kind: type) -> Any:
    """A list or an object from its JSON text."""
    found = load_json(value) if isinstance(value, str) else None
    if not isinstance(found, kind):
        raise ValueError
    return found


PYTHON_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
}
READERS: dict[str, Any] = {
    "integer": read_integer,
    "number": read_number,
    "boolean": read_boolean,
    "string": read_text,
    "array": lambda value: read_container(value, list),
    "object": lambda value: read_container(value, dict),
}
