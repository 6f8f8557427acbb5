"""TRL's own training arguments: what toolrl sets, what the user overrides, and both checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from importlib.util import find_spec
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from toolrl_cli.errors import ConfigError, SetupError, UsageError, first_line, nearest
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
    "report_to": "give --track",
    "use_vllm": "give --vllm",
    "vllm_mode": "give --vllm",
    "use_transformers_paged": "give --continuous-batching",
    "eval_strategy": "no data is held out; toolrl eval measures a run",
    "eval_on_start": "no data is held out; toolrl eval measures a run",
    "load_best_model_at_end": "no data is held out; toolrl eval measures a run",
    "assistant_only_loss": "sft learns the completion of each example only",
    "save_strategy": "give --save-steps",
    "push_to_hub": "give --push-to-hub ORG/NAME",
    "deepspeed": "give --accelerate-config",
    "fsdp": "give --accelerate-config",
    "hub_token": "it would stand in the manifest; log in with hf auth login",
}
"""Arguments of TRL that follow from options of toolrl, or that it cannot leave to the user."""

ONE_ROW = ("prompt_lookup_num_tokens", "assistant_early_exit")
"""Settings of generation that transformers takes for a batch of one row only."""
BOUNDS = {
    "num_iterations": "[1, inf)",
    "steps_per_generation": "[1, inf)",
    "generation_batch_size": "[1, inf)",
    "ref_model_sync_steps": "[1, inf)",
    "max_tool_calling_iterations": "[1, inf)",
    "top_k": "[0, inf)",
    "top_p": "[0, 1]",
    "min_p": "[0, 1]",
    "repetition_penalty": "(0, inf)",
    "top_entropy_quantile": "[0, 1]",
    "ref_model_mixup_alpha": "[0, 1]",
    "vllm_gpu_memory_utilization": "(0, 1]",
    "epsilon": "[0, inf)",
    "epsilon_high": "[0, inf)",
    "delta": "(0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "max_grad_norm": "[0, inf)",
    "label_smoothing_factor": "[0, 1]",
    "logging_steps": "(0, inf)",
    "dataloader_num_workers": "[0, inf)",
}
"""Intervals of arguments that TRL takes as they come, to fail or to train wrongly with later."""
CHOICES = {"importance_sampling_level": ["token", "sequence"]}
"""Values of an argument that TRL takes as any text and refuses at the first step."""
WORDS = {"yes": True, "on": True, "no": False, "off": False}
"""What means a truth value where one is wanted, and itself where text is."""


def build_arguments(kind: type[_BaseConfig], config: TrainingConfig, own: dict[str, Any]) -> _BaseConfig:
    """TRL arguments from the shared configuration, the command's `own` ones and the user's overrides.

    Raises:
        UsageError: an override is no field of the class, or the class refuses a value, alone or beside another.
        SetupError: a package that one needs is missing.
    """
    check_overrides(kind, config)
    try:
        made = kind(**shared_arguments(config) | own | config.overrides)
    except (ValueError, TypeError) as error:
        raise UsageError(f"trl.{kind.__name__} refuses these arguments: {first_line(error)}") from error
    check_company(made)
    return made


def adopt_overrides(kind: type[_BaseConfig], config: C) -> C:
    """The configuration in which an option that `--set` names as well has the value of `--set`.

    Raises:
        UsageError: as `build_arguments`, or the option refuses the value.
    """
    hints = get_type_hints(kind)
    settled = {name: settle(value, hints.get(name, str)) for name, value in config.overrides.items()}
    config = replace(config, overrides=settled)
    check_overrides(kind, config)
    own = {field.name for field in fields(config)}
    try:
        return replace(config, **{name: value for name, value in config.overrides.items() if name in own})
    except ConfigError as error:
        raise UsageError(str(error)) from error


def settle(value: object, hint: Any) -> object:
    """An override as its type wants it: `no` is a truth value only where no text is taken; YAML takes it as one."""
    if value is False and "no" in enum_values(hint):
        return "no"
    if isinstance(value, str) and value in WORDS and not fits(value, hint) and fits(WORDS[value], hint):
        return WORDS[value]
    return value


def check_overrides(kind: type[_BaseConfig], config: TrainingConfig) -> None:
    """Raise `UsageError` for an override that is unknown, of another type, out of bounds, or not the user's to set."""
    known = [field.name for field in fields(kind) if field.init]
    hints = get_type_hints(kind) | get_type_hints(type(config))
    for name, value in config.overrides.items():
        if name in DECIDED:
            raise UsageError(f"--set {name}: {DECIDED[name]}")
        if name not in known:
            raise UsageError(f"--set {name}: no argument of trl.{kind.__name__}{nearest(name, known)}")
        if not fits(value, hints[name]):
            raise UsageError(f"--set {name}={value}: trl.{kind.__name__} wants {show_type(hints[name])}")
        check_value(name, value, hints[name])


def check_value(name: str, value: object, hint: Any) -> None:
    """Raise `UsageError` for an override of the right type whose value is out of bounds, or no choice of its enum."""
    where = f"--set {name}={value}"
    if name in BOUNDS and isinstance(value, int | float) and not lies_in(value, BOUNDS[name]):
        raise UsageError(f"{where}: must lie in {BOUNDS[name]}")
    if name.endswith("_kwargs") and isinstance(value, str):
        raise UsageError(f"{where}: must be a mapping, as {{name: value}}")
    choices = CHOICES.get(name) or enum_values(hint)
    if choices and isinstance(value, str) and value not in choices:
        raise UsageError(f"{where}: unknown{nearest(value, choices) or '; choose from ' + ', '.join(choices)}")


def check_company(arguments: _BaseConfig) -> None:
    """Refuse what TRL's arguments lack to be trained with; raise as `build_arguments`."""
    from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

    if arguments.use_liger_kernel and not find_spec("liger_kernel"):
        raise SetupError(
            "--set use_liger_kernel: liger-kernel is not installed; run: python -m pip install liger-kernel"
        )
    if getattr(arguments, "sync_ref_model", False) and getattr(arguments, "beta", None) == 0:
        raise UsageError("--set sync_ref_model: without --beta there is no reference model")
    cache = getattr(arguments, "cache_implementation", None)
    if cache is not None and cache not in ALL_CACHE_IMPLEMENTATIONS:
        raise UsageError(f"--set cache_implementation={cache}: unknown{nearest(cache, ALL_CACHE_IMPLEMENTATIONS)}")
    generation = getattr(arguments, "generation_kwargs", None)
    if generation and not getattr(arguments, "use_vllm", False):
        check_generation(generation)


def check_generation(settings: Mapping[str, object]) -> None:
    """Raise `UsageError` for a setting that transformers' generation has not, which it would pass over."""
    from transformers import GenerationConfig

    known = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"--set generation_kwargs: {name} is no setting of generation{nearest(name, known)}")
        if name in BOUNDS and isinstance(value, int | float) and not lies_in(value, BOUNDS[name]):
            raise UsageError(f"--set generation_kwargs: {name}={value} must lie in {BOUNDS[name]}")
        if name in ONE_ROW and value is not None:
            raise UsageError(f"--set generation_kwargs: {name} writes one completion at a time; leave it out")


def lies_in(value: float, interval: str) -> bool:
    """Whether a number lies in an interval as `[0, 1)`; NaN lies in none."""
    low, high = map(float, interval[1:-1].split(", "))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def enum_values(hint: Any) -> list[str]:
    """The values of the enumeration that a type is, or has among its options."""
    kinds = [option for option in get_args(hint) or (hint,) if isinstance(option, type) and issubclass(option, Enum)]
    return [str(member.value) for kind in kinds for member in kind]


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
        "bf16": not config.overrides.get("fp16"),
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
