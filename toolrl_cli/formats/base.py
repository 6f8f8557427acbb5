"""What a text format must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toolrl_cli.records import Json, PredictedCall, Target


class TextFormat(Protocol):
    """Renders dialogues and targets to text, and parses completions back to calls."""

    name: str
    digest: str
    """Hash of everything that decides the wording; training and evaluation must agree on it."""

    def render_prompt(self, tools: Sequence[Json], messages: Sequence[Json]) -> list[Json]:
        """Chat messages (`role`, `content`) for the tokenizer's chat template."""
        ...

    def render_target(self, target: Target) -> str:
        """The completion that the model should have written."""
        ...

    def parse_target(self, text: str) -> Target:
        """Read a gold completion back; raise `FormatError` when it does not follow the format."""
        ...

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls of a model's completion, [] for none; raise `FormatError` when they cannot be read."""
        ...
