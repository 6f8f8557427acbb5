"""Tools as prompts show them.

A parameter may hold `x-type`, the data set's own word for its type (`float`, `List[int]`). It is for
prompts that are worded as the data set was; the other prompts show JSON Schema's word where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolrl_cli.records import Json

EXPANSIONS = ("items", "anyOf", "additionalProperties")
"""What a type such as `List[int]` becomes in JSON Schema, beside `type`."""


def plain_tool(tool: Json) -> Json:
    """A tool without the words that JSON Schema has others for."""
    function = tool["function"]
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    shown = {name: plain(spec) for name, spec in properties.items()}
    if shown == properties:
        return tool
    schema = {**schema, "properties": shown}
    return {**tool, "function": {**function, "parameters": schema}}


def describe_tool(function: Json) -> Json:
    """What a template may show of a tool.

    `name` and `description`; `parameters`, one line of JSON that ends in the names of the optional ones;
    `properties`, the parameters by name, with the data set's words for their types; `filled`, the same
    in the way of ToolRL's released rows, each with `description`, `type` and `default`, empty where there
    is none; `schema`, the whole JSON Schema.
    """
    schema = function.get("parameters") or {}
    if schema.get("type") == "object":
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        optional = [name for name in properties if name not in required]
    else:
        properties, optional = schema, []
    parameters = to_json({name: plain(spec) for name, spec in properties.items()}, ascii=False)
    if optional:
        parameters += f" (optional: {', '.join(optional)})"
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": parameters,
        "properties": {name: worded(spec) for name, spec in properties.items()},
        "filled": {name: filled(worded(spec)) for name, spec in properties.items()},
        "schema": plain_tool({"function": function})["function"].get("parameters") or {},
    }


def plain(spec: Any) -> Any:
    """A parameter without its `x-type`, unless that is all that is known of its type."""
    if not isinstance(spec, dict) or not spec.keys() & {"type", "anyOf"}:
        return spec
    return {key: value for key, value in spec.items() if key != "x-type"}


def worded(spec: Any) -> Any:
    """A parameter whose `type` is the data set's own word."""
    if not isinstance(spec, dict) or "x-type" not in spec:
        return spec
    word = spec["x-type"]
    dropped = {"x-type"} if "type" in spec else set()
    if "[" in word:
        dropped |= {*EXPANSIONS}
    kept = {key: value for key, value in spec.items() if key not in dropped}
    return {("type" if key == "x-type" else key): word if key in ("type", "x-type") else kept[key] for key in kept}


def filled(spec: Any) -> Any:
    """A parameter in which `description`, `type` and `default` come first and are never absent."""
    if not isinstance(spec, Mapping):
        return spec
    return {"description": "", "type": "", "default": "", **spec}


def to_json(value: object, ascii: bool = True) -> str:
    """JSON on one line, in ASCII unless told otherwise."""
    return json.dumps(value, ensure_ascii=ascii)
