"""Put on PYTHONPATH, this draws each completion from noise of its own: that of its place in the generated batch.

Sampling then does not depend on how many processes share the batch, and what they compute can be compared. A token is
drawn by the Gumbel-max trick: the largest of logit plus noise is a sample of the softmax.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

MODULE = "transformers.generation.utils"


class PatchGeneration:
    """Lets the module load as ever, then wraps `generate`."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, whose loader wraps `generate` at the end; None for every other module."""
        spec: Any = PathFinder.find_spec(name, path, target) if name == MODULE else None
        if spec is None:
            return None
        load = spec.loader.exec_module

        def load_and_wrap(module: Any) -> None:
            load(module)
            draw_by_row(module.GenerationMixin)

        spec.loader.exec_module = load_and_wrap
        return spec  # type: ignore[no-any-return]


def draw_by_row(mixin: Any) -> None:
    """Give each row of a batch a random generator that its number and the batch's seed."""
    import torch

    stock, batches = mixin.generate, []

    def generate(self: Any, *args: Any, input_ids: Any, **kwargs: Any) -> Any:
        first = int(os.environ.get("RANK", "0")) * len(input_ids)
        batches.append(len(input_ids))
        rows = [torch.Generator().manual_seed(1000 * len(batches) + first + row) for row in range(len(input_ids))]

        def choose(ids: Any, scores: Any) -> Any:
            noise = torch.stack([torch.empty(scores.size(1)).exponential_(generator=row) for row in rows])
            best = (scores.float().log_softmax(-1) - noise.log()).argmax(-1, keepdim=True)
            return torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)

        return stock(self, *args, input_ids=input_ids, **kwargs | {"logits_processor": [choose]})

    mixin.generate = generate


sys.meta_path.insert(0, PatchGeneration)
