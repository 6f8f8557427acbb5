"""Keys and values of a beginning that several rows share, computed once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from itertools import groupby
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from toolrl_cli.inference.decoding import Decoder
from toolrl_cli.inference.low_rank import fused_adapters
from toolrl_cli.inference.shared_attention import ATTENTION, SharedLayer, use_shared_attention

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

ATTENTIONS = ("eager", "sdpa", ATTENTION)
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
    config = inner.config.get_text_config()
    attention = config._attn_implementation
    if attention not in ATTENTIONS or not (inner._supports_sdpa and inner._can_set_attn_implementation()):
        return f"the model's attention is {attention}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "the model's attention caps its scores"
    if getattr(config, "num_kv_shared_layers", 0):
        return "layers of the model share their keys and values"
    rope = rope_types(inner.config)
    if not rope or rope & LENGTH_DEPENDENT:
        return "the model's positions are not rotary, or change with the length"
    window = min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=0)
    if 0 < window < length:
        return f"the model's sliding window of {window} tokens is shorter than prompt and completion"
    return None


def rope_types(config: PretrainedConfig) -> set[str]:
    """The kinds of rotary positions in a model, which may differ between kinds of layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {kind["rope_type"] for kind in (rope, *rope.values()) if isinstance(kind, dict) and "rope_type" in kind}


def causal_model(model: Any) -> PreTrainedModel:
    """The causal language model inside its LoRA wrapper, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prompts_of_groups(prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Prompts without their last tokens, one a group: rows are cut in order into equal groups of equal prompts."""
    runs = [(ids, len(list(rows))) for ids, rows in groupby(prompts)]
    size = gcd(*(count for _, count in runs))
    return [ids[:-1] for ids, count in runs for _ in range(count // size)]


def common_length(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with; the last one of the shortest row does not count."""
    # Between the first and the last one all others stand, and begin as both do.
    return min(count_common(min(rows), max(rows)), *(len(row) - 1 for row in rows))


def count_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    ends = (i for i, (first, second) in enumerate(zip(one, other, strict=False)) if first != second)
    return next(ends, min(len(one), len(other)))


def generate_behind(
    model: Any, prefixes: Sequence[Sequence[int]], width: int, input_ids: Tensor, attention_mask: Tensor, **options: Any
) -> Tensor:
    """`model.generate` for rows that share beginnings, each of which is computed once and read once a token.

    Args:
        model: the causal language model, wrapped by LoRA or not.
        prefixes: token ids, without padding, that the rows begin with: one a group, and groups of equal size in order.
        width: columns that they take in `input_ids`, padding included.
        input_ids: (rows, columns).
        attention_mask: the same shape, 0 on padding.
        options: what `generate` takes.

    Returns: (rows, columns and new tokens) token ids.
    """
    inner = causal_model(model)
    use_shared_attention(inner)
    with torch.no_grad(), fused_adapters(inner):
        decoder = Decoder(compute_prefixes(inner, prefixes, width), width)
        output: Tensor = type(model).generate(
            model, input_ids=input_ids, attention_mask=attention_mask, custom_generate=decoder, **options
        )
    return output


def compute_prefixes(model: Any, prefixes: Sequence[Sequence[int]], width: int) -> Cache:
    """A cache of prefixes; each distinct one has a forward of its own, behind what it begins with as the one before."""
    cache, before = DynamicCache(config=model.config), tuple[int, ...]()
    states = {}
    for prefix in sorted(set(map(tuple, prefixes))):
        known = count_common(before, prefix)
        for filled in cache.layers if before else []:
            filled.crop(known - len(before))
        rest = torch.tensor([prefix[known:]], device=model.device)
        model.base_model(input_ids=rest, past_key_values=cache, use_cache=True)
        states[prefix] = [(layer.keys, layer.values) for layer in cache.layers]
        before = prefix
    groups = [states[tuple(prefix)] for prefix in prefixes]
    longest = max(map(len, prefixes))
    real = torch.tensor([[column < len(prefix) for column in range(longest)] for prefix in prefixes])
    real = real.to(model.device)

    def gather(states: Iterable[Tensor]) -> Tensor:
        return torch.cat([pad(state, (0, 0, 0, longest - state.size(2))) for state in states])

    return Cache(
        layers=[
            SharedLayer(gather(keys for keys, _ in layer), gather(values for _, values in layer), real, width)
            for layer in zip(*groups, strict=True)
        ]
    )
