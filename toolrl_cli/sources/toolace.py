"""ToolACE's rows: tools as JSON in the `system` text, calls as text `[Name(argument=value), ...]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolrl_cli.records import Example, Json, expect
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, read_tools, shorten
from toolrl_cli.sources.literals import read_items, read_literal, read_value, skip_space, unite
from toolrl_cli.sources.turns import dialogue_examples, find_turns, read_turns, step_message

LIST_START = re.compile(r"\[\s*+\{")
EMPTY_LIST = re.compile(r"\[\s*+\]")
TAGS = ("<tools>", "<tool_call>")
PROSE = re.compile(r"""\[[^\[\](){}"'=]+\]\s*+\S""")
NAME = re.compile(r"""([^()\[\]{},="'\n]+)\(""")
ARGUMENT = re.compile(r"""([^()={},"'\n]+)=""")


class ToolaceSource(Source):
    """A dialogue; each assistant step after the first user turn becomes an example.

    The system text around the list of tools is the wording of a prompt and is not kept.
    """

    name = "toolace"

    def recognises(self, row: Json) -> bool:
        """Turns of from/value beside a system text that holds a list of tools, which stand nowhere else."""
        system, turns = row.get("system"), find_turns(row)
        if not isinstance(system, str) or not turns or "tools" in row:
            return False
        tagged = any(tag in text for text in (system, *(text for _, text in turns)) for tag in TAGS)
        return not tagged and holds_tool_list(system)

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step; raise `DataError` for a malformed row or a call that cannot be read."""
        tools = read_tools(read_tool_list(expect(row.get("system"), str, "system")))
        grammar = CallGrammar.of_tools(tools)
        messages = [read_message(turn, grammar) for turn in read_turns(row)]
        return dialogue_examples(row_id, self.name, tools, messages, other_fields(row, "system", "conversations"))


def read_tool_list(system: str) -> list[Any]:
    """The first list of objects in a system text, else an empty list in it.

    Raises:
        RowError: there is none, or it is broken and may not be mended.
    """
    start = LIST_START.search(system) or EMPTY_LIST.search(system)
    if start is None:
        raise RowError("no tools", "the system text holds no JSON list")
    try:
        return list(read_value(system, start.start())[0])
    except ValueError:
        broken = system[start.start() : system.rfind("}") + 1]
        return expect(decode_text(broken, "tools not JSON"), list, "tools")


def holds_tool_list(system: str) -> bool:
    """Whether a system text holds a list of tools that can be read as it is."""
    start = LIST_START.search(system)
    try:
        return start is not None and bool(read_value(system, start.start())[0])
    except ValueError:
        return False


def read_message(turn: Json, grammar: CallGrammar) -> Json:
    """A turn as a message; an answer that opens a list must be calls, unless words follow a plain bracket."""
    text = turn["content"].strip()
    if turn["role"] != "assistant" or not text.startswith("[") or PROSE.match(text):
        return turn
    try:
        return {**turn, **step_message(grammar.read_calls(text), "")}
    except ValueError as error:
        raise RowError("calls not readable", shorten(text)) from error


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """How calls are read where the names of tools may hold spaces, brackets and anything else."""

    known: re.Pattern[str] | None

    @classmethod
    def of_tools(cls, tools: Sequence[Json]) -> CallGrammar:
        """The grammar that knows the names of these tools."""
        names = [tool["function"]["name"] for tool in tools]
        longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return cls(re.compile(rf"({longest_first})\s*+\(") if names else None)

    def read_calls(self, text: str) -> list[Json]:
        """The calls of a list; raise `ValueError` when it is none, or more than one list."""
        calls, end = read_items(text, 1, "]", lambda position: self.read_call(text, position))
        if end < len(text) or not calls:
            raise ValueError("no list of calls")
        return calls

    def read_call(self, text: str, start: int) -> tuple[Json, int]:
        """The call at a place of a text, and where it ends; the longest known name that fits is its name."""
        match = (self.known and self.known.match(text, start)) or NAME.match(text, start)
        if match is None:
            raise ValueError("no name")
        pairs, end = read_items(text, match.end(), ")", lambda position: read_argument(text, position))
        return {"name": match[1].strip(), "arguments": unite(pairs)}, end


def read_argument(text: str, start: int) -> tuple[tuple[str, Any], int]:
    """A name and a value; any text before the equals sign is a name, even `from`, `$top` or `a.b`."""
    match = ARGUMENT.match(text, start)
    if match is None:
        raise ValueError("no argument")
    value, end = read_literal(text, skip_space(text, match.end()), 0)
    return (match[1].strip(), value), end
