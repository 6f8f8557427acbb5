"""JSON objects as calls; the formats differ in what they call the arguments."""

from __future__ import annotations

import json

from toolrl_cli.errors import FormatError
from toolrl_cli.jsonl import load_json
from toolrl_cli.records import ExtendedCall, PredictedCall, ToolCall

DECODER = json.JSONDecoder()


def decode_call(text: str, key: str) -> PredictedCall:
    """The call that JSON text holds, its arguments under `key`; raise `FormatError` when it holds none."""
    try:
        value = load_json(text)
    except ValueError as error:
        raise FormatError(f"call is not JSON: {text[:80]!r}") from error
    return read_call(value, key, text)


def decode_value(text: str, start: int) -> tuple[object, int]:
    """The JSON value that begins at `start`, and where it ends.

    Raises:
        FormatError: there is none, or a number too long or nested too deeply for Python.
    """
    try:
        return DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"call is not JSON: {text[start : start + 80]!r}") from error


def read_call(value: object, key: str, text: str) -> PredictedCall:
    """A decoded value as a call; raise `FormatError`, quoting its text, when it is no object with a name."""
    if not isinstance(value, dict) or "name" not in value:
        raise FormatError(f'call is no object with a "name": {text[:80]!r}')
    kind = ExtendedCall if value.keys() - {"name", key} else PredictedCall
    return kind(value["name"], value.get(key))


def gold_call(call: PredictedCall, key: str) -> ToolCall:
    """A call that is fit to be gold; raise `FormatError` when its name or arguments are of another type."""
    if not isinstance(call.name, str) or not isinstance(call.arguments, dict):
        raise FormatError(f'a call needs a "name" string and a "{key}" object')
    return ToolCall(call.name, call.arguments)
