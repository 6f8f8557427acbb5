"""LoRA layers as they decode, against PEFT's own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from toolrl_cli.inference.low_rank import fused_adapters

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
IDS = torch.tensor([[5, 9, 12, 3], [7, 7, 1, 30]])


@pytest.fixture
def build_lora() -> Callable[..., Any]:
    """Builds a small model under a LoRA adapter whose product is not 0."""

    def build(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
        torch.manual_seed(0)
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **HEADS)).to(dtype)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options)).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return model

    return build


def compute(model: Any) -> torch.Tensor:
    """Logits in float64."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits.double()
    return logits


def test_the_logits_are_those_of_peft(build_lora: Callable[..., Any]) -> None:
    model = build_lora()
    stock = compute(model)
    with model.disable_adapter():
        assert (compute(model) - stock).abs().max() > 0.1
    with fused_adapters(model):
        assert any("forward" in vars(module) for module in model.modules())
        assert (compute(model) - stock).abs().max() < 1e-6  # PEFT holds the adapter in float32
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(compute(model), stock)


def test_in_bfloat16_the_adapter_rounds_no_worse_than_the_base(build_lora: Callable[..., Any]) -> None:
    exact, model = compute(build_lora()), build_lora(torch.bfloat16)
    stock = compute(model)
    with fused_adapters(model):
        fused = compute(model)
    assert (fused - exact).abs().mean() < 1.5 * (stock - exact).abs().mean()


def test_weights_are_those_of_the_moment(build_lora: Callable[..., Any]) -> None:
    model = build_lora()
    with fused_adapters(model):
        before = compute(model)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.data.neg_()
    with fused_adapters(model):
        after = compute(model)
    assert (after - before).abs().max() > 0.1
    assert (after - compute(model)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"use_dora": True}, lambda model: None),
        ({"lora_bias": True}, lambda model: None),
        ({"lora_dropout": 0.5}, lambda model: model.train()),
        ({}, lambda model: model.merge_adapter()),
        ({}, lambda model: model.base_model.disable_adapter_layers()),
    ],
    ids=["dora", "bias", "dropout", "merged", "disabled"],
)
def test_other_layers_are_left_to_peft(
    options: dict[str, Any], change: Callable[[Any], None], build_lora: Callable[..., Any]
) -> None:
    model = build_lora(**options)
    change(model)
    with fused_adapters(model):
        assert not any("forward" in vars(module) for module in model.modules())
