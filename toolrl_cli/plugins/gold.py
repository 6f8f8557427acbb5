"""Gold answers and tools as data sets hold them: records, their JSON text, or the gold completion as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats import stock_format
from toolrl_cli.formats.calls import decode_value
from toolrl_cli.jsonl import load_json
from toolrl_cli.records import Json, Target


def read_gold(gold: Any, text_format: str = "toolrl") -> Target:
    """A target from its record, its JSON text, or the gold completion in a text format.

    Raises:
        DataError: it is none of these.
        FormatError: a gold completion does not follow the format.
    """
    if not isinstance(gold, str):
        return Target.from_json(gold)
    if not gold.lstrip().startswith("{") or is_call(gold):
        return stock_format(text_format).parse_target(gold)
    try:
        return Target.from_json(load_json(gold))
    except ValueError as error:
        raise DataError(f"the gold is no JSON: {gold[:80]!r}") from error


def is_call(gold: str) -> bool:
    """Whether text begins with a call in JSON, as a gold completion of the llama3 format may; no record has a name."""
    try:
        value, _ = decode_value(gold.lstrip(), 0)
    except FormatError:
        return False
    return isinstance(value, dict) and "name" in value


def read_tools(tools: Any) -> tuple[Json, ...]:
    """Tool records from a list of them or its JSON text, none from nothing.

    Raises:
        DataError: the text is no JSON.
    """
    try:
        found = load_json(tools) if isinstance(tools, str) else tools
    except ValueError as error:
        raise DataError(f"the tools are no JSON: {tools[:80]!r}") from error
    return tuple(found) if isinstance(found, Iterable) else ()
