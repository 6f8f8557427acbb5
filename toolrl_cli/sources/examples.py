"""Our own record, so that files of examples can be checked, sampled and mixed with others."""

from __future__ import annotations

from dataclasses import replace

from toolrl_cli.records import Example, Json
from toolrl_cli.sources.base import Source, other_fields, read_tools
from toolrl_cli.sources.openai import read_messages

FIELDS = ("id", "source", "tools", "messages", "target", "meta")


class ExamplesSource(Source):
    """A line of examples.jsonl, passed through with its id."""

    name = "examples"
    keeps_ids = True

    def recognises(self, row: Json) -> bool:
        """A target beside messages is ours alone."""
        return "target" in row and "messages" in row

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """The row itself, its fields checked; raise `DataError` that names the one at fault."""
        example = Example.from_json(row)
        tools, messages = read_tools(list(example.tools)), read_messages(list(example.messages))
        meta = {**other_fields(row, *FIELDS), **example.meta}
        return [replace(example, tools=tools, messages=messages, meta=meta)]
