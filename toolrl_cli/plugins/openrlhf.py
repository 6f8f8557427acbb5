"""The reward for OpenRLHF: `--reward.remote_url` takes the path of this file and calls its `reward_func`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from toolrl_cli.formats import stock_format
from toolrl_cli.plugins.gold import read_gold
from toolrl_cli.records import Rollout
from toolrl_cli.rewards import find_reward

REWARD = find_reward(os.environ.get("TOOLRL_REWARD", "fine-grained"))
FORMAT = stock_format(os.environ.get("TOOLRL_FORMAT", "toolrl")).name
ANSWER = re.compile(r"<\|im_start\|>assistant\n|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n")
END = re.compile(r"(?:\s*(?:<\|[^|>]*\|>|</s>|<eos>))+\s*\Z")


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Rewards of queries (prompt and response with special tokens) against labels (gold text, record or JSON text).

    The reward is the one that the environment variable TOOLRL_REWARD names, the text format that of TOOLRL_FORMAT.

    Returns: `rewards`, `scores` (the same, for OpenRLHF's dynamic filtering) and `extra_logs` with each part.

    Raises:
        DataError: a label cannot be read.
    """
    scores = [
        REWARD.score(Rollout(response_of(query, prompt), read_gold(label, FORMAT), text_format=FORMAT), explain=False)
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    totals = [score.total for score in scores]
    parts = {name: [score.parts[name] or 0.0 for score in scores] for name in REWARD.weights}
    return {"rewards": totals, "scores": totals, "extra_logs": parts}


def response_of(query: str, prompt: str) -> str:
    """What follows the prompt in a query, or else the last turn of an assistant, without its end tokens."""
    response = query.removeprefix(prompt) if query.startswith(prompt) else ANSWER.split(query)[-1]
    return END.sub("", response)
