"""The reward for verifiers: `reward` for version 0.4 and later, `rubric_reward` for the Rubric of earlier ones.

The reward is the one that the environment variable TOOLRL_REWARD names.
"""

from __future__ import annotations

import os
from typing import Any

from toolrl_cli.plugins.gold import read_gold
from toolrl_cli.plugins.trl import text_of
from toolrl_cli.records import Rollout
from toolrl_cli.rewards import find_reward

REWARD = find_reward(os.environ.get("TOOLRL_REWARD", "fine-grained"))


async def reward(task: Any, trace: Any) -> dict[str, float]:
    """The parts of the reward for the last reply of a trace, against `task.answer`, the gold."""
    score = REWARD.score(Rollout(trace.last_reply or "", read_gold(task.answer)), explain=False)
    return {name: weight * (score.parts[name] or 0.0) for name, weight in REWARD.weights.items()}


def rubric_reward(completion: Any, answer: Any) -> float:
    """The total for a completion, text or messages, against the gold; for `Rubric(funcs=[rubric_reward])`."""
    return REWARD.score(Rollout(text_of(completion), read_gold(answer)), explain=False).total
