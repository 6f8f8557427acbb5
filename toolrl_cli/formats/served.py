"""A format whose prompts are written by a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from toolrl_cli.errors import UsageError
from toolrl_cli.formats.base import ChatPrompt, TextFormat, hash_wording
from toolrl_cli.formats.hermes import HermesFormat
from toolrl_cli.formats.llama3 import Llama3Format
from toolrl_cli.formats.toolrl import CALL_THOUGHT, REPLY_THOUGHT
from toolrl_cli.records import Json, PredictedCall, Target


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
        """Messages and tools as OpenAI's API has them."""
        return HermesFormat().render_prompt(tools, messages)

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
