"""What a text format must do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from toolrl_cli.records import Json, PredictedCall, Target


class ChatPrompt(NamedTuple):
    """What a tokenizer's chat template is given: `apply_chat_template(messages, tools=tools)`.

    `tools` is None where the format has put them into the messages itself.
    """

    messages: list[Json]
    tools: list[Json] | None = None


class TextFormat(Protocol):
    """Renders dialogues and targets to text, and parses completions back to calls."""

    name: str
    digest: str
    """Hash of everything that decides the wording; training and evaluation must agree on it."""
    template: str | None
    """The Jinja text that words the prompt in place of our own, if one was given."""

    def render_prompt(self, tools: Sequence[Json], messages: Sequence[Json]) -> ChatPrompt:
        """The dialogue so far, for the tokenizer's chat template; raise `DataError` when the format cannot show it."""
        ...

    def render_target(self, target: Target) -> str:
        """The completion that the model should have written; raise `FormatError` when the format cannot express it."""
        ...

    def parse_target(self, text: str) -> Target:
        """Read a gold completion back; raise `FormatError` when it does not follow the format."""
        ...

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls of a model's completion, [] for none; raise `FormatError` when they cannot be read."""
        ...


def hash_wording(*texts: str) -> str:
    """SHA-256 of texts, first 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
