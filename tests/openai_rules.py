"""What OpenAI's chat completions take: whatever else a request holds is refused, with the reason in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from toolrl_cli.records import Json

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PARAMETERS: Mapping[str, type | tuple[type, ...]] = {
    "model": str, "messages": list, "max_tokens": int, "max_completion_tokens": int, "temperature": (int, float),
    "top_p": (int, float), "seed": int, "tools": list, "tool_choice": str,
}  # fmt: skip
FIELDS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def find_faults(request: Json) -> list[str]:
    """Everything that is wrong with a request; nothing when OpenAI would take it."""
    return list(check_request(request))


def check_request(request: Json) -> Iterator[str]:
    for name, value in request.items():
        if not isinstance(value, PARAMETERS.get(name, ())) or isinstance(value, bool):
            yield f"{name}: unknown, or of the wrong type"
    if {"max_tokens", "max_completion_tokens"} <= request.keys():
        yield "max_tokens and max_completion_tokens exclude each other"
    tools = request.get("tools", [])
    if request.keys() & {"tool_choice"} and request["tool_choice"] not in ("auto", "none", "required"):
        yield "tool_choice"
    if not tools and request.keys() & {"tools", "tool_choice"}:
        yield "tools: empty, or tool_choice without them"
    for i, tool in enumerate(tools):
        yield from (f"tools[{i}]: {fault}" for fault in check_tool(tool))
    names = [tool["function"]["name"] for tool in tools]
    yield from (f"tools: {name} occurs twice" for name in {*names} if names.count(name) > 1)
    if not request["messages"]:
        yield "messages: empty"
    yield from check_messages(request["messages"])


def check_tool(tool: Json) -> Iterator[str]:
    """Faults of a function tool; see `FunctionObject` of OpenAI's specification."""
    if tool.keys() != {"type", "function"} or tool["type"] != "function":
        yield f"fields {sorted(tool)}"
    function = tool["function"]
    extra = function.keys() - {"name", "description", "parameters", "strict"}
    if extra:
        yield f"unknown fields {sorted(extra)}"
    if not NAME.fullmatch(function["name"]):
        yield f"name {function['name']!r}"
    if not isinstance(function.get("description", ""), str):
        yield "description"
    schema = function.get("parameters", {"type": "object"})
    if schema.get("type") != "object":
        yield "parameters are no object"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"parameters: {error.message}"
    if any(inner.get("type") == "array" and "items" not in inner for inner in subschemas(schema)):
        yield "array schema missing items"


def subschemas(schema: Any) -> Iterator[Json]:
    """A schema and those in it."""
    if isinstance(schema, dict):
        yield schema
        for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
            yield from subschemas(inner)
        for inner in schema.get("anyOf", ()):
            yield from subschemas(inner)


def check_messages(messages: list[Json]) -> Iterator[str]:
    """Faults of messages: their fields, and whether each call is answered at once by its own id."""
    waiting: set[str] = set()
    for i, message in enumerate(messages):
        role = message.get("role")
        extra = message.keys() - FIELDS.get(str(role), set())
        if extra or ("content" not in message and "tool_calls" not in message):
            yield f"messages[{i}]: role {role}, fields {sorted(message)}"
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"messages[{i}]: messages with role 'tool' must be a response to a preceding 'tool_calls'"
            waiting.discard(str(message.get("tool_call_id")))
        elif waiting:
            yield f"messages[{i}]: no message answered the tool_call_ids {sorted(waiting)}"
            waiting = set()
        if not isinstance(message.get("content"), str) and not (
            message.get("content") is None and "tool_calls" in message
        ):
            yield f"messages[{i}]: content {message.get('content')!r}"
        if "tool_calls" in message:
            yield from (f"messages[{i}]: {fault}" for fault in check_calls(message["tool_calls"]))
            waiting = {call["id"] for call in message["tool_calls"]}
    if waiting:
        yield f"no message answered the tool_call_ids {sorted(waiting)}"


def check_calls(calls: list[Json]) -> Iterator[str]:
    """Faults of the calls of a message."""
    if not calls or len({call.get("id") for call in calls}) < len(calls):
        yield "no calls, or ids that occur twice"
    for call in calls:
        if call.keys() != {"id", "type", "function"} or call["type"] != "function" or not isinstance(call["id"], str):
            yield f"call {call}"
        function = call["function"]
        if function.keys() != {"name", "arguments"} or not NAME.fullmatch(function["name"]):
            yield f"function {function}"
        try:
            json.loads(function["arguments"])
        except (TypeError, ValueError):
            yield f"arguments {function['arguments']!r}"
