"""The layout of Hermes, Qwen 2.5 and Qwen 3.

<think>
...
</think>

response
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from toolrl_cli.errors import FormatError
from toolrl_cli.formats.calls import decode_call, decode_value, gold_call, read_call
from toolrl_cli.formats.native import NativeFormat
from toolrl_cli.records import PredictedCall, Target, ToolCall

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"
OPENING, CLOSING = re.compile(rf"{OPEN_CALL}\s*"), re.compile(rf"\s*(?:{CLOSE_CALL}|\Z)")
THOUGHT_END = re.compile(rf"{CLOSE_THINK}(?=\n|\s*(?:{OPEN_CALL}|\Z))")


class HermesFormat(NativeFormat):
    """One block a call, behind the response if there is one; a thought comes first, as Qwen 3 writes it.

    An empty response is none.
    """

    name = "hermes"

    def write_target(self, target: Target) -> str:
        """The text of a target, whether or not it can be read back."""
        thought = "" if target.thought is None else f"{OPEN_THINK}\n{target.thought}\n{CLOSE_THINK}\n\n"
        response = [] if target.response is None else [target.response]
        return thought + "\n".join([*response, *map(write_call, target.tool_calls)])

    def parse_target(self, text: str) -> Target:
        """Read a gold completion; what stands before the call blocks at its end is the response.

        Raises:
            FormatError: a thought is not closed, or a call is no object with arguments.
        """
        thought, answer = split_thought(text)
        lines = answer.split("\n")
        start = len(lines)
        while start >= 3 and (lines[start - 3], lines[start - 1]) == (OPEN_CALL, CLOSE_CALL):
            start -= 3
        calls = tuple(gold_call(decode_call(line, "arguments"), "arguments") for line in lines[start + 1 :: 3])
        return Target(thought, calls, "\n".join(lines[:start]) or None)

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls in the blocks behind the thought, one a block, the last of them closed or not.

        The prompt may have opened the thought. One that is never closed is all there is.

        Raises:
            FormatError: a block is no JSON object, has no name, or holds something else as well.
        """
        text = text.strip()
        if text.startswith(OPEN_THINK):
            answer = split_thought(text)[1] if CLOSE_THINK in text else ""
        else:
            before, _, behind = text.partition(CLOSE_THINK)
            answer = text if OPEN_CALL in before else behind or before
        return list(read_blocks(answer))


def write_call(call: ToolCall) -> str:
    """The block of a call."""
    line = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return "\n".join([OPEN_CALL, line, CLOSE_CALL])


def read_blocks(text: str) -> Iterator[PredictedCall]:
    """The calls of the blocks in a text; a tag inside of a JSON string is text. Raise `FormatError` as the format."""
    block = OPENING.search(text)
    while block:
        value, end = decode_value(text, block.end())
        yield read_call(value, "arguments", text[block.end() : end])
        closing = CLOSING.match(text, end)
        if not closing:
            raise FormatError(f"call is followed by {text[end : end + 80]!r}")
        block = OPENING.search(text, closing.end())


def split_thought(text: str) -> tuple[str | None, str]:
    """The thought that a text opens with, None without one, and the text behind it.

    The thought ends at the first `</think>` that a line break, a call or the end follows, else at the first one.

    Raises:
        FormatError: it is not closed.
    """
    if not text.startswith(OPEN_THINK):
        return None, text
    match = THOUGHT_END.search(text)
    end = match.start() if match else text.find(CLOSE_THINK)
    if end < 0:
        raise FormatError(f"{OPEN_THINK} is not closed")
    thought = text[len(OPEN_THINK) : end].removeprefix("\n").removesuffix("\n")
    return thought, text[end + len(CLOSE_THINK) :].removeprefix("\n").removeprefix("\n")
