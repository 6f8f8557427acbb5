"""Attention that reads a beginning once for all the rows that share it, in training and in decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, Cache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ATTENTION = "toolrl_shared_prefix"


@dataclass(frozen=True, slots=True)
class Group:
    """Lengths in tokens: of a prefix, and of the segments behind it."""

    prefix: int
    segments: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens of the whole group."""
        return self.prefix + sum(self.segments)


class SharedLayer(DynamicLayer):
    """What a layer keeps while rows are decoded: their prefixes once a group, and the rows' own keys and values.

    Args:
        keys: of the prefixes (groups, heads, tokens, dimension), padded behind; a group is so many rows, in order.
        values: the same shape.
        real: (groups, tokens), False on padding.
        width: columns that the prefixes take in the padded token ids.
    """

    def __init__(self, keys: Tensor, values: Tensor, real: Tensor, width: int) -> None:
        super().__init__()
        self.prefix_keys, self.prefix_values, self.real = keys, values, real
        self._width = width

    def get_seq_length(self) -> int:
        """Columns of the padded token ids that have been computed."""
        own: int = super().get_seq_length()
        return self._width + own

    def keep(self, rows: Tensor, groups: Tensor) -> None:
        """Forget the others; the rows that stay are those of the groups that stay, as many of each."""
        self.batch_select_indices(rows)
        if len(groups) < len(self.real):
            self.prefix_keys, self.prefix_values, self.real = (
                x[groups] for x in (self.prefix_keys, self.prefix_values, self.real)
            )


def use_shared_attention(model: PreTrainedModel) -> None:
    """Have a causal language model call `shared_attention`, which is PyTorch's own where nothing is shared."""
    if model.config._attn_implementation != ATTENTION:
        model.set_attn_implementation(ATTENTION)


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    groups: Sequence[Group] | None = None,
    cache: Cache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form of transformers' `AttentionInterface`.

    Args:
        module: the attention layer.
        query: (rows, heads, tokens, dimension); `key` and `value` may have fewer heads.
        attention_mask: (rows, 1, tokens, columns), True where a token is seen; None for all up to each token.
        scaling: factor of the products; None is the inverse root of the dimension.
        groups: how a single row is packed.
        cache: of `SharedLayer`s, where rows are decoded behind their prefixes.
        options: what PyTorch's own attention takes.

    Returns: (rows, tokens, heads, dimension), and no weights.
    """
    if groups is not None:
        return attend_packed(query, key, value, groups, scaling)[None], None
    if cache is not None:
        return attend_behind(query, key, value, attention_mask, cache.layers[module.layer_idx], scaling), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    return output, None


def attend_packed(query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group], scaling: float | None) -> Tensor:
    """Attention of one packed row: (tokens, heads, dimension)."""
    repeats, sizes = query.size(1) // key.size(1), [group.size for group in groups]
    q, k, v = (x[0].transpose(0, 1).split(sizes) for x in (query, repeat_kv(key, repeats), repeat_kv(value, repeats)))
    outputs = (attend(*parts, scaling) for parts in zip(groups, q, k, v, strict=True))
    return torch.cat([part for parts in outputs for part in parts])


def attend(group: Group, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Iterator[Tensor]:
    """Attention of a group: its prefix on itself, each segment on the prefix and on itself up to each token.

    Args:
        group: the lengths.
        query: (tokens, heads, dimension), as are `key` and `value`.
        scaling: factor of the products; None is the inverse root of the dimension.

    Yields: tensors (some of the tokens, heads, dimension), in order.
    """
    (q_prefix, q), (k_prefix, k), (v_prefix, v) = (
        (x[: group.prefix], pad_sequence(x[group.prefix :].split(group.segments), batch_first=True))
        for x in (query, key, value)
    )
    if group.prefix:
        yield attend_rows(q_prefix[None], k_prefix[None], v_prefix[None], scaling)[0]
    k, v = (
        torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=1) for prefix, own in ((k_prefix, k), (v_prefix, v))
    )
    # Padding stands at the end of a segment, where no other token sees it.
    for output, length in zip(attend_rows(q, k, v, scaling), group.segments, strict=True):
        yield output[:length]


def attend_rows(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Causal attention of rows (rows, tokens, heads, dimension) whose queries are the last tokens of their keys."""
    length, total = query.size(1), key.size(1)
    mask = causal_mask(length, total, query.device) if length < total else None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    output: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)


def attend_behind(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, layer: SharedLayer, scaling: float | None
) -> Tensor:
    """Attention of rows on the prefix of their group and on their own keys; shapes as in `shared_attention`."""
    length, size = query.shape[2:]
    groups, _, past, _ = layer.prefix_keys.shape
    mask = causal_mask(length, key.size(2), query.device)[None, None] if mask is None else mask[..., -key.size(2) :]
    if length > 1:  # all scores at once would take more memory than a prefix for each row does
        return attend_with_copies(query, key, value, mask, layer, scaling)
    # (groups, key heads, rows of the group and query heads, dimension): all of a group meet its prefix in one product.
    asked = (query * (size**-0.5 if scaling is None else scaling)).view(len(query), key.size(1), -1, size)
    own = (asked @ key.transpose(-1, -2)).masked_fill_(~mask, -torch.inf)
    by_group = asked.unflatten(0, (groups, -1)).transpose(1, 2)
    prefix = by_group.flatten(2, 3) @ layer.prefix_keys.transpose(-1, -2)
    prefix = prefix.masked_fill_(~layer.real[:, None, None], -torch.inf)
    prefix = prefix.view(*by_group.shape[:-1], past).transpose(1, 2).flatten(0, 1)
    scores = torch.cat([prefix, own], dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    on_prefix, on_own = weights.split([past, key.size(2)], dim=-1)
    on_prefix = on_prefix.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2, 3)
    mixed = (on_prefix @ layer.prefix_values).view(by_group.shape).transpose(1, 2).flatten(0, 1)
    return (mixed + on_own @ value).flatten(1, 2).unsqueeze(1)


def attend_with_copies(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layer: SharedLayer, scaling: float | None
) -> Tensor:
    """What `attend_behind` computes, with the prefix copied to each row for PyTorch's own attention."""
    rows, heads, length, _ = query.shape
    copies, repeats = rows // len(layer.real), heads // key.size(1)
    prefix, k, v = (x.repeat_interleave(copies, 0) for x in (layer.real, layer.prefix_keys, layer.prefix_values))
    k, v = (repeat_kv(torch.cat(parts, dim=2), repeats) for parts in ((k, key), (v, value)))
    seen = torch.cat([x.expand(rows, 1, length, -1) for x in (prefix[:, None, None], mask)], dim=-1)
    return scaled_dot_product_attention(query, k, v, attn_mask=seen, scale=scaling).transpose(1, 2)


def causal_mask(length: int, total: int, device: torch.device) -> Tensor:
    """(length, total), True where one of the last `length` of `total` tokens sees another."""
    return torch.ones(length, total, dtype=torch.bool, device=device).tril(total - length)


AttentionInterface.register(ATTENTION, shared_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
