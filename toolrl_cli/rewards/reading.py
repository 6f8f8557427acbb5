"""What a completion says: its calls, its response, and whether its blocks are where they belong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from toolrl_cli.errors import FormatError
from toolrl_cli.formats.calls import decode_leniently
from toolrl_cli.formats.toolrl import CLOSE_CALLS, OPEN_CALLS, find_call_block, parse_block
from toolrl_cli.records import PredictedCall, Target
from toolrl_cli.rewards.parts import CLOSE_THINK, OPEN_THINK, follows_layout, layout_of

OPEN_RESPONSE, CLOSE_RESPONSE = "<response>", "</response>"
BEFORE_CALLS, AFTER_CALLS = f"{CLOSE_THINK}\n{OPEN_CALLS}\n", f"\n{CLOSE_CALLS}"
CALL_SHAPE, RESPONSE_SHAPE, UNREADABLE = "\ncalls", "\nresponse", "unreadable"
STARTS_BLOCK = re.compile(rf"\s*(?:{OPEN_CALLS}|{OPEN_RESPONSE}|\Z)")
BLOCK_TAG = re.compile(f"{OPEN_CALLS}|{OPEN_RESPONSE}")

Reading = tuple[bool, Sequence[PredictedCall], str | None, str]
"""Whether the blocks are in their places, the calls, why they cannot be read (else None), and the response."""


def read_as_released(text: str, target: Target) -> Reading:
    """Read stripped text as ToolRL's released code does: tags count wherever they stand, in a thought too."""
    block = find_lone_block(text)
    if block is None:
        block = find_call_block(text)
        well_formed = follows_layout(text, layout_of(target))
    else:
        well_formed = bool(target.tool_calls) and target.response is None
    if block is None:
        return well_formed, (), None, ""
    try:
        return well_formed, parse_block(block), None, ""
    except FormatError as error:
        return well_formed, (), str(error), ""


def find_lone_block(text: str) -> str | None:
    """The calls of a text that is well-formed with calls alone, if it holds no other `<`; else None.

    This is what most completions look like, and it skips the long thought in one search.
    """
    if not text.endswith(AFTER_CALLS) or not text.startswith(OPEN_THINK):
        return None
    opened = text.find("<", len(OPEN_THINK))
    start = opened + len(BEFORE_CALLS)
    end = text.find("<", start)
    if text.startswith(BEFORE_CALLS, opened) and start < end == len(text) - len(CLOSE_CALLS):
        return text[start:end]
    return None


def read_leniently(text: str, target: Target) -> Reading:
    """Read stripped text as a serving stack would.

    Nothing inside the thought counts. Every call block after it does, also one inside the response
    if it can be decoded. A block holds JSON objects or lists of them, laid out in any way, and a tag
    inside a JSON string is text. `arguments` stands for `parameters`, null or nothing for no arguments.
    """
    closed, rest = split_thought(text)
    shape: list[str] = []
    calls: list[PredictedCall] = []
    response, error = "", None
    try:
        for block in read_blocks(rest):
            shape.append(block.shape)
            calls += block.calls
            response = block.response or response
    except FormatError as reason:
        shape.append(UNREADABLE)
        error = str(reason)
    return closed and shape == expected_shape(target), calls, error, response.strip()


def expected_shape(target: Target) -> list[str]:
    """The shapes of the blocks that a target asks for after its thought."""
    calls = [CALL_SHAPE] if target.tool_calls else []
    response = [RESPONSE_SHAPE] if target.response is not None else []
    return calls + response


def split_thought(text: str) -> tuple[bool, str]:
    """Whether the text starts with a closed thought, and what follows it.

    The thought ends at the first `</think>` that a block or the end follows, else at the last one;
    one that is never closed runs to the end.
    """
    if text.startswith((OPEN_CALLS, OPEN_RESPONSE)):
        return False, text
    opened = text.startswith(OPEN_THINK)
    end = last = text.find(CLOSE_THINK)
    while end >= 0:
        last = end
        if STARTS_BLOCK.match(text, end + len(CLOSE_THINK)):
            break
        end = text.find(CLOSE_THINK, end + 1)
    if last >= 0 and (opened or end >= 0):
        return opened, text[last + len(CLOSE_THINK) :]
    return False, text.partition(OPEN_THINK)[0]


class Block(NamedTuple):
    """A piece of text behind the thought: a call block, a response, or text outside both.

    The `shape` tells one in its right place from any other.
    """

    shape: str
    calls: list[PredictedCall] = []
    response: str = ""


def read_blocks(text: str) -> Iterator[Block]:
    """The blocks of the text behind the thought; raise `FormatError` when the calls of one cannot be read."""
    position = 0
    while tag := BLOCK_TAG.search(text, position):
        before, start = text[position : tag.start()], tag.end()
        if tag.group() == OPEN_CALLS:
            calls, position, tidy = decode_block(text, start)
            yield Block(before + (CALL_SHAPE.strip() if tidy else OPEN_CALLS), calls)
            continue
        end = text.rfind(CLOSE_RESPONSE, start)
        response = text[start:end] if end >= 0 else text[start:]
        yield Block(
            before + RESPONSE_SHAPE.strip() if end >= 0 else OPEN_RESPONSE, list(hidden_calls(response)), response
        )
        position = end + len(CLOSE_RESPONSE) if end >= 0 else len(text)
    if position < len(text):
        yield Block("text", response=text[position:])


def hidden_calls(response: str) -> Iterator[PredictedCall]:
    """Calls in blocks inside a response; what cannot be decoded there is text."""
    position = response.find(OPEN_CALLS)
    while position >= 0:
        start = position + len(OPEN_CALLS)
        try:
            calls, start, _ = decode_block(response, start)
            yield from calls
        except FormatError:
            pass
        position = response.find(OPEN_CALLS, start)


def decode_block(text: str, start: int) -> tuple[list[PredictedCall], int, bool]:
    """The calls of the block open at `start`, where the text goes on, and whether its tags have lines of their own.

    Raises:
        FormatError: as `decode_leniently`.
    """
    calls, position = decode_leniently(text, start, CLOSE_CALLS)
    tidy = text.startswith("\n", start) and text[start + 1 : position].endswith("\n") and position < len(text)
    return calls, position + len(CLOSE_CALLS), tidy
