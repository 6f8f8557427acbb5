"""TRL's own training arguments: what toolrl sets, what the user overrides, and both checked."""

from __future__ import annotations

from dataclasses import fields, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from toolrl_cli.errors import ConfigError, UsageError, first_line, nearest
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.launch import world_size
from toolrl_cli.training.models import find_device

if TYPE_CHECKING:
    from trl.trainer.base_config import _BaseConfig

C = TypeVar("C", bound=TrainingConfig)
DECIDED = {
    "output_dir": "the run folder is what --output names",
    "per_device_train_batch_size": "give --batch-size and --micro-batch-size",
    "gradient_accumulation_steps": "give --batch-size and --micro-batch-size",
    "chat_template_kwargs": "prompts are those of sft and eval, which take none",
    "num_train_epochs": "give --epochs",
    "resume_from_checkpoint": "give --resume",
    "reward_weights": "give --reward NAME=WEIGHT",
    "remove_unused_columns": "the reward reads the columns of the data",
    "model_init_kwargs": "toolrl loads the model itself; give --tuning",
    "hub_token": "it would stand in the manifest; log in with hf auth login",
}
"""Arguments of TRL that follow from options of toolrl, or that it cannot leave to the user."""


def build_arguments(kind: type[_BaseConfig], config: TrainingConfig, own: dict[str, Any]) -> _BaseConfig:
    """TRL arguments from the shared configuration, the command's `own` ones and the user's overrides.

    Raises:
        UsageError: an override is no field of the class, or the class refuses a value.
    """
    check_overrides(kind, config)
    try:
        return kind(**shared_arguments(config) | own | config.overrides)
    except (ValueError, TypeError) as error:
        raise UsageError(f"trl.{kind.__name__} refuses these arguments: {first_line(error)}") from error


def adopt_overrides(kind: type[_BaseConfig], config: C) -> C:
    """The configuration in which an option that `--set` names as well has the value of `--set`.

    Raises:
        UsageError: as `build_arguments`, or the option refuses the value.
    """
    check_overrides(kind, config)
    own = {field.name for field in fields(config)}
    try:
        return replace(config, **{name: value for name, value in config.overrides.items() if name in own})
    except ConfigError as error:
        raise UsageError(str(error)) from error


def check_overrides(kind: type[_BaseConfig], config: TrainingConfig) -> None:
    """Raise `UsageError` for an override that is unknown, of another type, or not the user's to set."""
    known = [field.name for field in fields(kind) if field.init]
    hints = get_type_hints(kind) | get_type_hints(type(config))
    for name, value in config.overrides.items():
        if name in DECIDED:
            raise UsageError(f"--set {name}: {DECIDED[name]}")
        if name not in known:
            raise UsageError(f"--set {name}: no argument of trl.{kind.__name__}{nearest(name, known)}")
        if not fits(value, hints[name]):
            raise UsageError(f"--set {name}={value}: trl.{kind.__name__} wants {show_type(hints[name])}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value read from YAML is of a type, at every depth."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value is choice or (isinstance(choice, str) and value == choice) for choice in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint is Any or type(value) is hint


def show_type(hint: Any) -> str:
    """A type as a person writes it: `float`, `int | None`."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
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
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "seed": config.seed,
        "bf16": True,
        "use_cpu": on_cpu,
        "gradient_checkpointing": not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
        "report_to": [str(tracker) for tracker in config.track] or "none",
        "run_name": str(config.output),
        "project": "toolrl",
        "trackio_static_space_id": False,  # else pushing a model would publish its logs too
        "disable_tqdm": True,
    }
