"""TRL's own training arguments: what toolrl sets, what the user overrides, and both checked."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from toolrl_cli.errors import UsageError, first_line, nearest
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.launch import world_size
from toolrl_cli.training.models import find_device

if TYPE_CHECKING:
    from trl.trainer.base_config import _BaseConfig

REFUSED = {
    "output_dir": "the run folder is what --output names",
    "chat_template_kwargs": "prompts are those of sft and eval, which take none",
}
"""TRL arguments that cannot be set, and why."""


def build_arguments(kind: type[_BaseConfig], config: TrainingConfig, own: dict[str, Any]) -> _BaseConfig:
    """TRL arguments from the shared configuration, the command's `own` ones and the user's overrides.

    Raises:
        UsageError: an override is no field of the class, or the class refuses a value.
    """
    known = [field.name for field in fields(kind) if field.init]
    hints = get_type_hints(kind)
    for name, value in config.overrides.items():
        if name in REFUSED:
            raise UsageError(f"--set {name}: {REFUSED[name]}")
        if name not in known:
            raise UsageError(f"--set {name}: no argument of trl.{kind.__name__}{nearest(name, known)}")
        if isinstance(value, str) and not takes_text(hints[name]):
            raise UsageError(f"--set {name}={value}: trl.{kind.__name__} wants {show_type(hints[name])}")
    try:
        return kind(**shared_arguments(config) | own | config.overrides)
    except (ValueError, TypeError) as error:
        raise UsageError(f"trl.{kind.__name__} refuses these arguments: {first_line(error)}") from error


def takes_text(hint: Any) -> bool:
    """Whether a string may stand where this type is wanted."""
    return str in (hint, *get_args(hint))


def show_type(hint: Any) -> str:
    """A type as a person writes it: `float`, `int | None`."""
    return hint.__name__ if isinstance(hint, type) else str(hint)


def shared_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Arguments that SFT and GRPO set alike."""
    on_cpu = find_device().type == "cpu"
    micro_batch_size, accumulation_steps = config.share_batch(world_size())
    return {
        "output_dir": str(config.output / "checkpoints"),
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 1,
        "seed": config.seed,
        "bf16": True,
        "use_cpu": on_cpu,
        "gradient_checkpointing": not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
