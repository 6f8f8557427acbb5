"""What a source must do, and the readers that sources share."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Protocol

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.records import Example, Json, ToolCall, expect
from toolrl_cli.sources.schemas import parameters_schema


class RowError(DataError):
    """A row that gives no example; rejects are counted by `kind`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Source(Protocol):
    """A data set's way to encode tool calls."""

    name: str
    strict: bool
    """Whether a call that contradicts its tool's schema rejects the row, or is only noted in `meta.warnings`."""

    def recognises(self, row: Json) -> bool:
        """Whether a row is of this source; never raises."""
        ...

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """The examples of a row, their ids starting with `row_id`; raise `DataError` when it gives none."""
        ...


def decode_text(value: object, kind: str) -> Any:
    """A value that may be JSON in a string, or in a string in a string; raise `RowError` of that kind if no JSON."""
    try:
        for _ in range(2):
            value = load_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(kind, shorten(value)) from error
    return value


def read_tools(raw: object) -> tuple[Json, ...]:
    """A list of tools, or JSON text of one, as OpenAI tool objects without exact repetitions."""
    tools = map(read_tool, expect(decode_text(raw, "tools not JSON"), list, "tools"))
    return tuple({dump_json(tool): tool for tool in tools}.values())


def read_tool(raw: object) -> Json:
    """A tool, bare or wrapped, as an OpenAI tool object whose parameters are a JSON Schema."""
    record = expect(raw, dict, "tool")
    wrapper = {key: value for key, value in record.items() if value is not None} if "function" in record else {}
    function = expect(record.get("function", record), dict, "tool function")
    expect(function.get("name"), str, "tool name")
    kept = {key: value for key, value in function.items() if value is not None and key not in ("type", "required")}
    kept["parameters"] = parameters_schema(function.get("parameters"), function.get("required"))
    return {"type": "function", **wrapper, "function": kept}


def read_call(raw: object) -> ToolCall:
    """A call whose arguments are an object, or JSON text of one; none at all count as {}."""
    record = expect(raw, dict, "tool call")
    name = expect(record.get("name"), str, "tool call name")
    arguments = record.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return ToolCall(name, {})
    return ToolCall(name, expect(decode_text(arguments, "arguments not JSON"), dict, f"arguments of {shorten(name)}"))


def other_fields(row: Mapping[str, Any], *known: str) -> Json:
    """The fields of a row that the source has no other place for."""
    return {key: value for key, value in row.items() if key not in known}


def shorten(value: object) -> str:
    """A value as an error may show it: whatever its size, a few words."""
    return SHORT.repr(value)


SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80
