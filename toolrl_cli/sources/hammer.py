"""Hammer's masked fine-tuning rows: an alpaca triple whose instruction holds tools and query in marked sections."""

from __future__ import annotations

from toolrl_cli.records import Example, Json, Target, expect
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, read_tools
from toolrl_cli.sources.xlam import read_answer

TOOLS = "AVAILABLE TOOLS"
QUERY = "QUERY"
FENCE = "```"


class HammerSource(Source):
    """One query, one step; the other sections of the instruction are the wording of a prompt and are not kept."""

    name = "hammer"

    def recognises(self, row: Json) -> bool:
        """The sections give it away: an alpaca triple alone would not."""
        instruction = row.get("instruction")
        sections = isinstance(instruction, str) and all(f"[BEGIN OF {name}]" in instruction for name in (TOOLS, QUERY))
        return sections and "output" in row

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example; `[]` makes a step without calls. Raise `DataError` for a malformed row."""
        instruction = expect(row.get("instruction"), str, "instruction")
        if row.get("input"):
            raise RowError("wrong shape", "input must be empty; the query stands in the instruction")
        query = read_section(instruction, QUERY)
        if not query:
            raise RowError("no user message", "the query is empty")
        answers = decode_text(strip_fence(expect(row.get("output"), str, "output")), "answers not JSON")
        return [
            Example(
                id=row_id,
                source=self.name,
                tools=read_tools(read_section(instruction, TOOLS)),
                messages=({"role": "user", "content": query},),
                target=Target(tool_calls=tuple(map(read_answer, expect(answers, list, "answers")))),
                meta=other_fields(row, "instruction", "input", "output"),
            )
        ]


def read_section(instruction: str, name: str) -> str:
    """The text of a section; raise `RowError` when it is not there or not closed."""
    rest = instruction.partition(f"[BEGIN OF {name}]")[2]
    section, end, _ = rest.rpartition(f"[END OF {name}]")
    if not end:
        raise RowError("format", f"no section [BEGIN OF {name}] ... [END OF {name}]")
    return section.strip()


def strip_fence(output: str) -> str:
    """An output without the code fence around it, where it has one."""
    return output.strip().removeprefix(FENCE).removeprefix("json").removesuffix(FENCE).strip()
