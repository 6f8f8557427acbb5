"""Rewards for tool calls: one engine for training and for `toolrl score`, so the two cannot drift."""

from toolrl_cli.errors import ConfigError, nearest
from toolrl_cli.rewards.engine import Reward
from toolrl_cli.rewards.presets import PRESETS

__all__ = ["Reward", "find_reward"]


def find_reward(name: str = "fine-grained") -> Reward:
    """The reward of that name.

    Raises:
        ConfigError: no preset has the name; the message lists them and the nearest.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown reward {name!r}; choose from {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return Reward(PRESETS[name])
