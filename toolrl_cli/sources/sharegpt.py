"""LLaMA-Factory's ShareGPT rows: `{conversations, tools}` with turns `function_call` and `observation`."""

from __future__ import annotations

from itertools import pairwise

from toolrl_cli.records import Example, Json, Target, expect, expect_each, expect_optional_text
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, refuse_pair, shorten
from toolrl_cli.sources.openai import join_steps, read_functions, read_messages, step_examples, with_warnings

ROLES = {"system": "system", "human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
TAGS = ("<tools>", "<tool_call>")


class SharegptSource(Source):
    """A dialogue; each assistant step after the first human turn becomes an example."""

    name = "sharegpt"

    def recognises(self, row: Json) -> bool:
        """Turns of from/value with tools or calls beside the text, not in tags inside it."""
        turns = row.get("conversations")
        if not isinstance(turns, list) or not turns or not all(is_turn(turn) for turn in turns):
            return False
        apart = "tools" in row or any(turn["from"] in ("function_call", "observation") for turn in turns)
        return apart and not any(tag in turn["value"] for turn in turns for tag in TAGS)

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step; raise `DataError` for a malformed row, a pair, or a result that no call asked for."""
        refuse_pair(row)
        turns = expect_each(row.get("conversations"), dict, "conversations")
        require_calls(turns)
        system = expect_optional_text(row, "system")
        pieces = [{"role": "system", "content": system}] if system else []
        pieces += [read_turn(turn, f"conversations[{i}]") for i, turn in enumerate(turns)]
        tools, warnings = read_functions(row.get("tools") or [])
        meta = with_warnings(other_fields(row, "conversations", "tools", "system"), warnings)
        messages = read_messages(join_steps(pieces))
        return step_examples(Example(row_id, self.name, tools, messages, Target(), meta))


def is_turn(turn: object) -> bool:
    """Whether a value is a turn of text."""
    return isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)


def require_calls(turns: list[Json]) -> None:
    """Raise `RowError` for an observation that follows no call: the call that the model should learn is lost."""
    for i, (before, turn) in enumerate(pairwise([{}, *turns])):
        if turn.get("from") == "observation" and before.get("from") not in ("function_call", "observation"):
            raise RowError("observation without a call", f"conversations[{i}]")


def read_turn(turn: Json, where: str) -> Json:
    """A turn as a message, or as the calls of one; a value may hold one call or a list of them."""
    speaker = expect(turn.get("from"), str, f"{where}.from")
    if speaker not in ROLES:
        raise RowError("unknown role", f"{where}: {shorten(speaker)}")
    message = {**other_fields(turn, "from", "value"), "role": ROLES[speaker]}
    if speaker != "function_call":
        return {**message, "content": expect(turn.get("value"), str, f"{where}.value")}
    calls = decode_text(turn.get("value"), "call not JSON")
    return {**message, "tool_calls": [{"function": call} for call in (calls if isinstance(calls, list) else [calls])]}
