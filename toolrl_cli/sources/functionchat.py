"""FunctionChat-Bench: single calls, dialogues and decisions whether to call."""

from __future__ import annotations

from itertools import product

from toolrl_cli.records import Example, Json, expect_each
from toolrl_cli.sources.base import RowError, Source, other_fields, shorten
from toolrl_cli.sources.openai import read_functions, read_message, read_messages, read_target, with_warnings

DECISION = ("input_messages", "input_tools", "ground_truth")
SINGLE_CALL = ("function_name", "query", "ground_truth", "tools")


class FunctionchatSource(Source):
    """Every row is split into decisions: messages, tools and the one step that is right."""

    name = "functionchat"

    def recognises(self, row: Json) -> bool:
        """The fields of one of the three files."""
        if "turns" in row:
            return isinstance(row["turns"], list) and row.keys() >= {"dialog_num", "tools"}
        single = row.keys() >= {*SINGLE_CALL} and isinstance(row["query"], list) and "answers" not in row
        return single or row.keys() >= {*DECISION}

    def split(self, row: Json) -> list[Json]:
        """A decision for each turn of a dialogue, for each pair of a query and a set of tools, or the row itself."""
        if "turns" in row:
            return split_dialogue(row)
        return split_single_call(row) if row.keys() >= {*SINGLE_CALL} else [row]

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """The decision as an example; raise `DataError` when it is malformed."""
        tools, warnings = read_functions(row.get("input_tools"))
        messages = read_messages(row.get("input_messages"))
        gold = read_message(row.get("ground_truth"), "ground_truth")
        if gold["role"] != "assistant":
            raise RowError("no assistant step", f"ground_truth is of role {shorten(gold['role'])}")
        meta = with_warnings(other_fields(row, *DECISION), warnings)
        return [Example(row_id, self.name, tools, messages, read_target(gold), meta)]


def split_dialogue(row: Json) -> list[Json]:
    """A decision for each turn, which brings its own history as `query`."""
    shared = {**other_fields(row, "turns", "tools"), "input_tools": row.get("tools")}
    return [
        {**shared, **other_fields(turn, "query"), "input_messages": turn.get("query")}
        for turn in expect_each(row["turns"], dict, "turns")
    ]


def split_single_call(row: Json) -> list[Json]:
    """A decision for each query with each set of tools; answers belong to the query of their `serial_num`."""
    shared = other_fields(row, *SINGLE_CALL[1:], "acceptable_arguments")
    answers = by_serial_number(row, "ground_truth")
    accepted = by_serial_number(row, "acceptable_arguments")
    queries = expect_each(row["query"], dict, "query")
    return [
        {
            **shared,
            "serial_num": query.get("serial_num"),
            "acceptable_arguments": accepted.get(serial_number(query)),
            "tools_type": tools.get("type"),
            "input_messages": [{"role": "user", "content": query.get("content")}],
            "input_tools": tools.get("content"),
            "ground_truth": call_message(answers.get(serial_number(query))),
        }
        for query, tools in product(queries, expect_each(row["tools"], dict, "tools"))
    ]


def by_serial_number(row: Json, field: str) -> dict[str, object]:
    """The contents of a field's records by the number of the query they belong to."""
    records = expect_each(row.get(field) or [], dict, field)
    return {serial_number(record): record.get("content") for record in records}


def serial_number(record: Json) -> str:
    """The number of a query as a key, whatever it is."""
    return repr(record.get("serial_num"))


def call_message(call: object) -> Json:
    """An assistant message with the one call that a JSON text holds."""
    return {"role": "assistant", "content": [{"type": "tool_call", "value": call}]}
