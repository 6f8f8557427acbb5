"""What is trained: a new LoRA adapter, an earlier run's, or all weights; and bases with an adapter merged in."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.models import BASE_FOLDER, ModelSource, choose_dtype

if TYPE_CHECKING:
    from peft import LoraConfig


def check_tuning(config: TrainingConfig, source: ModelSource) -> None:
    """Refuse what the model cannot be tuned by.

    Raises:
        ConfigError: all weights are to be trained below an adapter, or none is there to merge.
        SetupError: bitsandbytes is wanted and not installed.
    """
    if config.adapter == "merge" and not source.adapter:
        raise ConfigError(f"--adapter merge: {config.model} has no adapter")
    if config.tuning == "full" and config.adapter == "continue" and source.adapter:
        raise ConfigError(
            f"{source.adapter}: is a LoRA run; --tuning full needs a full model to start from, or --adapter merge"
        )
    if config.tuning == "qlora" and not find_spec("bitsandbytes"):
        raise SetupError("--tuning qlora: bitsandbytes is missing; python -m pip install bitsandbytes")


def starting_point(config: TrainingConfig, source: ModelSource) -> ModelSource:
    """Where training starts: the model, or for a merged adapter the base in the run folder that `save_base` makes."""
    if config.adapter == "continue":
        return source
    base = (config.output / BASE_FOLDER).resolve()
    return replace(source, base=base, base_name=str(base), adapter=None)


def save_base(model: Any, tokenizer: Any, folder: Path, *, full_precision: bool) -> None:
    """Save a float32 model with its adapter merged in, in the precision it is loaded with; whole or not at all."""
    merged = model.merge_and_unload().to(choose_dtype(full_precision=full_precision))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        made = Path(temporary) / folder.name
        merged.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.replace(folder)


def new_adapter(config: TrainingConfig) -> LoraConfig:
    """The LoRA adapter that the options describe."""
    from peft import LoraConfig

    names = [name.strip() for name in config.lora_targets.split(",")]
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        target_modules=config.lora_targets if config.lora_targets == "all-linear" else names,
        task_type="CAUSAL_LM",
    )
