"""What is trained: a new LoRA adapter, an earlier run's, or all weights; and bases with an adapter merged in."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, SetupError, nearest
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.launch import rank
from toolrl_cli.training.models import BASE_FOLDER, ModelSource, choose_dtype

if TYPE_CHECKING:
    from peft import LoraConfig

LORA_FIELDS = ("lora_rank", "lora_alpha", "lora_targets")


def check_tuning(config: TrainingConfig, source: ModelSource) -> None:
    """Refuse what the model cannot be tuned by, and tell of options that stay without effect.

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
    unused = [name for name in LORA_FIELDS if getattr(config, name) != getattr(TrainingConfig, name)]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
    if unused and config.tuning == "full" and rank() == 0:
        log(f"--tuning full trains all weights, without {options}")
    elif unused and config.adapter == "continue" and source.adapter and rank() == 0:
        log(f"{source.adapter}: its adapter is trained on as it is, without {options}; --adapter merge makes a new one")
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


def new_adapter(config: TrainingConfig, model: Any) -> LoraConfig:
    """The LoRA adapter that the options describe, for a model; raise `ConfigError` for a layer that it has not."""
    from peft import LoraConfig

    names = [name.strip() for name in config.lora_targets.split(",")]
    if config.lora_targets != "all-linear":
        check_targets(names, model)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        target_modules=config.lora_targets if config.lora_targets == "all-linear" else names,
        task_type="CAUSAL_LM",
    )


def check_targets(names: Sequence[str], model: Any) -> None:
    """Raise `ConfigError` for a name that ends no module's path; PEFT passes over it where another one fits."""
    paths = [path for path, _ in model.named_modules() if path]
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            known = sorted({path.rpartition(".")[2] for path in paths})
            raise ConfigError(f"--lora-targets: no layer {name!r} in the model{nearest(name, known)}")
