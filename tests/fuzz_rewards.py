"""A fuzz target for the rewards: run this file, or give `one_input` to a coverage-guided fuzzer.

With atheris: `atheris.Setup(sys.argv, one_input); atheris.Fuzz()`.
"""

from __future__ import annotations

import argparse
import math
import random
import time

from toolrl_cli.formats import FORMATS
from toolrl_cli.records import Rollout, Target, ToolCall
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import PRESETS

REWARDS = [reward for name in PRESETS if isinstance(reward := find_reward(name), SpecReward)]
TARGETS = (
    Target("t", (ToolCall("f", {"a": 1, "b": [1, {"c": None}]}), ToolCall("f", {"a": "x"}))),
    Target("t", (ToolCall("g", {}),), "done"),
    Target("t", (), "Hi"),
    Target("t"),
)
PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>"),
    *("\n", " ", ",", "[", "]", "{", "}"),
    *('{"name": "f", "parameters": {"a": 1}}', '{"name": "g"}', '"name"', '"arguments"', ": ", "null", "NaN", "1e999"),
    *("\ud800", "\0", "\\u0000", '"', "'", "9" * 30, "f", "é", "\u2028", "<|im_end|>"),
]  # fmt: skip


def one_input(data: bytes) -> None:
    """Score the text that these bytes stand for by every preset in every format; raises when a promise is broken."""
    text = "".join(PIECES[byte] if byte < len(PIECES) else chr(byte) for byte in data)
    for target in TARGETS:
        for reward in REWARDS:
            low, high = reward.bounds(len(data))
            for name in FORMATS:
                score = reward.score(Rollout(text, target, step=len(data), text_format=name))
                if not (math.isfinite(score.total) and min(low, 0) - 1e-9 <= score.total <= high + 1e-9):
                    raise AssertionError(f"{reward.name} gives {score.total} for {text!r} in {name}")


def main() -> None:
    """Try random inputs for some seconds; the seed is printed so that a failure can be had again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    generator, end, count = random.Random(options.seed), time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        length = generator.choice((3, 10, 30, 300))
        one_input(bytes(generator.choices(range(128), weights=[9] * len(PIECES) + [1] * (128 - len(PIECES)), k=length)))
        count += 1
    print(f"{count} inputs, seed {options.seed}")


if __name__ == "__main__":
    main()
