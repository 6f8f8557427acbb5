"""Trains a tiny model on several processes, sharing prefixes or not, and saves what became of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from noise import drawn_by_row
from transformers import AutoTokenizer, GenerationMixin, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer


def train(tokenizer: Path, output: Path, kind: str) -> None:
    """Two steps of 8 completions, 4 on each of two processes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=800, num_key_value_heads=2, eos_token_id=2, **sizes)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    arguments = GRPOConfig(
        str(output / kind),
        bf16=False,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        learning_rate=1.0,
        max_steps=2,
        optim="sgd",
        gradient_checkpointing=kind.endswith("checkpointed"),
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )

    def total(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    trainer = (SharedPrefixGRPOTrainer if kind.startswith("ours") else GRPOTrainer)(
        model,
        total,
        arguments,
        train_dataset=Dataset.from_list([{"prompt": text} for text in ("abc", "defghi", "jklm", "no")]),
        processing_class=AutoTokenizer.from_pretrained(tokenizer),
    )
    forwards: list[int] = []
    trainer.model.model.register_forward_pre_hook(
        lambda module, args, options: forwards.append(len(options["input_ids"])), with_kwargs=True
    )
    with drawn_by_row(GenerationMixin):
        trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    if trainer.accelerator.is_main_process:
        weights = {name: value.detach() for name, value in trainer.model.named_parameters()}
        torch.save({"weights": weights, "logs": logs, "rows": forwards}, output / f"{kind}.pt")


for kind in sys.argv[3:]:
    train(Path(sys.argv[1]), Path(sys.argv[2]), kind)
torch.distributed.destroy_process_group()  # left to the end of Python, its threads now and then abort the process
