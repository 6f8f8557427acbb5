"""GRPO that computes each prompt once for its whole group instead of once a completion.

In generation the prompt's keys and values are computed in one forward and given to each row; the
log-probabilities come from one packed sequence a micro-batch (`packed.py`). The result is that of
stock TRL up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from trl import GRPOTrainer

from toolrl_cli.inference.shared_prefix import causal_model, supports_shared_prefix
from toolrl_cli.training.packed import completion_logps, distinct_rows

if TYPE_CHECKING:
    from torch import Tensor

    LogProbabilities = tuple[Tensor, Tensor | None, Tensor | None]
    MicroBatch = dict[str, Any]


UNSHARDED = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Kinds of distribution in which each process holds the whole model."""


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """TRL's trainer with a shared prefix in generation and in the log-probabilities, where that applies."""

    _buffered_inputs: list[MicroBatch] | None

    def _prepare_inputs(self, generation_batch: MicroBatch) -> MicroBatch:
        """TRL's inputs, with the rows of an optimizer step ordered so that its micro-batches cut few groups."""
        before = self._buffered_inputs
        inputs: MicroBatch = super()._prepare_inputs(generation_batch)
        generated = self._buffered_inputs
        if generated is None or generated is before or not self._shares_prefix():
            return inputs
        steps = self.args.steps_per_generation
        window = gcd(steps, self.args.gradient_accumulation_steps)
        windows = [generated[start : start + window] for start in range(0, steps, window)]
        self._buffered_inputs = [micro_batch for rows in windows for micro_batch in gather_groups(rows)]
        now: int = self._step % steps
        return self._buffered_inputs[now]

    def _compute_loss(self, model: Any, inputs: MicroBatch) -> Tensor:
        """TRL's loss; where every advantage is 0 its gradient is 0 too, and no backward is computed."""
        regularised = self.beta != 0.0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        alone = self.accelerator.distributed_type == "NO"  # others wait for the gradients of each backward
        if inputs["advantages"].any() or regularised or not (alone and model.training and self._shares_prefix()):
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        with torch.no_grad():
            loss = super()._compute_loss(model, inputs)
        leaf = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        return loss + 0.0 * leaf.view(-1)[0]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **modalities: Any,
    ) -> LogProbabilities:
        given = any(value is not None for value in modalities.values())
        if not self._shares_prefix() or compute_aux_loss or given:
            options = (logits_to_keep, batch_size, compute_entropy, compute_aux_loss)
            stock: LogProbabilities = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, *options, **modalities
            )
            return stock
        rows = batch_size or len(input_ids)
        with self.accelerator.autocast():
            chunks = [
                completion_logps(model, ids, mask, logits_to_keep)
                for ids, mask in zip(input_ids.split(rows), attention_mask.split(rows), strict=True)
            ]
        logps, entropies = zip(*chunks, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        own_cache = self.use_vllm or self.use_transformers_continuous_batching or self.args.cache_implementation
        if own_cache or not self._shares_prefix():
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        stock = model.generate

        def generate(input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
            cache = prefill(model, input_ids, attention_mask)
            return stock(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **options)

        model.generate = generate
        try:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            del model.generate

    def _shares_prefix(self) -> bool:
        """Whether this model and these processes are known to compute the same with shared prefixes."""
        known = self.accelerator.distributed_type in UNSHARDED and not self._is_vlm
        return known and supports_shared_prefix(self.accelerator.unwrap_model(self.model))


def gather_groups(micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """The same rows in as many micro-batches, those of a prompt next to each other."""
    rows = merge(micro_batches)
    _, owner = distinct_rows(rows["prompt_ids"], rows["prompt_mask"])
    return [select_rows(rows, part) for part in owner.argsort(stable=True).chunk(len(micro_batches))]


def merge(micro_batches: Sequence[MicroBatch]) -> MicroBatch:
    """One batch of the rows of several; what is no tensor with rows is the same in each."""
    return {
        name: torch.cat([batch[name] for batch in micro_batches]) if holds_rows(value) else value
        for name, value in micro_batches[0].items()
    }


def select_rows(batch: MicroBatch, rows: Tensor) -> MicroBatch:
    """The rows of a batch at the given positions."""
    return {name: value[rows] if holds_rows(value) else value for name, value in batch.items()}


def holds_rows(value: object) -> bool:
    """Whether a value of a batch has a row for each completion."""
    return isinstance(value, torch.Tensor) and value.ndim > 0


def prefill(model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> DynamicCache:
    """Keys and values of all prompt positions but the last, computed once a distinct prompt, one row a prompt row.

    Args:
        model: the causal language model, wrapped by LoRA or not.
        prompt_ids: (rows, prompt length), left-padded.
        prompt_mask: the same shape, 0 on padding.
    """
    first, owner = distinct_rows(prompt_ids, prompt_mask)
    inner = causal_model(model)
    cache = DynamicCache(config=inner.config)
    mask = prompt_mask[first, :-1]
    inner.base_model(
        input_ids=prompt_ids[first, :-1],
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_select_indices(owner)
    return cache


def positions(mask: Tensor) -> Tensor:
    """Position of each token counted from its row's first real token, as `generate` counts them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
