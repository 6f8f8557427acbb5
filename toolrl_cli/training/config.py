"""What a training run is told, each option worded once: the command line, YAML and manifest take it from here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from toolrl_cli.errors import ConfigError, SetupError, UsageError
from toolrl_cli.training.sentinels import read_limits

if TYPE_CHECKING:
    from toolrl_cli.records import Json

SharedPrefix = Literal["auto", "on", "off"]
FormatName = Literal["toolrl", "hermes", "llama3", "native"]
LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
AUTO = "auto"
MAY_BE_ZERO = ("seed", "beta")
RUN_FIELDS = (
    *("output", "seed", "save_steps", "sentinels", "resume", "overwrite", "dry_run"),
    *("num_processes", "accelerate_config", "push_to_hub"),
)
WATCHING_FIELDS = ("track", "show_every", "preflight", "force")
"""What tells of a run and leaves its result as it is."""


class Tracker(StrEnum):
    """Where metrics can be reported to, named as their packages are."""

    TRACKIO = "trackio"
    WANDB = "wandb"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What SFT and GRPO share."""

    data: Annotated[Path, "Examples from toolrl prepare."]
    model: Annotated[str, "Folder, earlier run, .gguf file, Hub id, or smollm2-135m."]
    output: Annotated[Path, "Run folder to write."]
    tuning: Annotated[
        Literal["lora", "qlora", "full"], "Train a LoRA adapter, one on a base in 4 bits, or all weights."
    ] = "lora"
    adapter: Annotated[
        Literal["continue", "merge"], "An adapter that the model has: train it on, or merge it into the base first."
    ] = "continue"
    lora_rank: Annotated[int, "Rank of a new LoRA adapter."] = 16
    lora_alpha: Annotated[int | None, "Scale of a new LoRA adapter is this by its rank (else twice the rank)."] = None
    lora_targets: Annotated[str, "Layers with a new LoRA adapter: all-linear, or names as q_proj,v_proj."] = (
        "all-linear"
    )
    learning_rate: Annotated[float, "Learning rate."]
    batch_size: Annotated[int, "Completions in one optimizer step."]
    micro_batch_size: Annotated[int, "Completions in one forward pass; lower it when memory runs out."] = 8
    epochs: Annotated[float, "Passes over the data."] = 1.0
    max_steps: Annotated[int | None, "Optimizer steps; wins over --epochs."] = None
    save_steps: Annotated[int, "Optimizer steps between checkpoints."] = 20
    limit: Annotated[int | None, "Use only this many examples."] = None
    seed: Annotated[int, "Seed of every random choice."] = 0
    format: Annotated[FormatName | None, "Text format (else that of the run it starts from, else toolrl)."] = None
    template: Annotated[Path | None, "Jinja file that words the toolrl format."] = None
    overrides: Annotated[dict[str, Any], "Any argument of the TRL config class, as key=value."] = field(
        default_factory=dict
    )
    track: Annotated[list[Tracker], "Also report the metrics to this tracker; repeat for more."] = field(
        default_factory=list
    )
    sentinels: Annotated[dict[str, Any], "Limit of what stops a run gone wrong, as name=limit or name=off."] = field(
        default_factory=dict
    )
    num_processes: Annotated[int | None, "Processes that share a batch, one a device."] = None
    accelerate_config: Annotated[Path | None, "File of accelerate config: FSDP, DeepSpeed, several machines."] = None
    push_to_hub: Annotated[str | None, "ORG/NAME on the Hub to upload the finished run to, private if new."] = None
    resume: Annotated[bool, "Continue an interrupted run from its last checkpoint."] = False
    overwrite: Annotated[bool, "Replace an output that exists."] = False
    dry_run: Annotated[bool, "Check everything, print the resolved plan and stop."] = False

    def __post_init__(self) -> None:
        """Refuse what no run can be made of: raise `ConfigError`, or `SetupError` for a tracker that is missing."""
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not (value >= 0 if name in MAY_BE_ZERO else value > 0):
                lowest = "0 or more" if name in MAY_BE_ZERO else "above 0"
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be {lowest}")
            if value == inf:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be finite")
        for tracker in self.track:
            if getattr(find_spec(tracker), "origin", None) is None:  # none has a folder that a tracker wrote, either
                raise SetupError(f"--track {tracker}: {tracker} is not installed; run: python -m pip install {tracker}")
        if str(self.data) == "-":
            raise UsageError("-: training data cannot come from standard input; give a file of toolrl prepare")
        if self.resume and self.overwrite:
            raise UsageError("--resume continues what --overwrite would delete; leave one out")
        read_limits(self.sentinels)
        self.share_batch(self.num_processes or 1)

    def share_batch(self, processes: int) -> tuple[int, int]:
        """The completions in one forward pass of each of some processes, and its passes in an optimizer step.

        Raises:
            ConfigError: the batch does not divide so.
        """
        share, rest = divmod(self.batch_size, processes)
        if rest or share == 0:
            raise ConfigError(f"--batch-size {self.batch_size} must be a multiple of the {processes} processes")
        micro = min(self.micro_batch_size, share)
        if share % micro:
            times = f" times {processes} processes" if processes > 1 else ""
            raise ConfigError(
                f"--batch-size {self.batch_size} must be a multiple of "
                f"--micro-batch-size {self.micro_batch_size}{times}"
            )
        return micro, share // micro

    def recorded(self) -> Json:
        """The fields that decide the result, as JSON values for the manifest."""
        values = {name: value for name, value in asdict(self).items() if name not in RUN_FIELDS + WATCHING_FIELDS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainingConfig):
    """Supervised fine-tuning."""

    preset: Annotated[Literal["laptop", "single-gpu"] | None, "Options for a kind of machine; others win."] = None
    learning_rate: Annotated[float, "Peak learning rate (cosine schedule)."] = 2e-4
    batch_size: Annotated[int, "Examples in one optimizer step."] = 16
    max_length: Annotated[int, "Longest prompt and completion together, in tokens; more is cut off."] = 2048


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(TrainingConfig):
    """GRPO; a step takes `batch_size / num_generations` prompts."""

    preset: Annotated[
        Literal["toolrl-paper", "laptop", "single-gpu"] | None,
        "Options of the paper, or for a kind of machine; others win.",
    ] = None
    learning_rate: Annotated[float, "Learning rate (constant)."] = 1e-5
    batch_size: Annotated[int, "Completions in one optimizer step, over all its prompts."] = 32
    reward: Annotated[str, "Preset, .yaml file or module:function, with =WEIGHT; repeat to add them up."] = (
        "fine-grained"
    )
    matching: Annotated[
        Literal["optimal", "greedy"] | None, "How calls are paired: as the paper says, or its released code."
    ] = None
    reward_settings: Annotated[dict[str, Any], "A value of the reward spec, as part.key=value."] = field(
        default_factory=dict
    )
    tools: Annotated[
        Path | None, "Python file whose functions, or class with state, run as tools: trains on whole trajectories."
    ] = None
    horizon: Annotated[
        str | None, "Stretch the reward's schedules, made for 105 steps, to so many, or to the run's (auto)."
    ] = None
    order: Annotated[
        Literal["easy-first", "hard-first"] | None, "Order of the examples, by their mean reward in --by."
    ] = None
    by: Annotated[Path | None, "Scored completions of the examples (toolrl score -o) for --order."] = None
    num_generations: Annotated[int, "Completions for each prompt: the group."] = 8
    max_prompt_length: Annotated[int | None, "Longest prompt, in tokens; examples with longer ones are left out."] = (
        None
    )
    max_completion_length: Annotated[int, "Longest completion, in tokens."] = 256
    temperature: Annotated[float, "Sampling temperature."] = 1.0
    beta: Annotated[float, "Weight of the KL divergence from the starting model."] = 0.0
    vllm: Annotated[Literal["colocate", "server"] | None, "Let vLLM generate, in the same processes or a server."] = (
        None
    )
    continuous_batching: Annotated[
        bool, "Generate by transformers' continuous batching: a finished completion makes room for the next."
    ] = False
    loss_type: Annotated[LossType, "How TRL sums the loss over tokens."] = "dapo"
    scale_rewards: Annotated[
        Literal["group", "batch", "none"],
        "What advantages are divided by: the deviation of the group, the batch, or 1.",
    ] = "group"
    multi_objective_aggregation: Annotated[
        Literal["sum_then_normalize", "normalize_then_sum"],
        "Whether the reward's parts are summed before or after that.",
    ] = "sum_then_normalize"
    drop_flat_groups: Annotated[
        bool, "Replace groups whose rewards are all equal by those of further prompts (DAPO's dynamic sampling)."
    ] = False
    resample_rounds: Annotated[int, "Most rounds of further prompts in a step, with --drop-flat-groups."] = 3
    preflight: Annotated[
        int | None, "First sample this many completions of some prompts and tell what the run will be like."
    ] = None
    force: Annotated[bool, "Train even where the preflight finds no signal."] = False
    show_every: Annotated[int | None, "Show a sample of the completions with their reasons every so many steps."] = None
    shared_prefix: Annotated[
        SharedPrefix, "Compute each prompt once for its group: where that applies, always, or never."
    ] = "auto"

    def __post_init__(self) -> None:
        """Refuse what no group can be made of; raise `ConfigError`."""
        super().__post_init__()
        if self.num_generations < 2 or self.batch_size % self.num_generations:
            raise ConfigError(
                f"--num-generations {self.num_generations}: must be 2 or more and divide --batch-size {self.batch_size}"
            )
        if self.horizon not in (None, AUTO) and not (str(self.horizon).isdecimal() and int(str(self.horizon))):
            raise ConfigError(f"--horizon {self.horizon}: must be auto, or a number of steps above 0")
        if (self.order is None) != (self.by is None):
            raise ConfigError("--order and --by belong together: --order easy-first --by scored.jsonl")
        if self.order and "shuffle_dataset" in self.overrides:
            raise ConfigError("--set shuffle_dataset: --order decides it")
        if self.drop_flat_groups and self.tools:
            raise ConfigError("--drop-flat-groups: samples no dialogues with live tools; leave it or --tools out")
        if self.resample_rounds != GrpoConfig.resample_rounds and not self.drop_flat_groups:
            raise ConfigError("--resample-rounds: is for --drop-flat-groups, which is not given")
        if self.preflight == 1:
            raise ConfigError("--preflight 1: must be 2 or more; one completion has nothing to differ from")
        if self.force and not self.preflight:
            raise ConfigError("--force: is for --preflight, which is not given")
