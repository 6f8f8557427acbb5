"""Gold answers and tools as data sets hold them: records, their JSON text, or the gold completion as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toolrl_cli.errors import DataError
from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import load_json
from toolrl_cli.records import Json, Target

TEXT_FORMAT = find_format("toolrl")


def read_gold(gold: Any) -> Target:
    """A target from its record, its JSON text, or the gold completion in the toolrl format.

    Raises:
        DataError: it is none of these.
        FormatError: a gold completion does not follow the format.
    """
    if not isinstance(gold, str):
        return Target.from_json(gold)
    if not gold.lstrip().startswith("{"):
        return TEXT_FORMAT.parse_target(gold)
    try:
        return Target.from_json(load_json(gold))
    except ValueError as error:
        raise DataError(f"the gold is no JSON: {gold[:80]!r}") from error


def read_tools(tools: Any) -> tuple[Json, ...]:
    """Tool records from a list of them or its JSON text, none from nothing."""
    if isinstance(tools, str):
        tools = load_json(tools)
    return tuple(tools) if isinstance(tools, Iterable) else ()
