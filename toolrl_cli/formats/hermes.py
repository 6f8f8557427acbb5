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
from toolrl_cli.formats.calls import decode_call, decode_leniently, decode_value, gold_call, read_call
from toolrl_cli.formats.native import NativeFormat
from toolrl_cli.jsonl import load_json
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

        Raises:
            FormatError: a block is no JSON object, has no name, or holds something else as well.
        """
        return list(read_blocks(self.split_completion(text)[1]))

    def parse_leniently(self, text: str) -> list[PredictedCall]:
        """As `parse_tool_calls`, but a block may hold several calls, or lists of them.

        Raises:
            FormatError: as `decode_leniently`.
        """
        answer = self.split_completion(text)[1]
        calls: list[PredictedCall] = []
        opened = answer.find(OPEN_CALL)
        while opened >= 0:
            found, end = decode_leniently(answer, opened + len(OPEN_CALL), CLOSE_CALL)
            calls += found
            opened = answer.find(OPEN_CALL, end)
        return calls

    def split_completion(self, text: str) -> tuple[str | None, str]:
        """The thought, which the prompt may have opened, and what follows; one that is never closed is all there is."""
        text = text.strip()
        if text.startswith(OPEN_THINK) and CLOSE_THINK not in text:
            return None, ""
        return split_thought(text)

    def explain_form(self, text: str, target: Target) -> list[str]:
        """What is not a closed thought, if any, then the response and the blocks that the target asks for.

        The opening tag of the thought may be missing, since the prompts of some models end in it. Tags in the
        arguments of a call are text.
        """
        text = text.strip()
        thought, answer = self.split_completion(text)
        return [*explain_thought(text, thought, answer, target), *explain_answer(answer, target)]


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
    Where the prompt has opened it, it holds no tag before such a `</think>`.

    Raises:
        FormatError: it is not closed.
    """
    match = THOUGHT_END.search(text)
    end = match.start() if match else text.find(CLOSE_THINK)
    if not text.startswith(OPEN_THINK):
        if match is None or OPEN_CALL in text[:end] or OPEN_THINK in text[:end]:
            return None, text
    elif end < 0:
        raise FormatError(f"{OPEN_THINK} is not closed")
    thought = text[:end].removeprefix(OPEN_THINK).removeprefix("\n").removesuffix("\n")
    return thought, text[end + len(CLOSE_THINK) :].removeprefix("\n").removeprefix("\n")


def explain_thought(text: str, thought: str | None, answer: str, target: Target) -> Iterator[str]:
    """What is wrong with a thought and the lines around it; one must be there when the target has nothing else."""
    if thought is None:
        if text.startswith(OPEN_THINK):
            yield "<think> is not closed"
        elif not target.tool_calls and not target.response:
            yield "no <think> block"
        return
    written = f"{thought}\n{CLOSE_THINK}\n\n{answer}".removesuffix("" if answer else "\n\n")
    if text not in (written.lstrip(), f"{OPEN_THINK}\n{written}"):
        yield "<think> and </think> need lines of their own, and an empty line after them"


def explain_answer(answer: str, target: Target) -> Iterator[str]:
    """What is wrong with the text behind the thought, where it should hold a response, calls, or both."""
    before, tag, _ = answer.partition(OPEN_CALL)
    if target.response and not before.strip():
        yield "no response"
    elif tag and target.response and not before.endswith("\n"):
        yield "<tool_call> must stand on a line of its own"
    elif tag and before and not target.response:
        yield f"{'text' if before.strip() else 'an empty line'} before <tool_call>"
    elif before and not target.response and not target.tool_calls:
        yield "text where none belongs"
    if tag and not target.tool_calls:
        yield "a <tool_call> block where no call belongs"
    elif target.tool_calls and not tag:
        yield "no <tool_call> block"
    if tag:
        yield from explain_blocks(answer[len(before) :])


def explain_blocks(text: str) -> Iterator[str]:
    """What is wrong with the lines of text that should be call blocks and nothing else."""
    *blocks, behind = f"\n{text}".split(f"\n{CLOSE_CALL}")
    if not blocks or OPEN_CALL in behind:
        yield (
            "<tool_call> is not closed" if CLOSE_CALL not in behind else "</tool_call> must stand on a line of its own"
        )
    elif behind.strip():
        yield "text after </tool_call>"
    elif not all(map(is_block, blocks)):
        yield "each <tool_call> and </tool_call> must stand on a line of its own, without empty lines between blocks"


def is_block(text: str) -> bool:
    """Whether text up to a closing line, which no JSON holds, is an opening line and content with tags in JSON only."""
    start = f"\n{OPEN_CALL}\n"
    content = text.removeprefix(start)
    return content != text and (not (OPEN_CALL in content or CLOSE_CALL in content) or is_json(content))


def is_json(text: str) -> bool:
    """Whether text is one JSON value."""
    try:
        load_json(text)
    except ValueError:
        return False
    return True
