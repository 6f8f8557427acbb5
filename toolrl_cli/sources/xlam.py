"""xLAM's function-calling rows, and Hammer's evaluation rows: `{query, tools, answers}`."""

from __future__ import annotations

from toolrl_cli.records import Example, Json, Target, ToolCall, expect
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, read_call, read_tools


class XlamSource(Source):
    """One query, one step: `tools` and `answers` are lists, or JSON text of lists."""

    name = "xlam"

    def recognises(self, row: Json) -> bool:
        """The three fields together are enough."""
        return row.keys() >= {"query", "tools", "answers"}

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example; no answers make a step without calls. Raise `DataError` for a malformed row."""
        query = expect(row.get("query"), str, "query")
        if not query.strip():
            raise RowError("no user message", "query is empty")
        answers = expect(decode_text(row.get("answers"), "answers not JSON"), list, "answers")
        return [
            Example(
                id=row_id,
                source=self.name,
                tools=read_tools(row.get("tools")),
                messages=({"role": "user", "content": query},),
                target=Target(tool_calls=tuple(map(read_answer, answers))),
                meta=other_fields(row, "query", "tools", "answers"),
            )
        ]


def read_answer(raw: object) -> ToolCall:
    """An answer as a call; some of Hammer's files say `tool` and `parameters`."""
    answer = expect(raw, dict, "answer")
    return read_call(
        {
            "name": answer.get("name", answer.get("tool")),
            "arguments": answer.get("arguments", answer.get("parameters")),
        }
    )
