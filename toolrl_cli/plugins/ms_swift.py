"""The reward for ms-swift: `--external_plugins` takes the path of this file, `--reward_funcs` names below.

`toolrl` is the total of `fine-grained`; `toolrl-NAME` that of any preset, `toolrl-NAME-PART` one of its parts.
The text format is the one that the environment variable TOOLRL_FORMAT names.
"""

from __future__ import annotations

import os
from typing import Any

from swift.rewards import ORM, orms

from toolrl_cli.formats import stock_format
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.spec import PRESETS

FORMAT = stock_format(os.environ.get("TOOLRL_FORMAT", "toolrl")).name


class ToolrlReward(ORM):
    """A reward of toolrl, whole or one part; the data set needs a column `ground_truth` with the gold."""

    preset = "fine-grained"
    part: str | None = None

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args=args, **kwargs)
        self._reward = find_reward(self.preset)
        self._functions = {
            function.__name__: function for function in BatchScorer(self._reward, text_format=FORMAT).functions()
        }

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float | None]:
        """The value of each completion, None where a part says nothing about it."""
        parts = {name: function(completions, **kwargs) for name, function in self._functions.items()}
        if self.part:
            return parts[self.part]
        weights = self._reward.weights
        return [
            sum(weights[name] * (value or 0.0) for name, value in zip(parts, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]


def register() -> None:
    """Put the rewards into ms-swift's registry; the class names become the names of its curves."""
    orms["toolrl"] = ToolrlReward
    for preset in PRESETS:
        for part in (None, *find_reward(preset).weights):
            name = f"toolrl-{preset}-{part}" if part else f"toolrl-{preset}"
            orms[name] = type(name, (ToolrlReward,), {"preset": preset, "part": part})


register()
