"""What an engine must do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolrl_cli.records import Completion, Json


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to an engine: the id of its entry, and what the tokenizer's chat template is given.

    `tools` is None where the messages hold them already. Where an entry is asked for several completions,
    `sample` counts them from 0.
    """

    id: str
    messages: tuple[Json, ...]
    tools: tuple[Json, ...] | None = None
    sample: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other prompts of a call of `generate`."""
        return self.id, self.sample or 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn: greedily at temperature 0, else from the softmax of the logits over it.

    `max_new_tokens` is the longest completion, in tokens.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0

    def seed_of(self, prompt: Prompt) -> int:
        """The seed of a prompt's completion, 31 bits: the same whatever else is generated beside it."""
        digest = hashlib.sha256(
            f"{self.seed} {prompt.sample or 0} {prompt.id}".encode(errors="backslashreplace")
        ).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a prompt got no completion; `refused` when the engine will not take it however often it is asked."""

    reason: str
    refused: bool = False


class Engine(Protocol):
    """A source of completions: a local model, a server, or recorded predictions."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion | Failure]]:
        """Yield each prompt with its completion as soon as it is known, in any order, each once at most."""
        ...
