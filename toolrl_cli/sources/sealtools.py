"""Seal-Tools' rows (arXiv 2405.08355): a query and its calls, or a fine-tuning prompt that lists the tools as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Self

from toolrl_cli.jsonl import dump_json, read_records
from toolrl_cli.records import Example, Json, Target, expect, expect_each
from toolrl_cli.sources.base import RowError, Source, other_fields, read_call, read_tool
from toolrl_cli.sources.catalogues import find_catalogue
from toolrl_cli.sources.python_literals import read_literal

CATALOGUE = "tool.jsonl"
CANDIDATES = 10
LIST_START, TASK_START, TASK_END = "api_list = ", "\ntask_instruction = ", "\nOutput:"
REFERENCE = re.compile(r'"(API_call_\d+)\b')


class Definition(NamedTuple):
    """A tool of the catalogue; `field` is a subject in an area, `area/subject`."""

    tool: Json
    field: str

    @property
    def name(self) -> str:
        """The name that calls use."""
        return str(self.tool["function"]["name"])

    @property
    def area(self) -> str:
        """The field without its subject."""
        return self.field.partition("/")[0]


class SealtoolsSource(Source):
    """One query, one step with all its calls.

    The gold calls pass text where the tools say `float`, and refer to one another's results
    (`"API_call_0"`) whatever the type, so what contradicts the tools is noted and kept.
    """

    name = "sealtools"
    catalogue = CATALOGUE
    strict = False

    def __init__(self, path: Path = Path(CATALOGUE), tools: Path | None = None) -> None:
        self._path, self._tools = path, tools

    def open(self, path: Path, tools: Path | None) -> Self:
        """The source for a file; a catalogue must be sound if it is there, and be there once a row needs it."""
        if tools is not None or path.with_name(CATALOGUE).is_file():
            read_catalogue(find_catalogue(path, tools, CATALOGUE))
        return type(self)(path, tools)

    def recognises(self, row: Json) -> bool:
        """A query with calls, or the prompt of the fine-tuning rows."""
        return (row.keys() >= {"query", "calling"} and "answers" not in row) or is_dialogue(row.get("conversations"))

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example; raise `DataError` for a malformed row, or when there is no catalogue."""
        if "calling" not in row:
            return [self.read_dialogue(row, row_id)]
        query = expect(row.get("query"), str, "query")
        calls = expect_each(row["calling"], dict, "calling")
        names = {call["api"] for call in calls if isinstance(call.get("api"), str)}
        catalogue = read_catalogue(find_catalogue(self._path, self._tools, CATALOGUE))
        seed = row["id"] if isinstance(row.get("id"), str) else row_id
        drawn = draw(catalogue, names, seed)
        offered = shuffle([name for name in names if name in catalogue] + drawn, seed)
        meta = {**other_fields(row, "query", "calling"), "drawn_tools": sorted(drawn)}
        return [self.example(row_id, tuple(catalogue[name].tool for name in offered), query, calls, meta)]

    def read_dialogue(self, row: Json, row_id: str) -> Example:
        """A prompt and its answer; the prompt's own list of tools is what is offered."""
        prompt, answer = read_turns(row.get("conversations"))
        listed, query = read_prompt(prompt)
        calls = expect_each(read_literal(answer, "answers not JSON"), dict, "calling")
        tools = tuple(read_definition(raw).tool for raw in expect(listed, list, "api_list"))
        return self.example(row_id, tools, query, calls, other_fields(row, "conversations"))

    def example(self, row_id: str, tools: tuple[Json, ...], query: str, calls: list[Json], meta: Json) -> Example:
        """A query and its calls; what the calls name their results, and refer to of them, is kept in `meta`."""
        target = Target(
            tool_calls=tuple(
                read_call({"name": call.get("api"), "arguments": call.get("parameters")}) for call in calls
            )
        )
        references = sorted(
            {name for call in target.tool_calls for name in REFERENCE.findall(dump_json(call.arguments))}
        )
        meta = {**meta, "calling": [other_fields(call, "api", "parameters") for call in calls]}
        meta |= {"references": references} if references else {}
        return Example(row_id, self.name, tools, ({"role": "user", "content": query},), target, meta)


def draw(catalogue: Mapping[str, Definition], called: set[str], seed: str) -> list[str]:
    """The names of tools to offer beside the called ones, ten in all; the nearer their fields, the sooner.

    The rows do not say which tools were offered; the paper retrieves ten of the same catalogue.
    """
    known = [catalogue[name] for name in called if name in catalogue]
    fields, areas = {tool.field for tool in known}, {tool.area for tool in known}
    others = [tool for name, tool in catalogue.items() if name not in called]
    near = [tool for tool in others if tool.area in areas]
    missing = max(CANDIDATES - len(known), 0)
    pool = near if len(near) >= missing else others
    ranked = sorted(pool, key=lambda tool: (tool.field not in fields, tool.area not in areas, rank(tool.name, seed)))
    return [tool.name for tool in ranked[:missing]]


def shuffle(names: list[str], seed: str) -> list[str]:
    """Names in an order that depends on them and the seed alone."""
    return sorted(names, key=lambda name: rank(name, f"order of {seed}"))


def rank(name: str, seed: str) -> bytes:
    """A place among others that is the same on every machine, and another for every seed."""
    return blake2b(f"{seed}\n{name}".encode(errors="surrogatepass"), digest_size=8).digest()


def is_dialogue(turns: object) -> bool:
    """Whether turns open with the prompt of the fine-tuning rows."""
    first = turns[0] if isinstance(turns, list) and turns else None
    prompt = first.get("value") if isinstance(first, dict) else None
    return isinstance(prompt, str) and LIST_START in prompt and TASK_START in prompt


def read_turns(raw: object) -> tuple[str, str]:
    """The texts of the prompt and the answer."""
    turns = expect_each(raw, dict, "conversations")
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise RowError("wrong shape", "conversations must be a turn of human and one of gpt")
    prompt, answer = (expect(turn.get("value"), str, "value") for turn in turns)
    return prompt, answer


def read_prompt(prompt: str) -> tuple[object, str]:
    """The list of tools in a prompt, and the query after it; the rest is the wording, which a format brings again."""
    _, _, after = prompt.partition(LIST_START)
    listed, found, task = after.rpartition(TASK_START)
    query, closed, _ = task.rpartition(TASK_END)
    if not found or not closed:
        raise RowError("format", 'the prompt holds no "api_list = ", "task_instruction = " and "Output:" in this order')
    return read_literal(listed, "tools not JSON"), query.strip().removeprefix('"').removesuffix('"')


@lru_cache(maxsize=8)
def read_catalogue(path: Path) -> Mapping[str, Definition]:
    """The definitions of a catalogue by name, the first of each; raise `DataError` for a malformed line."""
    return {tool.name: tool for tool in reversed(list(read_records(path, read_definition)))}


def read_definition(raw: object) -> Definition:
    """A tool with the flat map of its parameters; what else is known of it stays in the tool."""
    record = expect(raw, dict, "tool")
    function = {
        **other_fields(record, "api_name", "api_description"),
        "name": expect(record.get("api_name"), str, "api_name"),
        "description": record.get("api_description"),
        "parameters": list_examples(record.get("parameters")),
    }
    return Definition(read_tool({"function": function}), expect(record.get("field", ""), str, "field"))


def list_examples(parameters: object) -> object:
    """Parameters whose `examples` are lists, as JSON Schema wants them; some are one text."""
    if not isinstance(parameters, dict):
        return parameters
    texts = {
        name for name, spec in parameters.items() if isinstance(spec, dict) and isinstance(spec.get("examples"), str)
    }
    return {
        name: {**spec, "examples": [spec["examples"]]} if name in texts else spec for name, spec in parameters.items()
    }
