"""Rewards for tool calls: one engine for training and for `toolrl score`, so the two cannot drift."""

from difflib import get_close_matches

from toolrl_cli.errors import ConfigError
from toolrl_cli.rewards.engine import Reward
from toolrl_cli.rewards.presets import PRESETS

__all__ = ["Reward", "find_reward"]


def find_reward(name: str = "fine-grained") -> Reward:
    """The reward of that name.

    Raises:
        ConfigError: no preset has the name; the message lists them and the nearest.
    """
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown reward {name!r}; choose from {', '.join(PRESETS)}{hint}")
    return Reward(PRESETS[name])
