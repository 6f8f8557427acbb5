"""Keys and values of a beginning that several rows share, computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LENGTH_DEPENDENT = {"dynamic", "longrope"}
"""Kinds of rotary positions that turn otherwise once a text is long."""


def prefix_obstacle(model: PreTrainedModel, length: int) -> str | None:
    """Why rows of up to `length` tokens cannot share the keys and values of their beginning; None where they can.

    They can where every layer keeps all of them, whatever follows, and attention sees distances, not places.
    """
    inner = causal_model(model)
    inputs = signature(inner.base_model.forward).parameters.keys()
    if not {"past_key_values", "position_ids"} <= inputs:
        return "the model takes no cache or no positions"
    layers = DynamicCache(config=inner.config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return "a layer of the model keeps a state instead of keys and values"
    rope = rope_types(inner.config)
    if not rope or rope & LENGTH_DEPENDENT:
        return "the model's positions are not rotary, or change with the length"
    window = min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=0)
    if 0 < window < length:
        return f"the model's sliding window of {window} tokens is shorter than a text of {length}"
    return None


def rope_types(config: PretrainedConfig) -> set[str]:
    """The kinds of rotary positions in a model, which may differ between kinds of layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {kind["rope_type"] for kind in (rope, *rope.values()) if isinstance(kind, dict) and "rope_type" in kind}


def causal_model(model: Any) -> PreTrainedModel:
    """The causal language model inside its LoRA wrapper, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def common_length(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with; the last one of the shortest row does not count."""
    first, last = min(rows), max(rows)  # in between them all others stand, and begin as both do
    ends = (i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return min(next(ends, len(first)), *(len(row) - 1 for row in rows))


def prefill_common(model: Any, prefix: Sequence[int], rows: int) -> DynamicCache:
    """The cache of a beginning, computed once and repeated for each row.

    Args:
        model: the causal language model, wrapped by LoRA or not.
        prefix: token ids, without padding.
        rows: how many rows begin with it.
    """
    inner = causal_model(model)
    cache = DynamicCache(config=inner.config)
    ids = torch.tensor([prefix], device=inner.device)
    inner.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    return cache
