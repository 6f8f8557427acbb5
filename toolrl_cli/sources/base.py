"""What a source must do, and the readers that sources share."""

from __future__ import annotations

import marshal
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import load_json, repeated_key
from toolrl_cli.records import Example, Json, ToolCall, expect
from toolrl_cli.sources.schemas import parameters_schema


class RowError(DataError):
    """A row that gives no example; rejects are counted by `kind`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Source(ABC):
    """A data set's way to encode tool calls; a subclass in a module of this package is found by its name."""

    name: ClassVar[str]
    strict: ClassVar[bool] = True
    """Whether a call that contradicts its tool's schema rejects the row, or is only noted in `meta.warnings`."""
    whole_file: ClassVar[bool] = False
    """Whether the lines of a file are one row, which comes as `{"lines": [...]}`."""
    catalogue: ClassVar[str | None] = None
    """The name of a file of tools that lies beside the data and is none."""
    keeps_ids: ClassVar[bool] = False
    """Whether examples keep the ids of their rows, which may repeat."""
    covers: ClassVar[tuple[str, ...]] = ()
    """Other sources whose rows this one reads as well, so that a file may hold both."""

    @abstractmethod
    def recognises(self, row: Json) -> bool:
        """Whether a row (a line, if `whole_file`) is of this source and none that it does not cover; never raises."""

    def open(self, path: Path, tools: Path | None) -> Self:
        """The source as it reads one file; `tools` is a catalogue of tools that rows refer to, where one is given.

        Raises:
            DataError: the catalogue is needed and not there, or malformed.
        """
        return self

    def split(self, row: Json) -> list[Json]:
        """The parts of a row that give examples, or are rejected, each for itself."""
        return [row]

    @abstractmethod
    def convert(self, row: Json, row_id: str) -> list[Example]:
        """The examples of a part of a row, their ids starting with `row_id`; raise `DataError` when it gives none."""


REPAIRS: ContextVar[list[str] | None] = ContextVar("REPAIRS", default=None)
"""What was repaired in the row at hand; None where nothing may be."""
MAX_MENDED = 100_000


def note_repair(what: str) -> bool:
    """Whether repairs are asked for; if so this one is noted and ends up in `meta.repairs`."""
    repairs = REPAIRS.get()
    if repairs is None:
        return False
    repairs.append(what)
    return True


def decode_text(value: object, kind: str) -> Any:
    """A value that may be JSON in a string, or in a string in a string; raise `RowError` of that kind if no JSON.

    An object with a key twice is refused too. Where repairs are asked for, broken JSON is read as well as can be.
    """
    text = value
    try:
        for _ in range(2):
            value = load_unique(value) if isinstance(value, str) else value
    except ValueError as error:
        if isinstance(text, str) and note_repair(f"{kind}: {shorten(text)}"):
            return mend_json(text, kind)
        raise RowError(kind, shorten(value)) from error
    return value


def load_unique(text: str) -> Any:
    """JSON decoded; raise `ValueError` for none, `RowError` for an object that holds a key twice."""
    value = load_json(text)
    if (key := repeated_key(text, value)) is not None:
        raise RowError("a key twice", shorten(key))
    return value


def mend_json(text: str, kind: str) -> Any:
    """Broken JSON as the `json_repair` library reads it; raise `RowError` when nothing but text is left of it.

    Texts of over 100,000 characters are not tried, which may take the library minutes.
    """
    from json_repair import repair_json

    if len(text) > MAX_MENDED:
        raise RowError(kind, f"too long to mend: {shorten(text)}")
    try:
        value = repair_json(text, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError) as error:
        raise RowError(kind, shorten(text)) from error
    if not isinstance(value, dict | list) or not value:
        raise RowError(kind, shorten(text))
    return value


def read_tools(raw: object) -> tuple[Json, ...]:
    """A list of tools, or JSON text of one, as OpenAI tool objects without exact repetitions."""
    tools = map(read_known_tool, expect(decode_text(raw, "tools not JSON"), list, "tools"))
    return tuple({freeze(tool): tool for tool in tools}.values())


def freeze(value: Any) -> bytes:
    """Bytes that are equal for equal decoded JSON, fast; raise `RowError` where it is nested some thousand deep."""
    try:
        return marshal.dumps(value, 2)
    except ValueError as error:
        raise RowError("nested too deeply") from error


def read_known_tool(raw: object) -> Json:
    """`read_tool`, remembered, since rows repeat their tools; the result is shared and must not be changed."""
    return read_frozen_tool(freeze(raw))


@lru_cache(maxsize=4096)
def read_frozen_tool(raw: bytes) -> Json:
    """A tool from its frozen form."""
    return read_tool(marshal.loads(raw))


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


def refuse_pair(row: Mapping[str, Any]) -> None:
    """Raise `RowError` for a row with a chosen and a rejected answer, which is no dialogue to learn."""
    if "chosen" in row and "rejected" in row:
        raise RowError("preference pair", "chosen and rejected answers are no dialogue to learn")


def other_fields(row: Mapping[str, Any], *known: str) -> Json:
    """The fields of a row that the source has no other place for."""
    return {key: value for key, value in row.items() if key not in known}


def shorten(value: object) -> str:
    """A value as an error may show it: whatever its size, a few words."""
    return SHORT.repr(value)


SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80
