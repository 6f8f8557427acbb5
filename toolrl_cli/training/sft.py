"""Supervised fine-tuning on examples: the cold start before GRPO."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from toolrl_cli.console import log
from toolrl_cli.errors import DataError
from toolrl_cli.training.arguments import adopt_overrides, build_arguments
from toolrl_cli.training.config import SftConfig
from toolrl_cli.training.data import read_examples, sft_dataset
from toolrl_cli.training.models import load_tokenizer, quiet_libraries, resolve_model
from toolrl_cli.training.plan import plan_sft
from toolrl_cli.training.run import Materials, RunSummary, run_training
from toolrl_cli.training.text_format import choose_format

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer


def train_sft(config: SftConfig) -> RunSummary:
    """Teach a model the gold completions of `config.data`; only completion tokens carry loss.

    Raises:
        DataError: the data is missing, malformed or empty.
        ConfigError: an option, a training argument or the output folder is refused.
        SetupError: the model cannot be had.
    """
    from trl import SFTConfig, SFTTrainer

    from toolrl_cli.training.trainers import equip

    quiet_libraries()
    text_format = choose_format(config.model, config.format, config.template)
    config = adopt_overrides(SFTConfig, config)
    examples = read_examples(config.data, text_format, config.limit)
    own = {"lr_scheduler_type": "cosine", "max_length": config.max_length, "completion_only_loss": True}
    arguments = build_arguments(SFTConfig, config, own)

    def build_trainer(materials: Materials) -> Trainer:
        dataset = sft_dataset(examples, text_format, materials.tokenizer)
        report_lengths(dataset, config)
        return equip(SFTTrainer)(
            materials.model,
            arguments,
            train_dataset=dataset,
            processing_class=materials.tokenizer,
            peft_config=materials.peft_config,
        )

    summary = run_training("sft", config, text_format, {}, build_trainer)
    if not config.dry_run:
        return summary
    source = resolve_model(config.model)
    dataset = sft_dataset(examples, text_format, load_tokenizer(source))
    report_lengths(dataset, config)
    return replace(summary, plan=plan_sft(config, arguments, dataset, source))


def report_lengths(dataset: Dataset, config: SftConfig) -> None:
    """Log how many examples are cut off; raise `DataError` when no target token would be left to learn."""
    cut = sum(len(ids) > config.max_length for ids in dataset["input_ids"])
    lost = sum(1 not in mask[: config.max_length] for mask in dataset["completion_mask"])
    if lost == len(dataset):
        raise DataError(f"{config.data}: every prompt fills --max-length {config.max_length}; raise it")
    if cut:
        log(f"sft: --max-length {config.max_length} cuts off {cut} of {len(dataset)} examples, {lost} of them wholly")
