"""What the formats share whose prompts are the model's own: its chat template writes tools and history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import ChatPrompt, hash_wording
from toolrl_cli.formats.tools import plain_tool
from toolrl_cli.records import Json, PredictedCall, Target, ToolCall, expect_optional_text

ROLES = ("system", "user", "assistant", "tool")
REMEDIES = {
    "thought": "toolrl prepare --thought drop takes it away",
    "tool_calls": "--format toolrl can",
    "response": "--format toolrl can",
}
"""What helps where a format has no words for a part."""
SAMPLE_CALLS = (ToolCall("f", {"a": 1}), ToolCall("g", {}))


class NativeFormat(ABC):
    """Completions in one layout; prompts are what `apply_chat_template(messages, tools=tools)` makes of them."""

    name: str
    template: str | None = None

    def __init__(self) -> None:
        self.digest = hash_wording(self.name, self.render_target(Target(tool_calls=SAMPLE_CALLS)))

    def render_prompt(self, tools: Sequence[Json], messages: Sequence[Json]) -> ChatPrompt:
        """The dialogue and its tools as they are, but for what templates stumble over: null and absent fields."""
        return ChatPrompt([self.read_message(message) for message in messages], [*map(plain_tool, tools)] or None)

    def read_message(self, message: Json) -> Json:
        """A message whose content is text and whose other fields are there only when they hold something.

        Raises:
            DataError: the role is unknown or the content is no text.
        """
        if message["role"] not in ROLES:
            raise DataError(f"unknown role {message['role']!r}; choose from {', '.join(ROLES)}")
        said = {key: value for key, value in message.items() if value is not None and value != []}
        return {**said, "content": expect_optional_text(message, "content") or ""}

    def render_target(self, target: Target) -> str:
        """The gold completion; `parse_target` always reads the same target back.

        Raises:
            FormatError: the format has no words for a part of it, or they would mean something else.
        """
        text = self.write_target(target)
        try:
            found = self.parse_target(text)
        except FormatError as error:
            raise FormatError(f"the {self.name} format cannot express this target ({error})") from error
        for part, remedy in REMEDIES.items():
            if getattr(found, part) != getattr(target, part):
                what = f"its {part.replace('_', ' ')}; {remedy}"
                raise FormatError(f"the {self.name} format cannot express this target ({what})")
        return text

    @abstractmethod
    def write_target(self, target: Target) -> str:
        """The text of a target, whether or not it can be read back."""

    @abstractmethod
    def parse_target(self, text: str) -> Target:
        """Read a gold completion back; raise `FormatError` when it does not follow the format."""

    @abstractmethod
    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls of a model's completion, [] for none; raise `FormatError` when they cannot be read."""

    @abstractmethod
    def parse_leniently(self, text: str) -> list[PredictedCall]:
        """As `parse_tool_calls`, but for calls in other spellings too, see `calls.lenient_call`."""

    @abstractmethod
    def split_completion(self, text: str) -> tuple[str | None, str]:
        """The thought of a model's completion, None without a closed one, and the text behind it."""

    @abstractmethod
    def explain_form(self, text: str, target: Target) -> list[str]:
        """In what a completion differs from the form of `render_target` for a target with these parts, [] in nothing.

        A thought may be there or not. How calls are spelled as JSON does not matter.
        """
