"""What sources share that write a dialogue as turns: `conversations` of from/value, or text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from toolrl_cli.records import Example, Json, Target, expect, expect_each
from toolrl_cli.sources.base import RowError, other_fields, shorten
from toolrl_cli.sources.openai import read_messages, step_examples

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}


def find_turns(row: Json) -> list[tuple[str, str]]:
    """Roles and texts of `conversations`; none when it is no list of turns by speakers known here."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(map(is_turn, turns)):
        return []
    return [(ROLES[turn["from"]], turn["value"]) for turn in turns]


def is_turn(turn: object) -> bool:
    """Whether a value is a turn of text by a speaker known here."""
    if not isinstance(turn, dict):
        return False
    speaker, text = turn.get("from"), turn.get("value")
    return isinstance(speaker, str) and speaker in ROLES and isinstance(text, str)


def read_turns(row: Json) -> list[Json]:
    """`conversations` as messages of plain text; other fields of a turn stay."""
    turns = expect_each(row.get("conversations"), dict, "conversations")
    return [read_turn(turn, f"conversations[{i}]") for i, turn in enumerate(turns)]


def read_turn(turn: Json, where: str) -> Json:
    """A turn as a message; raise `DataError` for a speaker that is not known or a value that is no text."""
    speaker = expect(turn.get("from"), str, f"{where}.from")
    if speaker not in ROLES:
        raise RowError("unknown role", f"{where}: {shorten(speaker)}")
    text = expect(turn.get("value"), str, f"{where}.value")
    return {**other_fields(turn, "from", "value"), "role": ROLES[speaker], "content": text}


def step_message(calls: Sequence[object], response: str, thought: str = "") -> Json:
    """An assistant step as a message for `dialogue_examples`."""
    message: Json = {"role": "assistant", "content": response.strip() or None}
    if calls:
        message["tool_calls"] = [{"function": call} for call in calls]
    return {**message, "reasoning_content": thought} if thought else message


def dialogue_examples(
    row_id: str, source: str, tools: tuple[Json, ...], messages: Sequence[Json], meta: Json
) -> list[Example]:
    """One example for each assistant step; raise `DataError` when a message is malformed."""
    history = read_messages(list(messages))
    require_calls(history)
    return step_examples(Example(row_id, source, tools, history, Target(), meta))


def require_calls(messages: Sequence[Json]) -> None:
    """Raise `RowError` for a result that follows no call: what the model should have called is lost."""
    for i, (before, message) in enumerate(pairwise([{"role": "system"}, *messages])):
        if message["role"] == "tool" and before["role"] != "tool" and "tool_calls" not in before:
            raise RowError("observation without a call", f"messages[{i}]")
