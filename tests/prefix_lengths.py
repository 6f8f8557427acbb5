"""How many tokens of each prompt are computed ahead of decoding."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, takewhile


def own_lengths(prompts: Iterable[list[int]]) -> list[int]:
    """Tokens of sorted prompts, without their last ones, behind what they begin with as the one before."""
    prefixes = sorted(prompt[:-1] for prompt in prompts)
    return [
        len(after) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        for before, after in pairwise([[], *prefixes])
    ]
