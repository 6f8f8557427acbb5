"""A reward that a random model can earn, and one that fails in the second process."""

from __future__ import annotations

import os
from typing import Any


def mostly(completions: list[Any], **columns: Any) -> list[float]:
    """1 where more than two thirds are letters, so that some groups earn the same throughout."""
    return [float(value > 2 / 3) for value in share(completions)]


def share(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """The share of letters in each completion."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]


def fail_in_second(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """0 for each completion, in the first process."""
    if os.environ.get("RANK") == "1":
        raise RuntimeError("no judge today")
    return [0.0 for _ in completions]
