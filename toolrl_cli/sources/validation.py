"""Calls against the schemas of their tools: what a gold answer gets wrong."""

from __future__ import annotations

import json
import marshal
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolrl_cli.records import Example, Json, ToolCall
from toolrl_cli.sources.base import RowError, freeze, shorten

MAX_FINDINGS = 10
NESTING_RESERVE = 200
OPEN_ENDED = {"patternProperties", "$ref", "allOf", "anyOf", "oneOf"}
"""Keywords by which a schema takes arguments that its `properties` do not name."""
KINDS = {
    "required": "missing argument",
    "additionalProperties": "unknown argument",
    "type": "wrong type",
    "anyOf": "wrong type",
    "oneOf": "wrong type",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a call gets wrong; findings are counted by `kind`."""

    kind: str
    detail: str

    def __str__(self) -> str:
        """`kind: detail`."""
        return f"{self.kind}: {self.detail}"


def require_json(value: object) -> None:
    """Refuse what strict JSON readers, or readers with a deeper call stack than ours, could not decode.

    Raises:
        RowError: the value holds NaN or infinity, or a string that is no Unicode text.
        RecursionError: it is nested to within 200 levels of Python's limit.
    """
    for _ in range(NESTING_RESERVE):
        value = [value]
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise RowError("not finite", "NaN or Infinity is no JSON") from error
    require_unicode(text)


def require_unicode(text: str) -> None:
    """Raise `RowError` for a lone surrogate, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("not Unicode text", f"lone surrogate {text[error.start]!a}") from error


def require_user(example: Example) -> None:
    """Raise `RowError` when nobody asks anything."""
    if not any(message["role"] == "user" for message in example.messages):
        raise RowError("no user message", "no message before the step is from a user")


def check_calls(example: Example) -> list[Finding]:
    """What the calls of the target get wrong, judged by the example's own tools."""
    return [finding for call in example.target.tool_calls for finding in check_call(call, example.tools)]


def check_call(call: ToolCall, tools: Sequence[Json]) -> list[Finding]:
    """What a call gets wrong; of several tools with its name, the one that fits best judges."""
    schemas = [tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == call.name]
    if not schemas:
        return [Finding("undeclared tool", shorten(call.name))]
    return min((check_arguments(call, schema) for schema in schemas), key=len)


def check_arguments(call: ToolCall, schema: Json) -> list[Finding]:
    """Every way, up to ten, in which the arguments do not fit a schema; a schema that is none is one finding."""
    try:
        validator = build_validator(freeze(schema))
        errors = list(islice(validator.iter_errors(call.arguments), MAX_FINDINGS))
    except SchemaError as error:
        return [Finding("broken schema", f"{shorten(call.name)}: {shorten(error.message)}")]
    except (Unresolvable, RecursionError, re.error) as error:
        return [Finding("broken schema", f"{shorten(call.name)}: {shorten(str(error))}")]
    unknown = list(find_unknown(call, schema))
    repeated = [e for e in errors if unknown and e.validator == "additionalProperties" and not e.absolute_path]
    return [*unknown, *(describe(call, error) for error in errors if error not in repeated)]


def find_unknown(call: ToolCall, schema: Json) -> Iterator[Finding]:
    """Arguments that a schema does not name, unless it says that it takes any."""
    properties = schema.get("properties")
    open_ended = schema.get("additionalProperties") or schema.keys() & OPEN_ENDED
    if not isinstance(properties, dict) or open_ended:
        return
    for name in call.arguments:
        if name not in properties:
            yield Finding("unknown argument", f"{shorten(call.name)}: {shorten(name)}")


def describe(call: ToolCall, error: ValidationError) -> Finding:
    """A schema violation in words."""
    where = ".".join([call.name, *map(str, error.absolute_path)])
    detail = f"{shorten(where)}: {shorten_value(error)}"
    return Finding(KINDS.get(str(error.validator), "wrong value"), detail)


def shorten_value(error: ValidationError) -> str:
    """What a violation is about: for a type, the value found and the type wanted; else the validator's message."""
    if error.validator == "type":
        wanted = error.validator_value
        kinds = " or ".join(map(str, wanted)) if isinstance(wanted, list) else wanted
        return f"{shorten(error.instance)} is not of type {kinds}"
    return error.message if len(error.message) <= 160 else f"{error.message[:160]}..."


@lru_cache(maxsize=4096)
def build_validator(schema: bytes) -> Draft202012Validator:
    """A validator of a frozen schema, kept for the next call of the same tool.

    Raises:
        SchemaError: it is no JSON Schema (draft 2020-12).
    """
    decoded = marshal.loads(schema)
    Draft202012Validator.check_schema(decoded, format_checker=FormatChecker(formats=()))
    checker: Draft202012Validator = Checker(decoded, registry=Registry())
    return checker


def pass_over(*_: Any) -> None:
    """A keyword that is not checked."""


# A data set's regular expression may hang or not be Python's; an undeclared argument is found by
# `find_unknown`. The empty registry above keeps a `$ref` from being fetched over the network.
Checker = extend(Draft202012Validator, {"pattern": pass_over, "patternProperties": pass_over})  # type: ignore[no-untyped-call]
