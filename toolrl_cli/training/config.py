"""What a training run is told, each option worded once: the command line, YAML and manifest take it from here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from toolrl_cli.errors import ConfigError

if TYPE_CHECKING:
    from toolrl_cli.records import Json

SharedPrefix = Literal["auto", "on", "off"]
FormatName = Literal["toolrl", "hermes", "llama3", "native"]
MAY_BE_ZERO = ("seed", "beta")
RUN_FIELDS = ("output", "seed", "save_steps", "resume", "overwrite", "dry_run")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What SFT and GRPO share."""

    data: Annotated[Path, "Examples from toolrl prepare."]
    model: Annotated[str, "Folder, earlier run, .gguf file, Hub id, or smollm2-135m."]
    output: Annotated[Path, "Run folder to write."]
    tuning: Annotated[Literal["lora", "full"], "Train a LoRA adapter, or all weights."] = "lora"
    lora_rank: Annotated[int, "Rank of a new LoRA adapter, on all linear layers."] = 16
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
    resume: Annotated[bool, "Continue an interrupted run from its last checkpoint."] = False
    overwrite: Annotated[bool, "Replace an output that exists."] = False
    dry_run: Annotated[bool, "Check everything, print the resolved plan and stop."] = False

    def __post_init__(self) -> None:
        """Refuse what no run can be made of; raise `ConfigError`."""
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not (value >= 0 if name in MAY_BE_ZERO else value > 0):
                lowest = "0 or more" if name in MAY_BE_ZERO else "above 0"
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be {lowest}")
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ConfigError(
                f"--batch-size {self.batch_size} must be a multiple of --micro-batch-size {self.micro_batch_size}"
            )

    def recorded(self) -> Json:
        """The fields that decide the result, as JSON values for the manifest."""
        values = {name: value for name, value in asdict(self).items() if name not in RUN_FIELDS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainingConfig):
    """Supervised fine-tuning."""

    learning_rate: Annotated[float, "Peak learning rate (cosine schedule)."] = 2e-4
    batch_size: Annotated[int, "Examples in one optimizer step."] = 16
    max_length: Annotated[int, "Longest prompt and completion together, in tokens; more is cut off."] = 2048


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(TrainingConfig):
    """GRPO; a step takes `batch_size / num_generations` prompts."""

    learning_rate: Annotated[float, "Learning rate (constant)."] = 1e-5
    batch_size: Annotated[int, "Completions in one optimizer step, over all its prompts."] = 32
    reward: Annotated[str, "Preset, .yaml file of a reward spec, or module:function."] = "fine-grained"
    matching: Annotated[
        Literal["optimal", "greedy"] | None, "How calls are paired: as the paper says, or its released code."
    ] = None
    reward_settings: Annotated[dict[str, Any], "A value of the reward spec, as part.key=value."] = field(
        default_factory=dict
    )
    num_generations: Annotated[int, "Completions for each prompt: the group."] = 8
    max_completion_length: Annotated[int, "Longest completion, in tokens."] = 256
    temperature: Annotated[float, "Sampling temperature."] = 1.0
    beta: Annotated[float, "Weight of the KL divergence from the starting model."] = 0.0
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
