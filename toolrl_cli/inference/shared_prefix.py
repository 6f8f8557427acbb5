"""Keys and values of a beginning that several rows share, computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LENGTH_DEPENDENT = {"dynamic", "longrope"}
"""Kinds of rotary positions that turn otherwise once a text is long."""


def supports_shared_prefix(model: PreTrainedModel) -> bool:
    """Whether every layer keeps all keys and values of the prefix, whatever follows it.

    That is: no sliding window, no recurrent state, no positions that are scaled by the length of the whole.
    """
    inner = causal_model(model)
    inputs = signature(inner.base_model.forward).parameters.keys()
    layers = DynamicCache(config=inner.config).layers
    keeps_all = {"past_key_values", "position_ids"} <= inputs and all(type(layer) is DynamicLayer for layer in layers)
    return keeps_all and not rope_types(inner.config) & LENGTH_DEPENDENT


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
