"""Several rewards as one: their weighted sum, in which each part keeps its own curve."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from toolrl_cli.errors import UsageError
from toolrl_cli.records import Rollout, Score, Target
from toolrl_cli.rewards.spec import LARGEST

if TYPE_CHECKING:
    from toolrl_cli.rewards import Reward


@dataclass(frozen=True)
class RewardSum:
    """Rewards with their weights; outcome and reasons are those of the first.

    A part that several rewards have is named after its reward too: `robust-format`.

    Raises:
        UsageError: two rewards have the same name and parts.
    """

    name: str
    terms: tuple[tuple[Reward, float], ...]

    def __post_init__(self) -> None:
        """Refuse parts that cannot be told apart."""
        if len(self._owners) < sum(len(reward.weights) for reward, _ in self.terms):
            raise UsageError(f"--reward {self.name}: two rewards have one name; give each once, with its weight")

    @cached_property
    def _owners(self) -> dict[str, tuple[int, str]]:
        """The place of its reward, and its name there, of each part."""
        shared = Counter(part for reward, _ in self.terms for part in reward.weights)
        return {
            part if shared[part] == 1 else f"{short_name(reward.name)}-{part}": (place, part)
            for place, (reward, _) in enumerate(self.terms)
            for part in reward.weights
        }

    @property
    def digest(self) -> str:
        """Hash of the definitions and the weights; a run records it."""
        definition = "+".join(f"{weight}*{reward.digest}" for reward, weight in self.terms)
        return hashlib.sha256(definition.encode()).hexdigest()[:16]

    @cached_property
    def weights(self) -> dict[str, float]:
        """The parts that sum to the total, in order, with their weights."""
        return {
            name: self.terms[place][1] * self.terms[place][0].weights[part]
            for name, (place, part) in self._owners.items()
        }

    @cached_property
    def reads_tools(self) -> bool:
        """Whether a score depends on the tools of the example."""
        return any(reward.reads_tools for reward, _ in self.terms)

    def full_format(self, step: int) -> tuple[str, float] | None:
        """The part of the first reward that judges the format, and what it gives a completion that keeps it."""
        for name, (place, own) in self._owners.items():
            found = self.terms[place][0].full_format(step)
            if found and found[0] == own:
                return name, found[1]
        return None

    def applies(self, part: str, target: Target) -> bool:
        """Whether a part says something about a completion of this target."""
        place, own = self._owners[part]
        return self.terms[place][0].applies(own, target)

    def score_batch(self, rollouts: Sequence[Rollout], *, explain: bool = True) -> list[Score]:
        """The score of each completion, in order; without `explain` they have no reasons, which is faster."""
        explained = [explain] + [False] * (len(self.terms) - 1)
        columns = [
            reward.score_batch(rollouts, explain=why) for (reward, _), why in zip(self.terms, explained, strict=True)
        ]
        return [self._add(scores) for scores in zip(*columns, strict=True)]

    def score(self, rollout: Rollout, *, explain: bool = True) -> Score:
        """Score one completion."""
        return self.score_batch([rollout], explain=explain)[0]

    def _add(self, scores: Sequence[Score]) -> Score:
        total = sum(weight * score.total for (_, weight), score in zip(self.terms, scores, strict=True))
        parts = {name: scores[place].parts[part] for name, (place, part) in self._owners.items()}
        return Score(total, parts, scores[0].outcome, scores[0].reasons)


def short_name(reward: str) -> str:
    """The name of a preset, or that of the file or module where a reward is defined."""
    place = reward.rpartition(":")[0] or reward
    return Path(place).stem if place.endswith((".py", ".yaml", ".yml")) else place


def read_term(text: str) -> tuple[str, float]:
    """A reward and its weight from `NAME` or `NAME=WEIGHT`.

    Raises:
        UsageError: the weight is 0, or no number up to `LARGEST` in size.
    """
    name, equals, number = text.strip().rpartition("=")
    if not equals:
        return text.strip(), 1.0
    try:
        weight = float(number)
    except ValueError:
        return text.strip(), 1.0  # a path may hold a =
    if not 0 < abs(weight) <= LARGEST:
        raise UsageError(f"--reward {text}: the weight must be a number up to {LARGEST:g} in size, other than 0")
    return name, weight
