"""GRPO under a tool-call reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.stops import stop_token_ids
from toolrl_cli.manifest import hash_file
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.records import Example
from toolrl_cli.rewards import Reward, find_reward
from toolrl_cli.training.arguments import adopt_overrides, build_arguments
from toolrl_cli.training.completions import Recorder, completion_log
from toolrl_cli.training.config import AUTO, GrpoConfig
from toolrl_cli.training.curriculum import sort_examples
from toolrl_cli.training.data import grpo_dataset, read_examples
from toolrl_cli.training.launch import rank
from toolrl_cli.training.live_tools import LiveTools, choose_live_format, load_live_tools
from toolrl_cli.training.models import load_tokenizer, quiet_libraries, resolve_model
from toolrl_cli.training.plan import drop_long_prompts, grpo_steps, plan_grpo, prompt_lengths, prompts_at_once
from toolrl_cli.training.run import COMPLETIONS_FILE, Materials, RunSummary, run_training
from toolrl_cli.training.text_format import choose_format
from toolrl_cli.training.watching import show_samples

if TYPE_CHECKING:
    from transformers import Trainer
    from trl import GRPOConfig


@dataclass(frozen=True)
class Setup:
    """What a run is made of once everything is read and has proved good; `arguments` are TRL's."""

    config: GrpoConfig
    arguments: GRPOConfig
    text_format: TextFormat
    examples: list[Example]
    reward: Reward
    tools: LiveTools | None

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of what decides the result beside data, format and weights."""
        files = {"order": self.config.by, "tools": self.config.tools}
        return {"reward": self.reward.digest} | {name: hash_file(path) for name, path in files.items() if path}


def train_grpo(config: GrpoConfig) -> RunSummary:
    """Train a model by GRPO on `config.data` under `config.reward`.

    Raises:
        DataError: the data is missing, malformed or empty.
        ConfigError: an option, the reward, a training argument or the output folder is refused.
        SetupError: the model cannot be had.
        GateFailed: the preflight finds no signal.
        TrainingStopped: a sentinel stopped the run.
    """
    quiet_libraries()
    setup = read_setup(config)
    build = partial(build_trainer, setup)
    summary = run_training("grpo", setup.config, setup.text_format, setup.hashes, build)
    return foretell(setup, summary, build) if config.dry_run else summary


def read_setup(config: GrpoConfig) -> Setup:
    """Everything but the model; raise as `train_grpo`."""
    from trl import GRPOConfig

    tools = load_live_tools(config.tools) if config.tools else None
    choose = choose_live_format if tools else choose_format
    text_format = choose(config.model, config.format, config.template)
    config = adopt_overrides(GRPOConfig, config)
    arguments = build_arguments(GRPOConfig, config, own_arguments(config))
    examples = choose_examples(config, text_format, tools)
    prompts = prompts_at_once(arguments)
    if len(examples) < prompts:
        raise DataError(f"{config.data}: {len(examples)} examples, but a step takes {prompts}; lower --batch-size")
    config = settle_horizon(config, grpo_steps(arguments, len(examples)))
    reward = find_reward(config.reward, matching=config.matching, settings=config.reward_settings)
    arguments.reward_weights = list(reward.weights.values())
    return Setup(config, arguments, text_format, examples, reward, tools)


def build_trainer(setup: Setup, materials: Materials) -> Trainer:
    """TRL's trainer with shared prefixes, the filter of flat groups, exact resume, and what records and rehearses."""
    from toolrl_cli.training.flat_groups import FlatGroupFilter
    from toolrl_cli.training.preflight import Preflight
    from toolrl_cli.training.trainers import equip

    config, tools, tokenizer = setup.config, setup.tools, materials.tokenizer
    stop_ids = set(stop_token_ids(tokenizer, materials.model.generation_config))
    sinks = [completion_log(config.output / COMPLETIONS_FILE)]
    if config.show_every and rank() == 0:
        sinks.append(show_samples(setup.examples, config.show_every))
    recorder = Recorder(*sinks)
    trainer = equip(FlatGroupFilter)(
        materials.model,
        BatchScorer(setup.reward, stop_ids, recorder, text_format=setup.text_format.name).functions(),
        setup.arguments,
        train_dataset=grpo_dataset(setup.examples, setup.text_format, tokenizer, as_messages=tools is not None),
        processing_class=tokenizer,
        peft_config=materials.peft_config,
        shared_prefix=config.shared_prefix,
        recorder=recorder,
        rounds=config.resample_rounds * config.drop_flat_groups,
        **(tools.trainer_options if tools else {}),
    )
    if config.preflight:
        trainer.add_callback(Preflight(trainer, recorder, config))
    return trainer


def foretell(setup: Setup, summary: RunSummary, build: Callable[[Materials], Trainer]) -> RunSummary:
    """The summary of a dry run with its plan, and its preflight where one is asked for."""
    from toolrl_cli.training.preflight import rehearse

    config, text_format = setup.config, setup.text_format
    if config.preflight and not summary.manifest.finished:
        summary = replace(summary, preflight=rehearse(config, setup.arguments, build))
    source = resolve_model(config.model)
    tokenizer = load_tokenizer(source)
    lengths = prompt_lengths(setup.examples, text_format, tokenizer)
    golds = tokenizer([text_format.render_target(example.target) for example in setup.examples])["input_ids"]
    targets = [len(gold) + 1 for gold in golds]
    return replace(summary, plan=plan_grpo(config, setup.arguments, lengths, targets, source))


def own_arguments(config: GrpoConfig) -> dict[str, Any]:
    """What GRPO sets of TRL's arguments; LUSPO is defined on whole completions (arXiv 2602.05261)."""
    return {
        "lr_scheduler_type": "constant_with_warmup",
        "num_generations": config.num_generations,
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
        "beta": config.beta,
        "loss_type": config.loss_type,
        "importance_sampling_level": "sequence" if config.loss_type == "luspo" else "token",
        "scale_rewards": config.scale_rewards,
        "multi_objective_aggregation": config.multi_objective_aggregation,
        "shuffle_dataset": config.order is None,
        "use_transformers_continuous_batching": config.continuous_batching,
        **vllm_arguments(config),
    }


def choose_examples(config: GrpoConfig, text_format: TextFormat, tools: LiveTools | None) -> list[Example]:
    """The examples to train on, in their order: those with a prompt of a length that is allowed."""
    examples = read_examples(config.data, text_format, config.limit)
    examples = tools.serve(examples) if tools else examples
    if config.order and config.by:
        examples = sort_examples(examples, config.order, config.by)
    if config.max_prompt_length is None:
        return examples
    lengths = prompt_lengths(examples, text_format, load_tokenizer(resolve_model(config.model)))
    return drop_long_prompts(examples, lengths, config.max_prompt_length)


def settle_horizon(config: GrpoConfig, steps: int) -> GrpoConfig:
    """The configuration in which `--horizon` is a setting of the reward, `auto` being the steps of the run.

    Raises:
        ConfigError: the reward has no schedule that it could stretch, or is refused.
    """
    if config.horizon is None:
        return config
    horizon = steps if config.horizon == AUTO else int(config.horizon)
    settings = [{**config.reward_settings, "horizon": length} for length in (horizon, 2 * horizon)]
    if len({find_reward(config.reward, settings=each).digest for each in settings}) == 1:
        raise ConfigError(f"--horizon {config.horizon}: the reward {config.reward} has no schedule to stretch")
    return replace(config, reward_settings=settings[0])


def vllm_arguments(config: GrpoConfig) -> dict[str, Any]:
    """TRL's settings for generation by vLLM; raise `SetupError` where it is wanted but not installed."""
    if config.vllm is None:
        return {}
    if find_spec("vllm") is None:
        raise SetupError("--vllm: vllm is not installed; run: python -m pip install vllm, or leave the option out")
    return {"use_vllm": True, "vllm_mode": config.vllm}
