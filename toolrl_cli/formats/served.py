"""A format whose prompts are written by a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toolrl_cli.errors import UsageError
from toolrl_cli.formats.base import ChatPrompt, TextFormat, hash_wording
from toolrl_cli.formats.hermes import HermesFormat
from toolrl_cli.formats.llama3 import Llama3Format
from toolrl_cli.formats.toolrl import CALL_THOUGHT, REPLY_THOUGHT
from toolrl_cli.records import Json, PredictedCall, Target

MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id")
FUNCTION_FIELDS = ("name", "description", "parameters")
EMPTY = {"type": "object", "properties": {}}


class ServedFormat:
    """Leaves tools and history to a server's chat template; completions are those of another format.

    Raises:
        ConfigError: the other format cannot say a response beside calls.
    """

    def __init__(self, completions: TextFormat) -> None:
        if completions.name == Llama3Format.name:
            raise UsageError("--tools native: llama3 cannot write a text beside calls; use --format toolrl or hermes")
        self._completions = completions
        self.name = completions.name
        self.template = completions.template
        self.digest = hash_wording("served", completions.digest)

    def render_prompt(self, tools: Sequence[Json], messages: Sequence[Json]) -> ChatPrompt:
        """Messages and tools with the fields that OpenAI's API has, and no others."""
        chat = HermesFormat().render_prompt(tools, messages)
        return ChatPrompt([*map(to_message, chat.messages)], chat.tools and [*map(to_function, chat.tools)])

    def render_target(self, target: Target) -> str:
        """As the other format."""
        return self._completions.render_target(target)

    def parse_target(self, text: str) -> Target:
        """As the other format, without the stock thought that it gives a step that has none."""
        target = self._completions.parse_target(text)
        return replace(target, thought=None) if target.thought in (CALL_THOUGHT, REPLY_THOUGHT) else target

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls that the server said are calls; what its text says besides is text, whatever tags stand in it."""
        return [PredictedCall(call.name, call.arguments) for call in self.parse_target(text).tool_calls]


def to_message(message: Json) -> Json:
    """A message of OpenAI's API, where one that calls has no content unless it says something."""
    sent = {name: message[name] for name in MESSAGE_FIELDS if name in message}
    return {**sent, "content": message["content"] or None} if message.get("tool_calls") else sent


def to_function(tool: Json) -> Json:
    """A tool of OpenAI's API."""
    function = {name: tool["function"][name] for name in FUNCTION_FIELDS if name in tool["function"]}
    return {"type": "function", "function": {**function, "parameters": add_items(function.get("parameters") or EMPTY)}}


def add_items(schema: Any) -> Any:
    """A JSON Schema whose arrays all say what their items are, as OpenAI demands; `{}` is anything."""
    if isinstance(schema, list):
        return [add_items(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    filled = {key: add_items(value) for key, value in schema.items()}
    kinds = schema.get("type")
    lacking = "items" not in schema and "array" in (kinds if isinstance(kinds, list) else [kinds])
    return {**filled, "items": {}} if lacking else filled
