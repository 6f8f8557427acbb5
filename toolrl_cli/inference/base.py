"""What an engine must do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolrl_cli.records import Completion, Json


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to an engine: the id of its entry, and what the tokenizer's chat template is given.

    `tools` is None where the messages hold them already.
    """

    id: str
    messages: tuple[Json, ...]
    tools: tuple[Json, ...] | None = None


class Engine(Protocol):
    """A source of completions: a local model, or recorded predictions."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        """Yield each prompt with its completion as soon as it is known, in any order, each once."""
        ...
