"""Chat fine-tuning rows of the OpenAI API: `{messages, tools}`, or the older `functions` and `function_call`."""

from __future__ import annotations

from dataclasses import replace

from toolrl_cli.records import Example, Json, Target, expect, expect_optional_text
from toolrl_cli.sources.base import RowError, Source, other_fields, read_call, read_tools, shorten

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


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
        tools = read_tools(row.get("tools") or row.get("functions") or [])
        meta = other_fields(row, "messages", "tools", "functions")
        return step_examples(Example(row_id, self.name, tools, messages, Target(), meta))


def step_examples(dialogue: Example) -> list[Example]:
    """One example for each assistant step of a dialogue; its own target is not looked at."""
    messages = dialogue.messages
    return [
        replace(dialogue, id=f"{dialogue.id}-{step}", messages=messages[:i], target=read_target(messages[i]))
        for step, i in enumerate(find_steps(messages), start=1)
    ]


def find_steps(messages: tuple[Json, ...]) -> list[int]:
    """Where the assistant messages to be learned stand; raise `RowError` when there are none."""
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise RowError("no user message", "no message is from a user")
    first = roles.index("user")
    steps = [i for i, m in enumerate(messages) if i > first and m["role"] == "assistant" and m.get("weight") != 0]
    if not steps:
        raise RowError("no assistant step", "nothing to learn after the first user message")
    return steps


def read_messages(raw: object) -> tuple[Json, ...]:
    """Messages in the vocabulary of `Example`; raise `DataError` that says which one is malformed."""
    return tuple(read_message(message, f"messages[{i}]") for i, message in enumerate(expect(raw, list, "messages")))


def read_message(raw: object, where: str) -> Json:
    """One message: text content, decoded arguments, no null fields but the content of an assistant."""
    record = {key: value for key, value in expect(raw, dict, where).items() if value is not None}
    role = expect(record.get("role"), str, f"{where}.role")
    if role not in ROLES:
        raise RowError("unknown role", f"{where}: {shorten(role)}")
    message: Json = {"role": ROLES[role], "content": read_content(record.get("content"), f"{where}.content")}
    if message["content"] is None and role != "assistant":
        raise RowError("no content", where)
    calls = expect(record.get("tool_calls", []), list, f"{where}.tool_calls")
    if "function_call" in record:
        calls = [*calls, {"function": record["function_call"]}]
    if calls:
        message["tool_calls"] = [read_message_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return message | other_fields(record, "role", "content", "tool_calls", "function_call")


def read_content(raw: object, where: str) -> str | None:
    """The text of a message, which newer files split into parts."""
    if not isinstance(raw, list):
        return None if raw is None else expect(raw, str, where)
    parts = [expect(part, dict, where) for part in raw]
    for part in parts:
        if part.get("type") != "text":
            raise RowError("content is not text", f"{where}: {shorten(part.get('type'))}")
    return "".join(expect(part.get("text"), str, where) for part in parts)


def read_message_call(raw: object, where: str) -> Json:
    """A call of a message with its arguments as an object; its id stays."""
    record = expect(raw, dict, where)
    call = read_call(record.get("function"))
    return {"type": "function", **other_fields(record, "function"), "function": call.to_json()}


def read_target(message: Json) -> Target:
    """An assistant message as the step to be learned; raise `RowError` when it is empty."""
    calls = tuple(read_call(call["function"]) for call in message.get("tool_calls", []))
    thought, response = expect_optional_text(message, "reasoning_content"), message["content"] or None
    if not calls and thought is None and response is None:
        raise RowError("empty assistant step", "neither content nor calls")
    return Target(thought, calls, response)
