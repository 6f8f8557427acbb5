"""GRPO that computes each prompt once for its whole group instead of once a completion.

In generation the prompt's keys and values are computed once and read once a token for all rows; the
log-probabilities come from one packed sequence a micro-batch (`packed.py`). The result is that of
stock TRL up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerationMode
from trl import GRPOTrainer

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, first_line
from toolrl_cli.inference.drawing import draw_in_processor
from toolrl_cli.inference.shared_prefix import causal_model, generate_behind, prefix_obstacle, prompts_of_groups
from toolrl_cli.training.config import SharedPrefix
from toolrl_cli.training.packed import completion_logps, distinct_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig

    LogProbabilities = tuple[Tensor, Tensor | None, Tensor | None]
    MicroBatch = dict[str, Any]


PLAIN = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""Ways of decoding that draw one token a row from its scores."""
UNSHARDED = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Kinds of distribution in which each process holds the whole model."""
BOUNDS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Mean difference of a token's log-probability that rounding explains; TRL's head computes in float32 at most."""


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """TRL's trainer with a shared prefix in generation and in the log-probabilities, where that applies.

    Args:
        shared_prefix: `auto` leaves everything to TRL where sharing does not apply, and logs why;
            `on` raises `ConfigError` there, when it is built or at the first batch that shows it; `off` never shares.

    The other arguments are TRL's.
    """

    _buffered_inputs: list[MicroBatch] | None

    def __init__(self, *args: Any, shared_prefix: SharedPrefix = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shared_prefix = shared_prefix
        self._attention = causal_model(self.accelerator.unwrap_model(self.model)).config._attn_implementation
        self._obstacle = trainer_obstacle(self)
        self._checked = False
        self._told = set[str]()
        self._shares_prefix()

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
        # A gradient of 0 is not none to an optimizer: its moments and its weight decay go on.
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return loss + 0.0 * sum(parameter.flatten()[0] for parameter in trained)

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
        if not self._passes_check(model, input_ids, attention_mask, logits_to_keep):
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
        model = self.accelerator.unwrap_model(self.model)
        if self.use_transformers_continuous_batching:
            causal_model(model).set_attn_implementation(self._attention)  # it takes no other
            with numbers_kept(model):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if not self._generates_shared(prompt_ids):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        prefixes = prompts_of_groups(prompt_ids)

        def generate(
            input_ids: Tensor, attention_mask: Tensor, generation_config: GenerationConfig, **options: Any
        ) -> Tensor:
            config, draws = draw_in_processor(generation_config, input_ids.device)
            options |= {"generation_config": config, "logits_processor": draws}
            return generate_behind(model, prefixes, input_ids.size(1) - 1, input_ids, attention_mask, **options)

        model.generate = generate
        try:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            del model.generate

    def _generates_shared(self, prompt_ids: list[list[int]]) -> bool:
        """Whether transformers decodes token by token, and some prompts are equal and have more than one token."""
        options = None if self.use_vllm else self.generation_config
        plain = options and not options.cache_implementation and options.get_generation_mode() in PLAIN
        lengths = [len(ids) for ids in prompt_ids]
        equal = len(set(map(tuple, prompt_ids))) < len(prompt_ids)
        longest = max(lengths) + self.max_completion_length
        return bool(plain and equal and min(lengths) > 1 and self._shares_prefix(longest))

    def _shares_prefix(self, length: int = 0) -> bool:
        """Whether rows of up to `length` tokens share their prefixes; what forbids it is logged once, or raised."""
        if self._shared_prefix == "off":
            return False
        reason = prefix_obstacle(self.accelerator.unwrap_model(self.model), length) or self._obstacle
        if reason is None:
            return True
        if self._shared_prefix == "on":
            raise ConfigError(f"--shared-prefix on: {reason}")
        if reason not in self._told:
            log(f"each prompt is computed once a completion, not once a group: {reason}")
            self._told.add(reason)
        return False

    def _passes_check(self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int) -> bool:
        """Whether the rows share their prefixes; the first that do are compared with TRL's own computation."""
        longest = int(attention_mask.sum(1).max())
        if self._shares_prefix(longest) and not self._checked:
            self._checked = True
            with torch.no_grad():
                self._obstacle = self._compare_with_stock(model, input_ids, attention_mask, length)
        return self._shares_prefix(longest)

    def _compare_with_stock(self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int) -> str | None:
        """What speaks against sharing after two completions of the first prompt are computed both ways."""
        split = input_ids.size(1) - length
        _, owner = distinct_rows(input_ids[:, :split], attention_mask[:, :split])
        rows = (owner == 0).nonzero().flatten()[:2]
        ids, mask, inner = input_ids[rows], attention_mask[rows], self.accelerator.unwrap_model(model)
        stock, _, _ = super()._get_per_token_logps_and_entropies(inner, ids, mask, length)
        try:
            with self.accelerator.autocast():
                shared, _ = completion_logps(inner, ids, mask, length)
        except (TypeError, ValueError, RuntimeError) as error:
            return f"it fails on this model ({first_line(error)})"
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else inner.dtype
        difference = float((shared - stock).abs().sum() / mask[:, split:].sum().clamp(min=1))
        if difference < BOUNDS[dtype]:
            return None
        return f"log-probabilities differ by {difference:.2g} on average, more than {dtype} explains"


@contextmanager
def numbers_kept(model: torch.nn.Module) -> Iterator[None]:
    """Give parameters and buffers their numbers back, which TRL rounds for this kind of generation and leaves so."""
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    try:
        yield
    finally:
        for parameter, data in weights:
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def trainer_obstacle(trainer: GRPOTrainer) -> str | None:
    """What in the settings of a run forbids to share prefixes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    distributed = trainer.accelerator.distributed_type
    obstacles = {
        "the model is multimodal": trainer._is_vlm,
        f"{distributed} splits the model over the processes": distributed not in UNSHARDED,
        "torch.compile would compile anew for each length": trainer.args.torch_compile,
        "the router's loss counts each prompt once a completion": trainer.aux_loss_enabled,
        "a prompt-learning adapter adds tokens": getattr(model, "active_peft_config", None) is not None
        and model.active_peft_config.is_prompt_learning,
        "dropout is on, and a group would share it": has_dropout(model),
    }
    return next((reason for reason, holds in obstacles.items() if holds), None)


def has_dropout(model: Any) -> bool:
    """Whether training the model draws any dropout."""
    rate = getattr(causal_model(model).config.get_text_config(), "attention_dropout", 0.0)
    return bool(rate) or any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


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
