"""Glaive's function-calling rows: `system` lists the tools, `chat` is the dialogue as one text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrl_cli.records import Example, Json, expect
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, read_tools, shorten
from toolrl_cli.sources.literals import read_alone, read_whole
from toolrl_cli.sources.turns import dialogue_examples, step_message

END = "<|endoftext|>"
CALL = "<functioncall>"
ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
FOLLOWERS = {
    "": ("USER", "ASSISTANT"),
    "USER": ("ASSISTANT",),
    "ASSISTANT": ("USER", "ASSISTANT", "FUNCTION RESPONSE"),
    "FUNCTION RESPONSE": ("ASSISTANT", "FUNCTION RESPONSE"),
}
MARK = re.compile(rf"{re.escape(END)}|\b({'|'.join(ROLES)}):")
TOOLS_START = re.compile(r"[{\[]")
QUOTED_ARGUMENTS = re.compile(
    r"""\{\s*+"name"\s*+:\s*+"([^"\\]*+)"\s*+,\s*+"arguments"\s*+:\s*+'(.*)'\s*+\}""", re.DOTALL
)


class GlaiveSource(Source):
    """A dialogue; each assistant step after the first user turn becomes an example.

    A system text that lists tools is the wording of a prompt and is not kept; one that lists none is a message.
    """

    name = "glaive"

    def recognises(self, row: Json) -> bool:
        """Both texts, and no dialogue in another form."""
        return all(isinstance(row.get(name), str) for name in ("system", "chat")) and "conversations" not in row

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step; raise `DataError` for a malformed row."""
        system = expect(row.get("system"), str, "system").strip().removeprefix("SYSTEM:").strip()
        start = TOOLS_START.search(system)
        tools = read_tools(read_whole(system[start.start() :], "tools not JSON") if start else [])
        wording = [{"role": "system", "content": system}] if system and not start else []
        (_, before), *turns = split_chat(expect(row.get("chat"), str, "chat"))
        if before.strip():
            raise RowError("history", f"text before the first speaker: {shorten(before)}")
        messages = [*wording, *(read_turn(speaker, text) for speaker, text in turns)]
        return dialogue_examples(row_id, self.name, tools, messages, other_fields(row, "system", "chat"))


def split_chat(chat: str) -> Iterator[tuple[str, str]]:
    """Who speaks, and the text; before the first marker nobody ("") does.

    A marker counts where its speaker may follow and the row puts its markers: behind three line ends, or
    one, or anywhere in a line; then an answer runs to `<|endoftext|>`. Behind that, a marker always counts.
    """
    lead = next((lead for lead in ("\n\n\n", "\n") if f"{lead}ASSISTANT:" in chat), "")
    must_end = not lead and END in chat
    speaker, start, before = "", 0, 0
    ended = False
    for mark in MARK.finditer(chat):
        closed = (ended or not before) and not chat[before : mark.start()].strip()
        before, ended = mark.end(), mark[1] is None
        if mark[1] not in FOLLOWERS[speaker]:
            continue
        placed = chat.startswith(lead, max(mark.start() - len(lead), 0)) and not (must_end and speaker == "ASSISTANT")
        if closed or placed:
            yield speaker, chat[start : mark.start()]
            speaker, start = mark[1], mark.end()
    yield speaker, chat[start:]


def read_turn(speaker: str, text: str) -> Json:
    """A turn as a message; raise `RowError` when words follow the end of it."""
    content = text.strip().removesuffix(END).strip()
    if END in content:
        raise RowError("history", f"text behind {END}: {shorten(content)}")
    if speaker != "ASSISTANT":
        return {"role": ROLES[speaker], "content": content}
    response, *calls = content.split(CALL)
    return step_message([read_call(call.strip()) for call in calls], response)


def read_call(text: str) -> Any:
    """A call; its arguments stand in single quotes, which may also stand inside them."""
    if quoted := QUOTED_ARGUMENTS.fullmatch(text):
        return {"name": quoted[1], "arguments": read_or_decode(quoted[2], "arguments not JSON")}
    return read_or_decode(text, "call not JSON")


def read_or_decode(text: str, kind: str) -> Any:
    """The value that a text is, in JSON or Python; raise `RowError` of that kind when it may not be mended."""
    try:
        return read_alone(text) if text.strip() else {}
    except ValueError:
        return decode_text(text, kind)
