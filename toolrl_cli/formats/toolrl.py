"""The structure of the ToolRL paper (arXiv 2504.13958): think, tool_call and response blocks.

<think> ... </think>
<tool_call>
{"name": "...", "parameters": {...}}
</tool_call>
<response> ... </response>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

import msgspec

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import ChatPrompt, hash_wording
from toolrl_cli.formats.calls import decode_call, gold_call
from toolrl_cli.formats.wording import Wording
from toolrl_cli.records import Json, PredictedCall, Target, ToolCall, expect_optional_text

OPEN_CALLS, CLOSE_CALLS = "<tool_call>", "</tool_call>"
HISTORY_HEADING = "**History**"
CALL_THOUGHT = "I call the tools that fit."
REPLY_THOUGHT = "I reply without a call."
DECODER = msgspec.json.Decoder(PredictedCall)
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


class ToolrlFormat:
    """The paper's text format, worded by a Jinja template: the text of one, or else `templates/toolrl.jinja`.

    The template writes the system message from `tools` (see `tools.describe_tool`), and may set
    `history_heading`, the line that opens the user message.

    Raises:
        ConfigError: the template cannot be rendered.
    """

    name = "toolrl"

    def __init__(self, template: str | None = None) -> None:
        self.template = template
        if template is None:
            template = files("toolrl_cli.formats").joinpath("templates/toolrl.jinja").read_text("utf-8")
        self._wording = Wording(template)
        self._heading = self._wording.read("history_heading", HISTORY_HEADING)
        self.digest = hash_wording(template, HISTORY_HEADING, CALL_THOUGHT, REPLY_THOUGHT)

    def render_prompt(self, tools: Sequence[Json], messages: Sequence[Json]) -> ChatPrompt:
        """A system message with the tools and the rules, and one user message with the history."""
        system = self._wording.render([tool["function"] for tool in tools])
        own = [message["content"] for message in messages if message["role"] == "system" and message.get("content")]
        return ChatPrompt(
            [
                {"role": "system", "content": "\n\n".join([system, *own])},
                {"role": "user", "content": self.render_history(messages)},
            ]
        )

    def render_history(self, messages: Sequence[Json]) -> str:
        """The dialogue so far under its heading; a tool's result follows its call without a blank line.

        Raises:
            DataError: a role is unknown or a content is no text.
        """
        text = self._heading
        for message in messages:
            role, content = message["role"], expect_optional_text(message, "content") or ""
            if role == "user":
                between = ("\n" if text else "") if text == self._heading else "\n\n"
                text += f"{between}<user> {content} </user>"
            elif role == "tool":
                text += f"\n<obs> {content} </obs>"
            elif role == "assistant":
                text += "\n\n" + self.render_target(target_of(message))
            elif role != "system":
                raise DataError(f"unknown role {role!r}; choose from system, user, assistant and tool")
        return text

    def render_target(self, target: Target) -> str:
        """The gold completion; a missing thought becomes a short stock sentence, since the format wants one.

        `parse_target` reads the same target back, unless the thought holds `</think>` right before a
        line that opens a block: then the format itself cannot say where the thought ends.
        """
        stock = CALL_THOUGHT if target.tool_calls else REPLY_THOUGHT
        parts = [f"<think> {stock if target.thought is None else target.thought} </think>"]
        if target.tool_calls:
            calls = [{"name": call.name, "parameters": call.arguments} for call in target.tool_calls]
            lines = [json.dumps(call, ensure_ascii=False) for call in calls]
            parts.append("\n".join([OPEN_CALLS, *lines, CLOSE_CALLS]))
        if target.response is not None:
            parts.append(f"<response> {target.response} </response>")
        return "\n".join(parts)

    def parse_target(self, text: str) -> Target:
        """Read a gold completion, keeping any tag that stands inside its thought.

        Raises:
            FormatError: the blocks do not follow the format, or a call is no object with parameters.
        """
        thought, calls, response = split_blocks(text.strip())
        return Target(
            thought=unpad(thought),
            tool_calls=tuple(gold_call(call, "parameters") for call in parse_call_lines(calls)),
            response=None if response is None else unpad(response),
        )

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls between the first `<tool_call>` and the next call tag, opening or closing (else the end).

        As in the paper's released reward, a completion holds calls only when both tags occur.

        Raises:
            FormatError: a line is no JSON object or has no name.
        """
        block = find_call_block(text)
        return parse_block(block) if block is not None else []


def find_call_block(text: str) -> str | None:
    """What stands in the first call block; None when one of the tags does not occur."""
    opened = text.find(OPEN_CALLS)
    if opened < 0 or CLOSE_CALLS not in text:
        return None
    start = opened + len(OPEN_CALLS)
    ends = [end for end in (text.find(OPEN_CALLS, start), text.find(CLOSE_CALLS, start)) if end >= 0]
    return text[start : min(ends, default=len(text))]


def parse_block(block: str) -> list[PredictedCall]:
    """The calls of a block, one a line; raise `FormatError` for any other line, a blank one too."""
    lines = block.strip()
    breaks = lines.count("\n")
    if breaks and lines.count("}\n{") == breaks:  # no value spans two lines, for that is nowhere inside of JSON
        try:
            calls = DECODER.decode_lines(lines)
        except UNREADABLE:
            calls = []
        if len(calls) == breaks + 1:
            return calls
    return [parse_call(line) for line in lines.split("\n")]


def split_blocks(text: str) -> tuple[str, str, str | None]:
    """Thought, call lines and response of a whole completion; the thought ends at the first tag that lets the rest fit.

    Linear in the text, whatever it holds.

    Raises:
        FormatError: there is no such split.
    """
    end = text.find("</think>") if text.startswith("<think>") else -1
    last_close = text.rfind("\n</tool_call>\n<response>") if text.endswith("</response>") else -1
    while end >= 0:
        thought, rest = text[len("<think>") : end], end + len("</think>")
        if rest == len(text):
            return thought, "", None
        if text.startswith("\n<response>", rest) and text.endswith("</response>"):
            return thought, "", response_from(text, rest)
        if text.startswith("\n<tool_call>\n", rest):
            calls = rest + len("\n<tool_call>")
            if last_close >= calls:
                close = text.find("\n</tool_call>\n<response>", calls)
                return thought, text[calls:close], response_from(text, close + len("\n</tool_call>"))
            if text.endswith("\n</tool_call>"):
                return thought, text[calls : -len("\n</tool_call>")], None
        end = text.find("</think>", rest)
    raise FormatError("not <think>, then <tool_call> or <response>, each on lines of their own")


def response_from(text: str, start: int) -> str:
    """What stands in the response block that opens with a newline at `start` and closes the text."""
    return text[start + len("\n<response>") : -len("</response>")]


def parse_call_lines(block: str) -> list[PredictedCall]:
    """One call a line, blank lines left out; raise `FormatError` as `parse_call`."""
    return [parse_call(line) for line in block.split("\n") if line.strip()]


def parse_call(line: str) -> PredictedCall:
    """Decode `{"name": ..., "parameters": ...}`; raise `FormatError` when it is none."""
    try:
        return DECODER.decode(line)
    except UNREADABLE:
        return decode_call(line, "parameters")


def target_of(message: Json) -> Target:
    """An assistant message of the history as the step it was."""
    calls = tuple(ToolCall.from_json(call["function"]) for call in message.get("tool_calls") or [])
    response = message.get("content")
    return Target(message.get("reasoning_content"), calls, response if response or not calls else None)


def unpad(text: str) -> str:
    """The text of a block without the one space that the format puts inside its tags."""
    return text.removeprefix(" ").removesuffix(" ")
