"""Sampling in which each row of a batch has a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_WAIT = 2.0**-25
"""PyTorch draws a float32 0 once in 16 million times, which would be a noise without bound."""


class GumbelNoise(LogitsProcessor):
    """Makes the largest score a draw from the softmax of `scores / temperature` (the Gumbel-max trick).

    A row's draws depend on its seed alone, so it does not matter which rows are beside it.

    Args:
        temperature: above 0.
        seeds: one a row.
        device: where the scores are.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], device: torch.device) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) with noise: a Gumbel variable is minus the logarithm of an exponential one."""
        waits = torch.empty_like(scores)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores / self._temperature - waits.clamp_min(SMALLEST_WAIT).log()
