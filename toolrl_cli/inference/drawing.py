"""Sampling by one random number a token, where PyTorch's own takes one for each entry of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor

from toolrl_cli.errors import SetupError

if TYPE_CHECKING:
    from torch import Tensor

IDLE: dict[str, tuple[float | None, ...]] = {
    "top_h": (None,),
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "min_p": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "watermarking_config": (None,),
}
"""Settings of generation that change the distribution after temperature, with the values at which they do not."""


class InverseTransform(LogitsProcessor):
    """Leaves one token a row, drawn from the softmax of `scores / temperature`, for greedy decoding to take.

    It is the first one at which the cumulative probability passes a uniform number (inverse transform sampling).

    Args:
        temperature: above 0.
        seeds: one a row, on which alone the row's draws depend; without them PyTorch's own generator draws.
        device: where the scores are.
    """

    def __init__(self, temperature: float, seeds: Sequence[int] | None, device: torch.device) -> None:
        self._temperature = temperature
        self._generators = None if seeds is None else [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._precision = torch.float32 if device.type == "mps" else torch.float64

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary), all but the drawn one of a row -inf; raise `SetupError` when some are NaN."""
        reached = (scores / self._temperature).softmax(-1).cumsum(-1, dtype=self._precision)
        if not reached[:, -1].isfinite().all():
            raise SetupError("no token can be drawn: the model's probability tensor contains NaN")
        point = self._uniform(reached[:, :1]) * reached[:, -1:]
        drawn = torch.searchsorted(reached, point, right=True).clamp_max(scores.size(1) - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def keep(self, rows: Tensor) -> None:
        """Draw for these rows alone from now on."""
        if self._generators is not None:
            self._generators = [self._generators[row] for row in rows.tolist()]

    def _uniform(self, like: Tensor) -> Tensor:
        if self._generators is None:
            return torch.rand_like(like)
        return torch.cat([torch.rand_like(like[:1], generator=generator) for generator in self._generators])


def draw_in_processor(config: GenerationConfig, device: torch.device) -> tuple[GenerationConfig, list[LogitsProcessor]]:
    """Greedy settings and a processor that together sample as `config` does.

    They are `config` and no processor where it does more than sample by temperature, and on accelerators, where
    PyTorch's own draw costs little.
    """
    plain = config.do_sample and all(getattr(config, name, None) in idle for name, idle in IDLE.items())
    if not plain or device.type != "cpu":
        return config, []
    greedy = copy(config)
    greedy.do_sample = False
    temperature = 1.0 if config.temperature is None else config.temperature
    return greedy, [InverseTransform(temperature, None, device)]
