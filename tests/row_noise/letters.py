"""A reward that a random model can earn."""

from __future__ import annotations

from typing import Any


def share(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """The share of letters in each completion."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts]
