"""What a training is given, looked at before the libraries that train are loaded, which takes seconds."""

from __future__ import annotations

from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Example
from toolrl_cli.rewards import find_reward
from toolrl_cli.training.config import GrpoConfig, TrainingConfig


def check_inputs(config: TrainingConfig) -> None:
    """Find what is missing or misspelled at once; the training itself looks at everything and more closely.

    A reward function is left to the training: its file should be run only once.

    Raises:
        ConfigError: the template or the reward is refused.
        DataError: the data is missing, or its first line is no example.
    """
    next(read_records(config.data, Example.from_json), None)
    if config.template:
        find_format(config.format or "toolrl", config.template)
    if isinstance(config, GrpoConfig) and ":" not in config.reward:
        find_reward(config.reward, matching=config.matching, settings=config.reward_settings)
