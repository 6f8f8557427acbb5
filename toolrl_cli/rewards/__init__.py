"""Rewards for tool calls: one engine for training and for `toolrl score`, so the two cannot drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from toolrl_cli.errors import ConfigError, UsageError
from toolrl_cli.records import Json, Rollout, Score, Target
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import build_spec, load_spec, set_value
from toolrl_cli.rewards.weighted import RewardSum, read_term

__all__ = ["Reward", "find_reward"]
MATCHING = "correctness.matching"


class Reward(Protocol):
    """What training and scoring need of a reward."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def digest(self) -> str:
        """Hash of the definition; a run records it."""
        ...

    @property
    def weights(self) -> dict[str, float]:
        """The parts that sum to the total, in order, with their weights."""
        ...

    @property
    def reads_tools(self) -> bool:
        """Whether a score depends on the tools of the example."""
        ...

    def applies(self, part: str, target: Target) -> bool:
        """Whether a part says something about a completion of this target."""
        ...

    def full_format(self, step: int) -> tuple[str, float] | None:
        """The part that judges the format, and what it gives at a step to a completion that keeps it; None without."""
        ...

    def score(self, rollout: Rollout, *, explain: bool = True) -> Score:
        """Score one completion."""
        ...

    def score_batch(self, rollouts: Sequence[Rollout], *, explain: bool = True) -> list[Score]:
        """The score of each completion, in order; without `explain` they have no reasons, which is faster."""
        ...


def find_reward(
    name: str = "fine-grained", *, matching: str | None = None, settings: Mapping[str, Any] | None = None
) -> Reward:
    """The reward that a preset's name, a `.yaml` file or `module:function` stands for, or a weighted sum of several.

    Args:
        name: one of `spec.PRESETS`, a YAML file of a reward spec, or a function of TRL's reward signature; several
            are parted by commas, each with its weight: `fine-grained,polite.py:polite=0.2`.
        matching: `optimal` or `greedy`, in place of what the specs say.
        settings: other values of the specs by dotted path, such as `{"correctness.low": -1}`.

    Raises:
        ConfigError: there is no such reward, or a value is refused.
        DataError: the file is missing or unreadable.
    """
    changes = dict(settings or {}) | ({MATCHING: matching} if matching else {})
    terms = [read_term(text) for text in name.split(",")]
    if changes and all(":" in term for term, _ in terms):
        raise UsageError(
            f"{name}: is a function; matching, horizon and other values are set for presets and YAML files only"
        )
    specs = {term: load_spec(term) for term, _ in terms if ":" not in term}
    rewards = tuple((find_term(term, changes_of(term, specs, changes)), weight) for term, weight in terms)
    return rewards[0][0] if len(rewards) == 1 and rewards[0][1] == 1 else RewardSum(name, rewards)


def changes_of(term: str, specs: Mapping[str, Json], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the changes that concern a term: of several specs those change that have the part.

    Raises:
        UsageError: none has it.
    """
    found = {}
    for path, value in changes.items():
        part, dot, _ = path.partition(".")
        adds = not dot or (len(specs) == 1 and path != MATCHING)
        if not adds and not any(part in raw for raw in specs.values()):
            option = "--matching" if path == MATCHING else f"--set-reward {path}"
            raise UsageError(f"{option}: {', '.join(specs)} has no part {part!r}")
        if adds or part in specs.get(term, {}):
            found[path] = value
    return found


def find_term(name: str, changes: Mapping[str, Any]) -> Reward:
    """One reward of a sum; the changes are for a spec, and leave a function as it is."""
    if ":" in name:
        from toolrl_cli.rewards.custom import FunctionReward, load_function

        return FunctionReward(
            name, load_function(name), SpecReward(build_spec("fine-grained", load_spec("fine-grained")))
        )
    raw = load_spec(name)
    for path, value in changes.items():
        raw = set_value(raw, path, value)
    try:
        return SpecReward(build_spec(name, raw))
    except ConfigError as error:
        build_spec(name, load_spec(name))  # a fault of the file itself is none of the options
        raise UsageError(str(error)) from error
