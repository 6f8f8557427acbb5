"""JSON objects as calls; the formats differ in what they call the arguments."""

from __future__ import annotations

import json
import re

from toolrl_cli.errors import FormatError
from toolrl_cli.jsonl import load_json
from toolrl_cli.records import ExtendedCall, PredictedCall, ToolCall

DECODER = json.JSONDecoder()
BETWEEN = re.compile(r"[\s,]*")


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


def decode_leniently(text: str, start: int, closing: str) -> tuple[list[PredictedCall], int]:
    """The calls from `start` to a closing tag or the end, and where that is: objects or lists of them, in any layout.

    Raises:
        FormatError: something there is no JSON, no call, or a number too long or nested too deeply for Python.
    """
    calls: list[PredictedCall] = []
    position = BETWEEN.match(text, start).end()  # type: ignore[union-attr]
    while position < len(text) and not text.startswith(closing, position):
        try:
            value, end = DECODER.raw_decode(text, position)
            calls += [lenient_call(item) for item in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError) as error:
            raise FormatError(f"call is not JSON: {text[position : position + 80]!r}") from error
        position = BETWEEN.match(text, end).end()  # type: ignore[union-attr]
    return calls, position


def lenient_call(value: object) -> PredictedCall:
    """A decoded value as a call, whatever it calls its arguments; null or nothing is none of them.

    Raises:
        FormatError: it has no name.
    """
    if not isinstance(value, dict) or "name" not in value:
        raise FormatError(f'call is no object with a "name": {repr(value)[:80]}')
    arguments = value.get("parameters", value.get("arguments"))
    return PredictedCall(value["name"], {} if arguments is None else arguments)


def gold_call(call: PredictedCall, key: str) -> ToolCall:
    """A call that is fit to be gold; raise `FormatError` when its name or arguments are of another type."""
    if not isinstance(call.name, str) or not isinstance(call.arguments, dict):
        raise FormatError(f'a call needs a "name" string and a "{key}" object')
    return ToolCall(call.name, call.arguments)
