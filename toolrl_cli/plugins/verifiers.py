"""The reward for verifiers: `reward` for version 0.4 and later, `rubric_reward` for the Rubric of earlier ones.

The reward is the one that the environment variable TOOLRL_REWARD names, the text format that of TOOLRL_FORMAT.
"""

from __future__ import annotations

import os
from typing import Any

from toolrl_cli.formats import stock_format
from toolrl_cli.plugins.gold import read_gold
from toolrl_cli.plugins.trl import text_of
from toolrl_cli.records import Rollout, Score
from toolrl_cli.rewards import find_reward

REWARD = find_reward(os.environ.get("TOOLRL_REWARD", "fine-grained"))
FORMAT = stock_format(os.environ.get("TOOLRL_FORMAT", "toolrl")).name


async def reward(task: Any, trace: Any) -> dict[str, float]:
    """The parts of the reward for the last reply of a trace, against `task.answer`, the gold."""
    score = score_reply(trace.last_reply or "", task.answer)
    return {name: weight * (score.parts[name] or 0.0) for name, weight in REWARD.weights.items()}


def rubric_reward(completion: Any, answer: Any) -> float:
    """The total for a completion, text or messages, against the gold; for `Rubric(funcs=[rubric_reward])`."""
    return score_reply(text_of(completion, FORMAT), answer).total


def score_reply(text: str, answer: Any) -> Score:
    """The score of a text against the gold."""
    return REWARD.score(Rollout(text, read_gold(answer, FORMAT), text_format=FORMAT), explain=False)
