"""Hermes' function-calling rows and their reasoning variants: `conversations` with tools and calls in tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from toolrl_cli.records import Example, Json, expect, expect_optional_text
from toolrl_cli.sources.base import RowError, Source, other_fields, read_tools, refuse_pair, shorten
from toolrl_cli.sources.literals import parse_block, read_block, read_whole
from toolrl_cli.sources.turns import dialogue_examples, find_turns, read_turns, step_message

TOOLS_START = re.compile(r"<tools>\s*+(?=[\[{])")
MAX_STARTS = 10
TAG = re.compile(r"<(think|scratch_pad|scratchpad|tool_call)>")
STRAY_TAG = re.compile(r"</(?:think|scratch_pad|scratchpad|tool_call)>")
RESULT, RESULT_END = "<tool_response>", "</tool_response>"


class HermesSource(Source):
    """A dialogue; each assistant step after the first user turn becomes an example.

    Tools come from the field `tools`, else from the system text. A system text that speaks of `<tools>` is
    the wording of a prompt and is not kept; any other stays. Calls and tools may be Python literals.
    """

    name = "hermes"

    def recognises(self, row: Json) -> bool:
        """Turns of from/value, the first a system text with tools, or an answer with a call in tags."""
        turns = find_turns(row)
        listed = any(role == "system" and "<tools>" in text for role, text in turns[:1])
        return listed or any(role == "assistant" and "<tool_call>" in text for role, text in turns)

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step; raise `DataError` for a malformed row, or a pair of answers to choose from."""
        refuse_pair(row)
        system = expect_optional_text(row, "system")
        turns = [*([{"role": "system", "content": system}] if system else []), *read_turns(row)]
        wording = [turn["content"] for turn in turns if is_wording(turn)]
        messages = [message for turn in turns if not is_wording(turn) for message in read_messages_of(turn)]
        tools = read_tools(read_tool_field(row.get("tools")) or find_tools("\n".join(wording)))
        meta = other_fields(row, "conversations", "tools", "system")
        return dialogue_examples(row_id, self.name, tools, messages, meta)


def is_wording(turn: Json) -> bool:
    """Whether a turn tells the model how to call tools."""
    return turn["role"] == "system" and "<tools>" in turn["content"]


def read_tool_field(raw: object) -> list[Any]:
    """The tools of a row's own field, a list or text of one."""
    if isinstance(raw, str):
        return read_whole(raw, "tools not JSON") if raw.strip() not in ("", "[]") else []
    return [] if raw is None else expect(raw, list, "tools")


def find_tools(text: str) -> list[Any]:
    """The tools of a system text, which may speak of `<tools>` or show a placeholder before it lists them."""
    starts = [match.end() for match in islice(TOOLS_START.finditer(text), MAX_STARTS)]
    blocks = (parse_block(text, start, "</tools>") for start in starts)
    if found := next(filter(None, blocks), None):
        return found[0]
    return read_block(text, starts[-1], "</tools>", "tools not JSON")[0] if starts else []


def read_messages_of(turn: Json) -> Iterator[Json]:
    """The messages that a turn stands for: several where it holds the results of several calls."""
    if turn["role"] == "assistant":
        yield {**turn, **read_step(turn["content"])}
    elif turn["role"] == "tool" or turn["content"].lstrip().startswith(RESULT):
        for result in split_results(turn["content"].strip()):
            yield {**turn, "role": "tool", "content": result}
    else:
        yield turn


def read_step(text: str) -> Json:
    """An assistant turn as a message: what is in no tag is the response."""
    thoughts: list[str] = []
    calls: list[Any] = []
    words: list[str] = []
    position = 0
    while match := TAG.search(text, position):
        words.append(text[position : match.start()].strip())
        closing = f"</{match[1]}>"
        if match[1] == "tool_call":
            found, position = read_block(text, match.end(), closing, "call not JSON")
            calls += found
        else:
            thought, position = read_thought(text, match.end(), closing)
            thoughts.append(thought)
    words.append(require_untagged(text[position:].strip()))
    return step_message(calls, join(words), join(thoughts))


def read_thought(text: str, start: int, closing: str) -> tuple[str, int]:
    """The thought that starts there, and where its closing tag ends; raise `RowError` when it has none."""
    end = text.find(closing, start)
    if end < 0:
        raise RowError("format", f"no {closing}: {shorten(text[start:])}")
    return text[start:end].strip(), end + len(closing)


def require_untagged(text: str) -> str:
    """The text, unless a closing tag in it shows that it began as something else."""
    if stray := STRAY_TAG.search(text):
        raise RowError("format", f"{stray[0]} closes nothing: {shorten(text)}")
    return text


def join(parts: Sequence[str]) -> str:
    """The parts that hold anything, one below the other."""
    return "\n".join(part for part in parts if part)


def split_results(text: str) -> list[str]:
    """The results of a turn that holds nothing but blocks of them; any other turn is one result."""
    before, *pieces = text.split(RESULT)
    results: list[str] = []
    block = ""
    for piece in pieces:
        block += piece if not block else RESULT + piece
        if block.rstrip().endswith(RESULT_END):
            results.append(block.rstrip().removesuffix(RESULT_END).strip())
            block = ""
    return results if results and not before and not block else [text]
