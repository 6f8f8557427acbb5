"""The reward for verl: `reward.custom_reward_function.path=pkg://toolrl_cli.plugins.verl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.plugins.gold import read_gold, read_tools
from toolrl_cli.records import Rollout
from toolrl_cli.rewards import Reward, find_reward


@cache
def find_reward_once(name: str, matching: str | None, settings: str) -> Reward:
    """The reward, made once; its settings are JSON text."""
    return find_reward(name, matching=matching, settings=load_json(settings))


def plain(value: Any) -> Any:
    """A value with the mappings of any library, such as OmegaConf's, as dictionaries, and its lists as lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: str = "fine-grained",
    matching: str | None = None,
    settings: Mapping[str, Any] | None = None,
    text_format: str = "toolrl",
    **unused: Any,
) -> dict[str, float]:
    """The score of one response, with its parts beside it for verl's log.

    Args:
        data_source: not looked at.
        solution_str: the response alone, without special tokens, as verl's reward managers decode it.
        ground_truth: `reward_model.ground_truth` of the row: gold text, a target record or its JSON text.
        extra_info: of the row; `tools` is read where the reward compares by schema, `global_steps` by schedules.
        reward: a preset, a YAML file or module:function, from verl's `reward_kwargs`.
        text_format: what the response, and a gold text, is written in.
        matching: `optimal` or `greedy`, in place of what the reward says.
        settings: other values of the reward by dotted path, such as `{"correctness.low": -1}`.

    Returns: `score`, each part of the reward, and `exact` (1 for a step done right).

    Raises:
        DataError: the ground truth or the tools cannot be read.
    """
    chosen = find_reward_once(reward, matching, dump_json(plain(settings or {})))
    extra = extra_info or {}
    tools = read_tools(extra.get("tools")) if chosen.reads_tools else ()
    target, step = read_gold(ground_truth, text_format), int(extra.get("global_steps") or 0)
    rollout = Rollout(solution_str, target, step=step, tools=tools, text_format=text_format)
    score = chosen.score(rollout, explain=False)
    parts = {name: value or 0.0 for name, value in score.parts.items()}
    return {"score": score.total, **parts, "exact": float(score.succeeds)}
