"""How much memory a training step takes, counted before a weight is loaded.

Weights, gradients and Adam's two moments follow from the parameters (arXiv 1910.02054, section 3.1). Activations are
what autograd keeps for the backward pass: they are counted by a forward pass of the real architecture on PyTorch's
meta device, which holds shapes and no numbers, with `torch.autograd.graph.saved_tensors_hooks`. With gradient
checkpointing only each layer's input is kept, and one layer at a time is computed again (arXiv 1604.06174).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from toolrl_cli.records import Json
from toolrl_cli.training.adapters import new_adapter
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.models import ModelSource, choose_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from trl.trainer.base_config import _BaseConfig

TILE_TOKENS = 4096
"""Tokens that TRL's LM head computes logits of at a time, each for `_CHUNKED_LOGPROB_CHUNK_SIZE` vocabulary entries."""
TILE_COPIES = 3
"""Float32 tensors of a tile that are alive at once: logits, probabilities, gradient."""
FOUR_BITS = 4.127 / 8
"""Bytes a quantized weight, its scales included (arXiv 2305.14314, section 3)."""
GIB = 1 << 30


@dataclass(frozen=True)
class Batch:
    """What the device works on at once, in rows and tokens.

    `rows` go through a forward and backward pass together; `prompts` of them are computed once where the rows share
    them. `generated` completions are sampled together, none in SFT.
    """

    rows: int
    prompt: int
    completion: int
    prompts: int
    generated: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return self.prompts * self.prompt + self.rows * self.completion

    @property
    def copied(self) -> int:
        """Prompt tokens whose keys and values are copied to the rows that share them."""
        return self.rows * self.prompt if self.prompts < self.rows else 0

    @property
    def mask_cells(self) -> int:
        """Numbers of the attention masks that padding makes necessary."""
        length = self.prompt + self.completion
        if self.prompts == self.rows:
            return self.rows * length**2
        return self.prompts * self.prompt**2 + self.rows * self.completion * length


@dataclass(frozen=True)
class Footprint:
    """Bytes, by what holds them; `cache` are the keys and values of what is sampled."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    logits: int
    cache: int

    @property
    def peak(self) -> int:
        """What is alive at the worst moment: the backward pass, or sampling, on top of what always is."""
        lasting = self.weights + self.optimizer + self.reference
        return lasting + max(self.gradients + self.activations + self.logits, self.cache)

    def to_json(self) -> Json:
        """The parts and the peak in GiB."""
        return {name: round(size / GIB, 3) for name, size in (asdict(self) | {"peak": self.peak}).items()}


def estimate_footprint(source: ModelSource, config: TrainingConfig, arguments: _BaseConfig, batch: Batch) -> Footprint:
    """The memory of one process of a training, without its Python and its CUDA context."""
    model = build_skeleton(source.base, config)
    text = model.config.get_text_config()
    trained = sum(size_of(p) for p in model.parameters() if p.requires_grad)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    held = sum(size_in_four_bits(p, text) if config.tuning == "qlora" else size_of(p) for p in frozen)
    per_token = 2 * text.num_hidden_layers * key_value_width(text) * choose_dtype(full_precision=False).itemsize
    labelled = batch.rows * batch.completion
    beta = getattr(arguments, "beta", 0.0)
    return Footprint(
        weights=held + trained,
        gradients=trained,
        optimizer=2 * trained,
        reference=trained if beta and config.tuning == "full" else 0,
        activations=count_activations(model, batch, arguments),
        logits=min(labelled, TILE_TOKENS)
        * min(text.vocab_size, trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE)
        * 4
        * TILE_COPIES,
        cache=batch.generated * (batch.prompt + batch.completion) * per_token,
    )


def build_skeleton(base: Path, config: TrainingConfig) -> Any:
    """The model that will be trained, its adapter included, on the meta device."""
    from peft import get_peft_model

    AttentionInterface.register("counted", counted_attention)
    dtype = choose_dtype(full_precision=config.tuning == "full")
    model = build_shape(base, dtype=dtype, attn_implementation="counted")
    if config.tuning == "full":
        return model
    with torch.device("meta"):
        return get_peft_model(model, new_adapter(config, model), low_cpu_mem_usage=True)


def build_shape(base: Path, **options: Any) -> Any:
    """The model of a folder on the meta device, built with options of `from_config`."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), **options)


def count_activations(model: Any, batch: Batch, arguments: _BaseConfig) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass.

    Under bfloat16 autocast the pass is that of a bfloat16 model, and float32 weights are copied for it.
    """
    copies = 0
    if arguments.bf16:
        copies = sum(2 * parameter.numel() for parameter in model.parameters() if parameter.dtype == torch.float32)
        model = model.to(torch.bfloat16)
    text = model.config.get_text_config()
    layers, size = text.num_hidden_layers, model.dtype.itemsize
    expanded = 2 * (key_value_width(text) + head_width(text) * text.num_attention_heads)
    kept = saved_bytes(model, batch.tokens) + (batch.mask_cells + batch.copied * expanded) * size * layers
    if arguments.gradient_checkpointing:
        kept = batch.tokens * text.hidden_size * size * layers + kept // layers
    return int(kept + copies)


def saved_bytes(model: Any, tokens: int) -> int:
    """Bytes of the tensors that autograd saves in a forward pass through the layers, parameters left out."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    unmasked = torch.ones((1, 1, 1, 1), dtype=torch.bool, device="meta")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        inner.train().base_model(input_ids=ids, attention_mask=unmasked, use_cache=False)
    return sum(storage.nbytes() for storage in saved.values())


class Attention(torch.autograd.Function):
    """Attention that keeps what fused kernels keep: queries, keys, values and result, and no matrix of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A result of the right shape."""
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result


def counted_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What transformers calls for attention: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out.

    Where a batch is padded, as most are, keys and values are expanded to the heads of the queries.
    """
    groups = query.size(1) // key.size(1)
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return Attention.apply(query, key, value).transpose(1, 2), None


def size_of(parameter: Tensor) -> int:
    """Bytes of a tensor."""
    return int(parameter.numel() * parameter.itemsize)


def size_in_four_bits(parameter: Tensor, text: Any) -> int:
    """Bytes of a frozen tensor under QLoRA, which leaves vectors, the embedding and the LM head as they are."""
    matrix = parameter.ndim == 2 and parameter.size(0) != text.vocab_size
    return int(parameter.numel() * FOUR_BITS) if matrix else size_of(parameter)


def key_value_width(text: Any) -> int:
    """Numbers of a token's keys in a layer."""
    return int((getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_width(text))


def head_width(text: Any) -> int:
    """Numbers of a token in one attention head."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
