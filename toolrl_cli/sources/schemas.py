"""Parameter types as data sets word them (`str, optional`, `List[int]`, `dict`) to JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from toolrl_cli.errors import DataError
from toolrl_cli.records import Json

WORDS = {
    "string": ("string", "str", "text", "char"),
    "integer": ("integer", "int", "long"),
    "number": ("number", "float", "double", "numeric"),
    "boolean": ("boolean", "bool"),
    "array": ("array", "list", "tuple", "set", "sequence", "iterable"),
    "object": ("object", "dict", "dictionary", "mapping", "map", "hashmap"),
    "null": ("null", "none", "nonetype"),
}
JSON_TYPES = {word: kind for kind, words in WORDS.items() for word in words}
GENERIC = re.compile(r"(?:typing\.)?(\w+)\s*\[(.*)\]", re.DOTALL)
ALTERNATIVE = re.compile(r"\s+or\s+")
DEFAULT = re.compile(r",\s*default\b.*", re.IGNORECASE | re.DOTALL)
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMA_VALUES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def parameters_schema(raw: object, required: object = None) -> Json:
    """A tool's parameters as an object schema, whether they were a schema or a flat map of names.

    `required` are the names of required parameters where the tool lists them beside a flat map.

    Raises:
        DataError: the parameters, or one of them, are no object.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise DataError("tool parameters must be an object")
    if is_schema(raw):
        listed = {"required": required} if isinstance(required, list) else {}
        return {"type": "object", **listed, **normalise_schema(raw)}
    return flat_map_schema(raw, required)


def is_schema(parameters: Json) -> bool:
    """Whether parameters are a schema; in a flat map, a parameter called `type` or `properties` is described."""
    kind, properties = parameters.get("type"), parameters.get("properties")
    if isinstance(kind, str):
        return JSON_TYPES.get(kind.lower()) == "object"
    if "additionalProperties" in parameters or isinstance(parameters.get("$ref"), str):
        return True
    if any(isinstance(parameters.get(name), list) for name in SCHEMA_LISTS):
        return True
    return isinstance(properties, dict) and all(isinstance(value, dict) for value in properties.values())


def flat_map_schema(parameters: Json, required: object) -> Json:
    """`{name: {"type", "description", ...}}` as an object schema.

    Required are the names the tool lists; else those flagged `"required": true` when any is; else
    all that are neither worded optional nor have a default.
    """
    specs = {name: {"type": spec} if isinstance(spec, str) else spec for name, spec in parameters.items()}
    for name, spec in specs.items():
        if not isinstance(spec, dict):
            raise DataError(f"parameter {name[:80]!r} must be an object")
    if not isinstance(required, list):
        flagged = any(isinstance(spec.get("required"), bool) for spec in specs.values())
        required = [name for name, spec in specs.items() if (spec.get("required") is True if flagged else needed(spec))]
    properties = {name: normalise_schema(without_flag(spec)) for name, spec in specs.items()}
    return {"type": "object", "properties": properties, "required": required}


def needed(spec: Json) -> bool:
    """Whether a parameter of a flat map must be given."""
    return "default" not in spec and not read_type(spec.get("type"))[1]


def without_flag(spec: Json) -> Json:
    """A parameter without the boolean `required`, which no JSON Schema knows."""
    return {key: value for key, value in spec.items() if key != "required" or not isinstance(value, bool)}


def normalise_schema(schema: Any) -> Any:
    """A schema whose type names, at every depth, are JSON Schema's; null keywords go, the rest stays as it is."""
    if not isinstance(schema, dict):
        return schema
    result: Json = {}
    for key, value in schema.items():
        if value is None and key not in ("default", "const"):
            continue
        if key == "type":
            result |= read_type(value)[0]
        elif key in SCHEMA_MAPS and isinstance(value, dict):
            result[key] = {name: normalise_schema(part) for name, part in value.items()}
        elif key in SCHEMA_LISTS and isinstance(value, list):
            result[key] = [normalise_schema(part) for part in value]
        elif key in SCHEMA_VALUES:
            result[key] = normalise_schema(value)
        else:
            result[key] = value
    return result


def read_type(words: object) -> tuple[Json, bool]:
    """The schema that a type name or a list of them means, and whether it says that the value may be left out.

    A name that no JSON type fits (`Callable[[float], float]`) allows every value and is kept as `x-type`.
    """
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return ({"type": words} if WORDS.keys() >= set(words) else union(read_type(word)[0] for word in words)), False
    if not isinstance(words, str):
        return ({} if words is None else {"type": words}), False
    schema, optional = read_type_name(words)
    return dict(schema), optional


@lru_cache(maxsize=4096)
def read_type_name(words: str) -> tuple[Json, bool]:
    """`read_type` of a text, remembered."""
    parts = [part.strip() for part in split_top(ALTERNATIVE.sub("|", DEFAULT.sub(",optional", words)), ",|")]
    kinds = [part for part in parts if part.lower() != "optional"]
    optional = len(kinds) < len(parts) or any(kind.lower().startswith("optional[") for kind in kinds)
    return union(read_kind(kind) for kind in kinds), optional


def read_kind(kind: str) -> Json:
    """The schema of one type: a plain name, or a generic such as `Dict[str, int]`."""
    if kind.lower() in JSON_TYPES:
        return {"type": JSON_TYPES[kind.lower()]}
    generic = GENERIC.fullmatch(kind)
    if generic is None:
        return {} if kind.lower() in ("any", "typing.any", "") else {"x-type": kind}
    name, inner = generic[1].lower(), [part.strip() for part in split_top(generic[2], ",")]
    if name in ("union", "optional"):
        return union(map(read_kind, [*inner, *(["null"] if name == "optional" else [])]))
    if JSON_TYPES.get(name) == "array":
        items = union(read_kind(part) for part in inner if part != "...")
        return {"type": "array", **({"items": items} if items else {})}
    if JSON_TYPES.get(name) == "object":
        values = read_kind(inner[-1])
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    return {"x-type": kind}


def union(schemas: Iterable[Json]) -> Json:
    """The schema that allows what any of them allows."""
    distinct: list[Json] = []
    for schema in schemas:
        if schema not in distinct:
            distinct.append(schema)
    if len(distinct) == 1:
        return distinct[0]
    if not distinct or {} in distinct:
        return {}
    if all(schema.keys() == {"type"} for schema in distinct):
        return {"type": [schema["type"] for schema in distinct]}
    return {"anyOf": distinct}


def split_top(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "[(":
            depth += 1
        elif char in "])":
            depth -= 1
        elif char in separators and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
