"""What toolrl adds to every trainer, against the trainer without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from toolrl_cli.training.trainers import equip

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TEXTS = [{"prompt": prompt, "completion": " yes it is"} for prompt in ("abc", "defghi", "jklm", "no")]
ADAPTERS = {
    "plain": ({}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": True}),
    "dora": ({"use_dora": True}, {}),
    "bias": ({"lora_bias": True}, {}),
    "float32": ({}, {"bf16": False}),
}

Trained = tuple[list[float], dict[str, Tensor], set[torch.dtype]]


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Callable[..., Trained]:
    """Trains an adapter on a random model for three steps: losses, weights, and what formats came into it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)

    def run(kind: type[SFTTrainer], adapter: dict[str, Any], options: dict[str, Any]) -> Trained:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES, **HEADS)
        settings = {"bf16": True, "gradient_checkpointing": False, "learning_rate": 1e-2, "max_steps": 3, **options}
        quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
        trainer = kind(
            transformers.LlamaForCausalLM(config).to(torch.bfloat16 if settings["bf16"] else torch.float32),
            SFTConfig(str(tmp_path / "out"), **settings, **quiet),
            train_dataset=Dataset.from_list(TEXTS),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **adapter),
        )
        formats = set[torch.dtype]()
        down = next(module for name, module in trainer.model.named_modules() if name.endswith("lora_A.default"))
        down.register_forward_pre_hook(lambda module, args: formats.add(args[0].dtype))
        trainer.train()
        layers = [module for module in trainer.model.modules() if isinstance(module, BaseTunerLayer)]
        assert layers and all(layer.cast_input_dtype_enabled for layer in layers)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}, formats

    return run


@pytest.mark.parametrize(("adapter", "options"), ADAPTERS.values(), ids=ADAPTERS)
def test_training_is_to_the_bit_that_without(
    adapter: dict[str, Any], options: dict[str, Any], train: Callable[..., Trained]
) -> None:
    losses, weights, _ = train(equip(SFTTrainer), adapter, options)
    stock_losses, stock_weights, _ = train(SFTTrainer, adapter, options)
    assert losses == stock_losses and len(set(losses)) > 1
    assert weights.keys() == stock_weights.keys()
    assert all(torch.equal(weight, stock_weights[name]) for name, weight in weights.items())


def test_what_comes_into_an_adapter_is_not_cast(train: Callable[..., Trained]) -> None:
    assert train(SFTTrainer, {}, {})[2] == {torch.float32}
    assert train(equip(SFTTrainer), {}, {})[2] == {torch.bfloat16}
