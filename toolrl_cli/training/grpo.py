"""GRPO under a tool-call reward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.formats import NATIVE
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.manifest import FILE_NAME
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.rewards import find_reward
from toolrl_cli.training.arguments import build_arguments
from toolrl_cli.training.completions import Recorder, completion_log
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.data import grpo_dataset, read_examples
from toolrl_cli.training.live_tools import load_live_tools
from toolrl_cli.training.models import quiet_libraries
from toolrl_cli.training.run import COMPLETIONS_FILE, Materials, RunSummary, run_training
from toolrl_cli.training.text_format import choose_format
from toolrl_cli.training.watching import show_samples

if TYPE_CHECKING:
    from transformers import Trainer


def train_grpo(config: GrpoConfig) -> RunSummary:
    """Train a model by GRPO on `config.data` under `config.reward`.

    Raises:
        DataError: the data is missing, malformed or empty.
        ConfigError: an option, the reward, a training argument or the output folder is refused.
        SetupError: the model cannot be had.
    """
    from accelerate import PartialState
    from trl import GRPOConfig

    from toolrl_cli.training.flat_groups import FlatGroupFilter
    from toolrl_cli.training.preflight import Preflight, rehearse

    quiet_libraries()
    reward = find_reward(config.reward, matching=config.matching, settings=config.reward_settings)
    tools = load_live_tools(config.tools) if config.tools else None
    text_format = settle_format(config)
    examples = read_examples(config.data, text_format, config.limit)
    examples = tools.serve(examples) if tools else examples
    prompts = config.batch_size // config.num_generations
    if len(examples) < prompts:
        raise DataError(f"{config.data}: {len(examples)} examples, but a step takes {prompts}; lower --batch-size")
    own = {
        "lr_scheduler_type": "constant_with_warmup",
        "num_generations": config.num_generations,
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
        "beta": config.beta,
        "reward_weights": list(reward.weights.values()),
    }
    arguments = build_arguments(GRPOConfig, config, own)

    def build_trainer(materials: Materials) -> Trainer:
        stop_ids = {materials.tokenizer.eos_token_id, *stop_token_ids(materials.model.generation_config)}
        sinks = [completion_log(config.output / COMPLETIONS_FILE)]
        if config.show_every and PartialState().is_main_process:
            sinks.append(show_samples(examples, config.show_every))
        recorder = Recorder(*sinks)
        trainer = FlatGroupFilter(
            materials.model,
            BatchScorer(reward, stop_ids, recorder, text_format=text_format.name).functions(),
            arguments,
            train_dataset=grpo_dataset(examples, text_format, materials.tokenizer, as_messages=tools is not None),
            processing_class=materials.tokenizer,
            peft_config=materials.peft_config,
            recorder=recorder,
            rounds=config.resample_rounds * config.drop_flat_groups,
            **(tools.trainer_options if tools else {}),
        )
        if config.preflight:
            trainer.add_callback(Preflight(trainer, recorder, config))
        return trainer

    hashes = {"reward": reward.digest, **({"tools": tools.digest} if tools else {})}
    summary = run_training("grpo", config, text_format, hashes, build_trainer)
    if config.dry_run and config.preflight and not summary.manifest.finished:
        return replace(summary, preflight=rehearse(config, arguments, build_trainer))
    return summary


def settle_format(config: GrpoConfig) -> TextFormat:
    """The text format of a run; with live tools it is that of the model's chat template, which TRL's tool loop reads.

    Raises:
        ConfigError: as `choose_format`, or the model was trained in another format than live tools need.
    """
    if not config.tools:
        return choose_format(config.model, config.format, config.template)
    native = choose_format(config.model, NATIVE)
    asked = choose_format(config.model, config.format, config.template) if trained_or_told(config) else native
    if asked.digest != native.digest:
        raise ConfigError(
            f"--tools needs the format of the model's chat template, {native.name}, not {asked.name}; "
            "start from the base model or from a run of toolrl sft --format native"
        )
    return native


def trained_or_told(config: GrpoConfig) -> bool:
    """Whether the model's run or an option decides the text format."""
    return bool(config.format or config.template) or (Path(config.model) / FILE_NAME).is_file()


def stop_token_ids(generation_config: object) -> list[int]:
    """The token ids that the model itself declares as ends of a completion."""
    declared = getattr(generation_config, "eos_token_id", None)
    if declared is None:
        return []
    return [declared] if isinstance(declared, int) else list(declared)
