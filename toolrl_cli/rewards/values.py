"""When two argument values are equal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolrl_cli.records import Json

TOLERANCE = 1e-9


def equal_values(given: object, wanted: object) -> bool:
    """Python equality of decoded JSON; values nested too deeply to compare count as unequal."""
    try:
        return given == wanted
    except RecursionError:
        return False


def equal_by_schema(given: object, wanted: object, schema: object) -> bool:
    """Equality by the types of a JSON Schema; values nested too deeply to compare count as unequal.

    Numbers are equal within 1e-9, booleans are no numbers, and a number equals its text only where
    the schema asks for a string. Strings, and all values of an enumeration, must be the same.
    """
    try:
        return same(given, wanted, schema if isinstance(schema, dict) else {})
    except RecursionError:
        return False


def same(given: object, wanted: object, schema: Json) -> bool:
    """`equal_by_schema` without its guard."""
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, dict) and isinstance(wanted, dict):
        return given.keys() == wanted.keys() and all(
            same(given[name], value, sub_schema(schema, "properties", name)) for name, value in wanted.items()
        )
    if isinstance(given, list) and isinstance(wanted, list):
        items = sub_schema(schema, "items")
        return len(given) == len(wanted) and all(same(*pair, items) for pair in zip(given, wanted, strict=True))
    if isinstance(given, (int, float)) and isinstance(wanted, (int, float)):
        return given == wanted if "enum" in schema else close(given, wanted)
    if schema.get("type") == "string" and "enum" not in schema:
        return as_text(given) == as_text(wanted)
    return given == wanted


def sub_schema(schema: Json, *path: str) -> Json:
    """The schema below a path of keys, empty where there is none."""
    found: object = schema
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def close(given: float, wanted: float) -> bool:
    """Whether two numbers are equal, when one is a fraction within the tolerance; NaN equals NaN."""
    if given == wanted or (given != given and wanted != wanted):
        return True
    if isinstance(given, int) and isinstance(wanted, int):
        return False
    try:
        return abs(given - wanted) <= TOLERANCE
    except OverflowError:
        return False


def as_text(value: object) -> object:
    """A number as its JSON text, anything else as it is."""
    return json.dumps(value) if isinstance(value, (int, float)) else value


def properties_by_name(tools: Sequence[Json]) -> dict[str, Json]:
    """The schemas of each tool's parameters; the first of several tools of a name counts."""
    schemas: dict[str, Json] = {}
    for tool in tools:
        name = sub_schema(tool, "function").get("name")
        if isinstance(name, str):
            schemas.setdefault(name, sub_schema(tool, "function", "parameters", "properties"))
    return schemas
