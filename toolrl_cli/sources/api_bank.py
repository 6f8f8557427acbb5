"""API-Bank's dialogues (arXiv 2304.08244): a file each, its lines `{role: User | AI | API, ...}`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Self

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import dump_json, open_text
from toolrl_cli.records import Example, Json, expect, expect_each
from toolrl_cli.sources.base import RowError, Source, other_fields, read_tool, shorten
from toolrl_cli.sources.catalogues import find_catalogue
from toolrl_cli.sources.openai import OpenaiSource
from toolrl_cli.sources.python_literals import as_json, literal_errors, read_assignments

CATALOGUE, FOLDERS_ABOVE = "all_apis.csv", 3
NAME_COLUMN, INFO_COLUMN = "类名", "api_info"
BAD_INFO = "broken API description"
TEXT_ROLES = {"User": "user", "AI": "assistant"}
TOOL_SEARCHER = read_tool(
    {
        "name": "ToolSearcher",
        "description": "Finds the tool that best fits some keywords.",
        "parameters": {"keywords": {"type": "str", "description": "What the tool should do."}},
    }
)


class ApiBankSource(Source):
    """A dialogue; its tools are the APIs that it calls, as in the released evaluation.

    The catalogue is older than the dialogues (a `date` there is a `time` here, a number a string),
    so what contradicts it is noted and kept.
    """

    name = "api-bank"
    catalogue = CATALOGUE
    strict = False
    whole_file = True

    def __init__(self, catalogue: Mapping[str, Json] | None = None) -> None:
        self._catalogue = {"ToolSearcher": TOOL_SEARCHER, **(catalogue or {})}

    def open(self, path: Path, tools: Path | None) -> Self:
        """The source with the catalogue, `all_apis.csv`, of this file."""
        return type(self)(read_catalogue(find_catalogue(path, tools, CATALOGUE, FOLDERS_ABOVE)))

    def recognises(self, row: Json) -> bool:
        """The roles have names of their own."""
        role = row.get("role")
        return (role in ("User", "AI") and "text" in row) or (role == "API" and "api_name" in row)

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a turn of the AI and a call of an API; raise `DataError` for a malformed line."""
        lines = expect_each(row.get("lines"), dict, "lines")
        read = (message for i, line in enumerate(lines) for message in read_line(line, f"lines[{i}]"))
        messages = list(join_turns(read))
        called = {line.get("api_name") for line in lines if line.get("role") == "API"}
        tools = [tool for name, tool in self._catalogue.items() if name in called]
        rest = {str(i): fields for i, line in enumerate(lines, start=1) if (fields := other_line_fields(line))}
        meta = {**other_fields(row, "lines"), **({"line_fields": rest} if rest else {})}
        examples = OpenaiSource().convert({"messages": messages, "tools": tools}, row_id)
        return [replace(example, source=self.name, meta=meta) for example in examples]


def read_line(line: Json, where: str) -> list[Json]:
    """A line as messages: a text, or a call and its result."""
    role = expect(line.get("role"), str, f"{where}.role")
    if role in TEXT_ROLES:
        return [{"role": TEXT_ROLES[role], "content": expect(line.get("text"), str, f"{where}.text")}]
    if role != "API":
        raise RowError("unknown role", f"{where}: {shorten(role)}")
    name = expect(line.get("api_name"), str, f"{where}.api_name")
    arguments = expect(line.get("param_dict"), dict, f"{where}.param_dict")
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": name, "content": read_result(line.get("result"), f"{where}.result")},
    ]


def read_result(raw: object, where: str) -> str:
    """What a call gave: its output as JSON text, else the exception."""
    result = expect(raw, dict, where)
    exception = result.get("exception")
    if exception is None:
        return dump_json(result.get("output"))
    return exception if isinstance(exception, str) else dump_json(exception)


def join_turns(messages: Iterable[Json]) -> Iterator[Json]:
    """The messages, where texts of the AI directly after one another, and a call after them, are one step."""
    texts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            texts += [message["content"]] if message["content"] is not None else []
            if "tool_calls" in message:
                yield {**message, "content": "\n".join(texts) or None}
                texts = []
            continue
        if texts:
            yield {"role": "assistant", "content": "\n".join(texts)}
            texts = []
        yield message
    if texts:
        yield {"role": "assistant", "content": "\n".join(texts)}


def other_line_fields(line: Json) -> Json:
    """What a line holds that the messages do not: a result repeats the call, at times with decoded arguments."""
    fields = other_fields(line, "role", "text", "api_name", "param_dict", "result")
    result = line.get("result")
    if not isinstance(result, dict):
        return fields
    shown = "output" if result.get("exception") is None else "exception"
    copies = {"api_name": line.get("api_name"), "input": line.get("param_dict"), "exception": None}
    rest = {key: value for key, value in other_fields(result, shown).items() if value != copies.get(key, ...)}
    return {**fields, "result": rest} if rest else fields


@lru_cache(maxsize=8)
def read_catalogue(path: Path) -> Mapping[str, Json]:
    """The tools that a catalogue describes, by name; an API whose description cannot be read is left out.

    Raises:
        DataError: the file cannot be read, or describes no API.
    """
    tools: dict[str, Json] = {}
    try:
        with open_text(path) as stream:
            for row in csv.DictReader(stream):
                with suppress(DataError):
                    name = expect(row.get(NAME_COLUMN), str, NAME_COLUMN)
                    tools.setdefault(name, read_api(name, expect(row.get(INFO_COLUMN), str, INFO_COLUMN)))
    except csv.Error as error:
        raise DataError(f"{path}: not CSV ({error})") from error
    if not tools:
        raise DataError(f"{path}: describes no API; expected the columns {NAME_COLUMN} and {INFO_COLUMN}")
    return tools


def read_api(name: str, info: str) -> Json:
    """An API as a tool, from the Python assignments that describe it; no parameters are None, or a set of None."""
    values = read_assignments(info, BAD_INFO)
    if "input_parameters" not in values:
        raise RowError(BAD_INFO, f"{shorten(name)} has no input_parameters")
    parameters = values["input_parameters"] if isinstance(values["input_parameters"], dict) else {}
    with literal_errors(info, BAD_INFO):
        tool = as_json({"name": name, "description": values.get("description"), "parameters": parameters})
    return read_tool(tool)
