"""Sampling in which each completion draws from noise of its own: that of its place in the generated batch.

It then does not depend on how many processes share the batch, nor on which rows are decoded beside it, and what they
compute can be compared. A token is drawn by the Gumbel-max trick: the largest of logit plus noise is a sample of the
softmax.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def draw_by_row(mixin: Any) -> None:
    """Give each row of a batch a random generator of its own, seeded by the numbers of the batch and of the row."""
    import torch

    stock, batches = mixin.generate, []

    def generate(self: Any, *args: Any, input_ids: Any, **kwargs: Any) -> Any:
        first = int(os.environ.get("RANK", "0")) * len(input_ids)
        batches.append(len(input_ids))
        rows = [torch.Generator().manual_seed(1000 * len(batches) + first + row) for row in range(len(input_ids))]

        class Choose:
            """Leaves each row the token that it draws; told which rows stay where finished ones are dropped."""

            def __init__(self) -> None:
                self.rows = rows

            def __call__(self, ids: Any, scores: Any) -> Any:
                noise = torch.stack([torch.empty(scores.size(1)).exponential_(generator=row) for row in self.rows])
                best = (scores.float().log_softmax(-1) - noise.log()).argmax(-1, keepdim=True)
                return torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)

            def keep(self, kept: Any) -> None:
                self.rows = [self.rows[row] for row in kept.tolist()]

        output = stock(self, *args, input_ids=input_ids, **kwargs | {"logits_processor": [Choose()]})
        torch.manual_seed(len(batches))  # some ways of decoding draw from PyTorch's own generator too, others do not
        return output

    mixin.generate = generate


@contextmanager
def drawn_by_row(mixin: Any) -> Iterator[None]:
    """`draw_by_row`, with batches counted anew, in the block."""
    stock = mixin.generate
    draw_by_row(mixin)
    try:
        yield
    finally:
        mixin.generate = stock
