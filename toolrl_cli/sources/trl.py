"""TRL's conversations with tools as Arrow gives them back: `{messages, tools}` or `{prompt, completion, tools}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolrl_cli.records import Example, Json, Target, expect_each
from toolrl_cli.sources.base import Source, other_fields
from toolrl_cli.sources.openai import read_functions, read_messages, step_examples, with_warnings


class TrlSource(Source):
    """A dialogue whose arguments are objects, freed from the nulls that Arrow puts where a struct has no such key.

    A null that a row held itself looks the same: it stays only as an argument whose schema allows null,
    and in lists, which Arrow does not pad.
    """

    name = "trl"
    covers = ("openai",)

    def recognises(self, row: Json) -> bool:
        """A call with an object of arguments, or a prompt and a completion of messages."""
        if "target" in row or "reward_model" in row:
            return False
        prompt, completion = row.get("prompt"), row.get("completion")
        if is_chat(prompt) and is_chat(completion):
            return True
        return is_chat(row.get("messages")) and any(map(has_object_arguments, row["messages"]))

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step, of a completion only; raise `DataError` for a malformed row."""
        row = {key: value for key, value in row.items() if value is not None}
        fields = ("messages",) if "messages" in row else ("prompt", "completion")
        prompt, *rest = (expect_each(row.get(field), dict, field) for field in fields)
        tools, warnings = read_functions(drop_nulls(row.get("tools") or row.get("functions") or []))
        messages = read_messages(drop_nulls(sum(rest, prompt), group_schemas(tools)))
        meta = with_warnings(other_fields(row, *fields, "tools", "functions"), warnings)
        start = len(prompt) if rest else 0
        return step_examples(Example(row_id, self.name, tools, messages, Target(), meta), start)


def is_chat(value: object) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def has_object_arguments(message: Json) -> bool:
    """Whether a call of a message has its arguments as an object."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return any(isinstance(f, dict) and isinstance(f.get("arguments"), dict) for f in functions)


def group_schemas(tools: tuple[Json, ...]) -> dict[str, list[Json]]:
    """The schemas of the parameters of each tool name."""
    schemas: dict[str, list[Json]] = {}
    for tool in tools:
        schemas.setdefault(tool["function"]["name"], []).append(tool["function"]["parameters"])
    return schemas


def drop_nulls(value: Any, schemas: Mapping[str, list[Json]] | None = None) -> Any:
    """A JSON value without the keys that are null, at every depth.

    Where `schemas` of tools are given, those judge which nulls in the arguments of a call go.
    """
    if isinstance(value, list):
        return [drop_nulls(item, schemas) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if item is not None}
    if schemas is None or "arguments" not in kept:
        return {key: drop_nulls(item, schemas) for key, item in kept.items()}
    arguments = drop_padding(kept["arguments"], schemas.get(str(kept.get("name")), []))
    return {**drop_nulls(other_fields(kept, "arguments"), schemas), "arguments": arguments}


def drop_padding(value: Any, schemas: list[Any]) -> Any:
    """A value without the null keys, at every depth, for which none of the schemas allows null."""
    if not isinstance(value, dict | list):
        return value
    choices = list_choices(schemas)
    if isinstance(value, list):
        items = [schema["items"] for schema in choices if "items" in schema]
        return [drop_padding(item, items) for item in value]
    maps = [schema["properties"] for schema in choices if isinstance(schema.get("properties"), dict)]
    kept = {}
    for key, item in value.items():
        inner = [properties[key] for properties in maps if key in properties]
        if item is not None or any(map(allows_null, list_choices(inner))):
            kept[key] = drop_padding(item, inner)
    return kept


def list_choices(schemas: list[Any]) -> list[Json]:
    """The schemas without `anyOf` and `oneOf`, which are replaced by what they offer."""
    choices: list[Json] = []
    pending = list(schemas)
    while pending:
        schema = pending.pop()
        if isinstance(schema, dict):
            offers = [schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)]
            pending.extend(choice for offer in offers for choice in offer)
            choices += [] if offers else [schema]
    return choices


def allows_null(schema: Json) -> bool:
    """Whether a schema without choices takes null; a reference is taken to refuse it."""
    kind, values = schema.get("type", "null"), schema.get("enum", [None])
    return (
        ("null" in kind if isinstance(kind, list) else kind == "null")
        and isinstance(values, list)
        and None in values
        and schema.get("const") is None
        and not schema.keys() & {"$ref", "allOf"}
    )
