"""Supervised fine-tuning on examples: the cold start before GRPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolrl_cli.formats import find_format
from toolrl_cli.training.arguments import build_arguments
from toolrl_cli.training.config import SftConfig
from toolrl_cli.training.data import read_examples, sft_dataset
from toolrl_cli.training.run import Materials, RunSummary, run_training

if TYPE_CHECKING:
    from transformers import Trainer


def train_sft(config: SftConfig) -> RunSummary:
    """Teach a model the gold completions of `config.data`; only completion tokens carry loss.

    Raises:
        DataError: the data is missing, malformed or empty.
        ConfigError: an option, a training argument or the output folder is refused.
        SetupError: the model cannot be had.
    """
    from trl import SFTConfig, SFTTrainer

    text_format = find_format("toolrl")
    examples = read_examples(config.data, config.limit)
    own = {"max_length": config.max_length, "completion_only_loss": True}
    arguments = build_arguments(SFTConfig, config, own)

    def build_trainer(materials: Materials) -> Trainer:
        return SFTTrainer(
            materials.model,
            arguments,
            train_dataset=sft_dataset(examples, text_format),
            processing_class=materials.tokenizer,
            peft_config=materials.peft_config,
        )

    return run_training("sft", config, text_format, {}, build_trainer)
