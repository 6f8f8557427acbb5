"""Put on PYTHONPATH, this draws each completion from noise of its own: that of its place in the generated batch.

Sampling then does not depend on how many processes share the batch, and what they compute can be compared. A token is
drawn by the Gumbel-max trick: the largest of logit plus noise is a sample of the softmax.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

MODULE = "transformers.generation.utils"


class PatchGeneration(MetaPathFinder):
    """Lets the module load as ever, then wraps `generate`."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            add_noise(module.GenerationMixin)

        spec.loader.exec_module = exec_module
        return spec


def add_noise(mixin):
    import torch

    stock, batches = mixin.generate, []

    def generate(self, *args, input_ids, **kwargs):
        first = int(os.environ.get("RANK", "0")) * len(input_ids)
        batches.append(len(input_ids))
        rows = [torch.Generator().manual_seed(1000 * len(batches) + first + row) for row in range(len(input_ids))]

        def choose(ids, scores):
            noise = torch.stack([torch.empty(scores.size(1)).exponential_(generator=row) for row in rows])
            best = (scores.float().log_softmax(-1) - noise.log()).argmax(-1, keepdim=True)
            return torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)

        return stock(self, *args, input_ids=input_ids, logits_processor=[choose], **kwargs)

    mixin.generate = generate


sys.meta_path.insert(0, PatchGeneration())
