"""Log-probabilities of completions that share prompts, from one sequence that holds each prompt once.

A group is packed as its prefix (the prompt without its last token) and one segment a completion
(the prompt's last token and the completion without its own), so a segment's hidden states are just
those that predict its completion. Positions go on from the prefix in every segment, and attention is
computed in two parts: the prefix on itself, each segment on the prefix and on itself. Padding takes
no part. It is one forward of the wrapped model, so it works under checkpointing and data-parallel wrappers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from toolrl_cli.inference.shared_attention import Group, use_shared_attention
from toolrl_cli.inference.shared_prefix import causal_model

if TYPE_CHECKING:
    from torch import Tensor

NO_LABEL = -100


@dataclass(frozen=True, slots=True)
class Packed:
    """The rows of a batch in one sequence.

    `source` (tokens,) is where each token stands in the flattened batch, `positions` (tokens,) its position,
    `predicted` (tokens,) the token after it in the flattened batch where that is scored, else -1.
    """

    groups: tuple[Group, ...]
    source: Tensor
    positions: Tensor
    predicted: Tensor


def completion_logps(
    model: Any, input_ids: Tensor, attention_mask: Tensor, length: int
) -> tuple[Tensor, Tensor | None]:
    """Log-probability and entropy of each completion token.

    Args:
        model: a model with TRL's fused LM head, wrapped or not.
        input_ids: (rows, prompt + completion), prompts left-padded, completions right-padded.
        attention_mask: the same shape, 0 on padding.
        length: completion positions at the end of each row.

    Returns: two tensors (rows, length), 0 on padding; no entropy where the head computes none.
    """
    use_shared_attention(causal_model(unwrap(model)))
    packed = pack(input_ids, attention_mask, length)
    scored = packed.predicted >= 0
    tokens, target = input_ids.flatten(), packed.predicted.clamp(min=0)
    output = model(
        input_ids=tokens[packed.source][None],
        # A mask of four dimensions is passed on as it is; the attention reads `groups` instead.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
        position_ids=packed.positions[None],
        shift_labels=tokens[target].masked_fill(~scored, NO_LABEL)[None],
        fused_lm_head=True,
        groups=packed.groups,
    )

    def unpack(values: Tensor) -> Tensor:
        rows = values.new_zeros(tokens.numel()).index_copy(0, target[scored], values[0, scored])
        return rows.view_as(input_ids)[:, -length:]

    return unpack(output.log_probs), None if output.entropy is None else unpack(output.entropy)


def pack(input_ids: Tensor, attention_mask: Tensor, length: int) -> Packed:
    """Lay the rows of a batch, as `completion_logps` takes it, into one sequence."""
    split = input_ids.size(1) - length
    mask = attention_mask.bool().cpu()
    places = torch.arange(mask.numel()).view_as(mask)
    first, owner = distinct_rows(input_ids[:, :split].cpu(), mask[:, :split])
    groups, source, positions, predicted = [], [], [], []
    for index in range(len(first)):
        rows = (owner == index).nonzero().flatten().tolist()
        prompt = places[rows[0], :split][mask[rows[0], :split]]
        completions = [places[row, split:][mask[row, split:]] for row in rows]
        # A completion without a token keeps its segment: one token that predicts nothing.
        segments = [torch.cat([prompt[-1:], completion[:-1]]) for completion in completions]
        start = len(prompt) - 1
        groups.append(Group(start, tuple(map(len, segments))))
        source += [prompt[:-1], *segments]
        positions += [torch.arange(start), *(start + torch.arange(len(segment)) for segment in segments)]
        predicted += [torch.full((start,), -1), *(c if len(c) else torch.tensor([-1]) for c in completions)]
    device = input_ids.device
    joined = (torch.cat(parts).to(device) for parts in (source, positions, predicted))
    return Packed(tuple(groups), *joined)


def distinct_rows(prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find equal prompts in a padded batch.

    Args:
        prompt_ids: (rows, prompt length) token ids.
        prompt_mask: the same shape, 0 on padding.

    Returns: the first row of each distinct prompt (distinct,), and for each row the index of its prompt (rows,).
    """
    keys = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    first = [keys.index(key) for key in order]
    owner = [order[key] for key in keys]
    return torch.tensor(first, device=prompt_ids.device), torch.tensor(owner, device=prompt_ids.device)


def unwrap(model: Any) -> Any:
    """The model inside a data-parallel wrapper, if there is one."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
