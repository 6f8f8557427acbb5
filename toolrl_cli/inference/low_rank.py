"""LoRA layers in decoding, without the casts and the copies that training needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from peft.tuners.lora import Linear
    from torch import Tensor


@contextmanager
def fused_adapters(model: Any) -> Iterator[None]:
    """Within the block, plain LoRA layers compute in the number format of their base and add up in place.

    PEFT holds adapters in float32 and, without autocast, computes them in it, with casts at every call; autocast, in
    training, has them computed in the format of the base. No gradients; weights must not change within the block.
    """
    layers = [layer for layer in model.modules() if is_plain(layer)]
    for layer in layers:
        layer.forward = fuse(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def is_plain(module: Any) -> bool:
    """Whether a module is a LoRA layer on a plain linear one, with a single adapter at work and nothing besides."""
    if not hasattr(module, "base_layer"):  # without adapters PEFT, which is slow to import, is not needed
        return False
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    return (
        name in module.lora_A
        and name not in module.lora_variant
        and not (module.merged or module.disable_adapters or module.lora_bias[name])
        and (isinstance(module.lora_dropout[name], torch.nn.Identity) or not module.training)
    )


def fuse(layer: Linear) -> Callable[[Tensor], Tensor]:
    """The forward of a LoRA layer as it is now: W x + s B A x."""
    name, base = layer.active_adapters[0], layer.base_layer
    down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach() * layer.scaling[name]
    return partial(low_rank_linear, base.weight, base.bias, down.to(base.weight.dtype), up.to(base.weight.dtype).t())


def low_rank_linear(weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, x: Tensor) -> Tensor:
    """`x` (..., in) times a matrix (out, in) and times the product of `up` (rank, out) and `down` (rank, in)."""
    output = linear(x, weight, bias)
    output.view(-1, output.size(-1)).addmm_(linear(x, down).flatten(0, -2), up)
    return output
