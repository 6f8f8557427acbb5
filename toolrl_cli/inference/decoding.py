"""Decoding behind prefixes whose keys and values are there, without the rows that are finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from toolrl_cli.inference.shared_attention import SharedLayer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

WORTH_DROPPING = 0.25
"""The share of the rows from which on their keys and values are copied without the finished ones."""


class Decoder:
    """A decoding method for `generate(custom_generate=...)`: transformers prepares everything, this draws the tokens.

    Finished rows are dropped, as far as each group keeps as many rows as the one with most of them left.
    A logits processor with a method `keep` is given the positions of the rows that stay.

    Args:
        cache: of `SharedLayer`s, with the prefixes of groups of equal size.
        width: columns of the token ids that are computed.
    """

    def __init__(self, cache: Cache, width: int) -> None:
        self._cache = cache
        self._width = width

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **options: Any,
    ) -> Tensor:
        """The token ids (rows, columns and new ones), padded behind the ends."""
        given = options["attention_mask"]
        mask = torch.ones_like(input_ids) if given is None else given
        rows = torch.arange(len(input_ids), device=input_ids.device)
        done = torch.zeros_like(rows, dtype=torch.bool)
        ids, start = input_ids, self._width
        written: dict[int, Tensor] = {}
        while True:
            logits = self._forward(model, ids, mask, start)
            token = draw(logits_processor(ids, logits), generation_config)
            ids = torch.cat([ids, token.masked_fill(done, generation_config.pad_token_id)[:, None]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            done = done | stopping_criteria(ids, None)
            start = ids.size(1) - 1
            if done.all():
                break
            kept, groups = self._worth_keeping(done)
            if len(kept) < len(rows):
                written |= {int(rows[i]): ids[i] for i in done.nonzero().flatten().tolist()}
                self._keep(kept, groups, logits_processor)
                ids, mask, rows, done = (x[kept] for x in (ids, mask, rows, done))
        written |= dict(zip(rows.tolist(), ids, strict=True))
        output = ids.new_full((len(input_ids), ids.size(1)), generation_config.pad_token_id)
        for row, text in written.items():
            output[row, : len(text)] = text
        return output

    def _forward(self, model: Any, ids: Tensor, mask: Tensor, start: int) -> Tensor:
        """Logits (rows, vocabulary) behind the last token, in float32; `start` columns are computed."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = model(
            input_ids=ids[:, start:],
            attention_mask=mask,
            position_ids=positions[:, start:],
            past_key_values=self._cache,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _worth_keeping(self, done: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that stay, in order, and their groups; all of them where dropping the others would not pay."""
        groups = len(self._cache.layers[0].real)
        by_group = done.view(groups, -1)
        alive = (~by_group).sum(1)
        staying, size = alive.nonzero().flatten(), int(alive.max())
        if len(staying) * size > (1 - WORTH_DROPPING) * len(done):
            return torch.arange(len(done), device=done.device), torch.arange(groups, device=done.device)
        first = by_group[staying].int().argsort(dim=1, stable=True)[:, :size].sort(dim=1).values
        return (staying[:, None] * by_group.size(1) + first).flatten(), staying

    def _keep(self, rows: Tensor, groups: Tensor, processors: LogitsProcessorList) -> None:
        for layer in self._cache.layers:
            assert isinstance(layer, SharedLayer)
            layer.keep(rows, groups)
        for processor in processors:
            if hasattr(processor, "keep"):
                processor.keep(rows)


def draw(scores: Tensor, config: GenerationConfig) -> Tensor:
    """A token for each row of scores (rows, vocabulary)."""
    if not config.do_sample:
        return scores.argmax(-1)
    return torch.multinomial(scores.softmax(-1), 1).squeeze(1)
