"""Chat fine-tuning rows of the OpenAI API: `{messages, tools}`, or the older `functions` and `function_call`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from toolrl_cli.records import Example, Json, Target, expect, expect_optional_text
from toolrl_cli.sources.base import RowError, Source, decode_text, other_fields, read_call, read_tools, shorten

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXT_PARTS = ("text", "input_text", "output_text")


class OpenaiSource(Source):
    """A dialogue; each assistant step after the first user message becomes an example."""

    name = "openai"

    def recognises(self, row: Json) -> bool:
        """A list of messages with roles, and no target of ours."""
        messages = row.get("messages")
        shaped = isinstance(messages, list) and all(isinstance(m, dict) and "role" in m for m in messages[:1])
        return shaped and "target" not in row

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example a step; a message with `"weight": 0` is history only. Raise `DataError` for a malformed row."""
        messages = read_messages(row.get("messages"))
        tools, warnings = read_functions(row.get("tools") or row.get("functions") or [])
        meta = with_warnings(other_fields(row, "messages", "tools", "functions"), warnings)
        return step_examples(Example(row_id, self.name, tools, messages, Target(), meta))


def step_examples(dialogue: Example, start: int = 0) -> list[Example]:
    """One example for each assistant step of a dialogue from message `start` on; its own target is not looked at."""
    messages = dialogue.messages
    return [
        replace(dialogue, id=f"{dialogue.id}-{step}", messages=messages[:i], target=read_target(messages[i]))
        for step, i in enumerate(find_steps(messages, start), start=1)
    ]


def find_steps(messages: tuple[Json, ...], start: int = 0) -> list[int]:
    """Where, from `start` on, the assistant messages to be learned stand; raise `RowError` when there are none."""
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise RowError("no user message", "no message is from a user")
    first = max(start, roles.index("user") + 1)
    steps = [i for i, m in enumerate(messages) if i >= first and m["role"] == "assistant" and m.get("weight") != 0]
    if not steps:
        raise RowError("no assistant step", "nothing to learn after the first user message")
    return steps


def read_functions(raw: object) -> tuple[tuple[Json, ...], list[str]]:
    """The tools that are functions, and a warning for each that a provider runs itself (`code_interpreter`)."""
    tools = expect(decode_text(raw, "tools not JSON"), list, "tools")
    hosted = [tool["type"] for tool in tools if is_hosted(tool)]
    functions = read_tools([tool for tool in tools if not is_hosted(tool)])
    return functions, [f"tool dropped: {shorten(kind)} is no function" for kind in hosted]


def is_hosted(tool: object) -> bool:
    """Whether a tool has a type of its own in place of a function."""
    if not isinstance(tool, dict) or tool.keys() & {"function", "name"}:
        return False
    return isinstance(tool.get("type"), str) and tool["type"] != "function"


def with_warnings(meta: Json, warnings: Sequence[str]) -> Json:
    """`meta` with more warnings."""
    known = meta.get("warnings", [])
    return {**meta, "warnings": [*(known if isinstance(known, list) else [known]), *warnings]} if warnings else meta


def join_steps(pieces: Iterable[Json]) -> list[Json]:
    """Messages from pieces: what an assistant thinks, says and calls in a row, in this order, is one message."""
    messages: list[Json] = []
    for i, piece in enumerate(pieces):
        calls = expect(piece.get("tool_calls", []), list, f"messages[{i}].tool_calls")
        if messages and continues(messages[-1], piece):
            messages[-1] |= {**piece, "tool_calls": messages[-1]["tool_calls"]}
            messages[-1]["tool_calls"].extend(calls)
        else:
            messages.append({**piece, "tool_calls": list(calls)})
    return messages


def continues(step: Json, piece: Json) -> bool:
    """Whether a piece belongs to the assistant step before it."""
    if not step.get("role") == piece.get("role") == "assistant" or "reasoning_content" in piece:
        return False
    return "content" not in piece or not ("content" in step or step["tool_calls"])


def read_messages(raw: object) -> tuple[Json, ...]:
    """Messages in the vocabulary of `Example`; raise `DataError` that says which one is malformed."""
    return tuple(read_message(message, f"messages[{i}]") for i, message in enumerate(expect(raw, list, "messages")))


def read_message(raw: object, where: str) -> Json:
    """One message: text content, decoded arguments, no null fields but the content of an assistant."""
    record = join_parts({key: value for key, value in expect(raw, dict, where).items() if value is not None}, where)
    role = expect(record.get("role"), str, f"{where}.role")
    if role not in ROLES:
        raise RowError("unknown role", f"{where}: {shorten(role)}")
    if "content" not in record and role != "assistant":
        raise RowError("no content", where)
    content = expect(record["content"], str, f"{where}.content") if "content" in record else None
    message: Json = {"role": ROLES[role], "content": content}
    calls = expect(record.get("tool_calls", []), list, f"{where}.tool_calls")
    if "function_call" in record:
        calls = [*calls, {"function": record["function_call"]}]
    if calls:
        message["tool_calls"] = [read_message_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return message | other_fields(record, "role", "content", "tool_calls", "function_call")


def join_parts(record: Json, where: str) -> Json:
    """A message whose content comes in typed parts, as one with text, a thought and calls."""
    if not isinstance(record.get("content"), list):
        return record
    parts = [read_part(part, f"{where}.content[{i}]") for i, part in enumerate(record["content"])]
    texts = [value for kind, value in parts if kind in TEXT_PARTS]
    thoughts = [value for kind, value in parts if kind == "reasoning"]
    calls = [{"function": value} for kind, value in parts if kind == "tool_call"]
    joined = other_fields(record, "content")
    if texts:
        joined["content"] = "".join(texts)
    if thoughts:
        joined["reasoning_content"] = "".join([expect_optional_text(record, "reasoning_content") or "", *thoughts])
    if calls:
        joined["tool_calls"] = [*expect(record.get("tool_calls", []), list, f"{where}.tool_calls"), *calls]
    return joined


def read_part(raw: object, where: str) -> tuple[str, Any]:
    """The type of a content part and its text, or the call it holds as JSON text."""
    part = expect(raw, dict, where)
    kind, value = part.get("type"), part.get("text", part.get("value"))
    if kind == "tool_call":
        return kind, decode_text(value, "call not JSON")
    if kind not in (*TEXT_PARTS, "reasoning"):
        raise RowError("content is not text", f"{where}: {shorten(kind)}")
    return kind, expect(value, str, where)


def read_message_call(raw: object, where: str) -> Json:
    """A call of a message with its arguments as an object; its id stays."""
    record = expect(raw, dict, where)
    call = read_call(record.get("function"))
    return {"type": "function", **other_fields(record, "function"), "function": call.to_json()}


def read_target(message: Json) -> Target:
    """An assistant message as the step to be learned; raise `RowError` when it is empty."""
    target = message_target(message)
    if target == Target():
        raise RowError("empty assistant step", "neither content nor calls")
    return target


def message_target(message: Json) -> Target:
    """An assistant message as a target, which may be empty."""
    calls = tuple(read_call(call["function"]) for call in message.get("tool_calls", []))
    return Target(expect_optional_text(message, "reasoning_content"), calls, message["content"] or None)
