"""GRPO under a tool-call reward."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.formats import NATIVE
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.manifest import FILE_NAME
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.rewards import find_reward
from toolrl_cli.training.arguments import build_arguments
from toolrl_cli.training.completions import completion_log
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.data import grpo_dataset, read_examples
from toolrl_cli.training.live_tools import load_live_tools
from toolrl_cli.training.models import quiet_libraries
from toolrl_cli.training.run import COMPLETIONS_FILE, Materials, RunSummary, run_training
from toolrl_cli.training.text_format import choose_format

if TYPE_CHECKING:
    from transformers import Trainer


def train_grpo(config: GrpoConfig) -> RunSummary:
    """Train a model by GRPO on `config.data` under `config.reward`.

    Raises:
        DataError: the data is missing, malformed or empty.
        ConfigError: an option, the reward, a training argument or the output folder is refused.
        SetupError: the model cannot be had.
    """
    from trl import GRPOConfig

    from toolrl_cli.training.prompts import WrittenPromptsGRPOTrainer

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
        **vllm_arguments(config),
    }
    arguments = build_arguments(GRPOConfig, config, own)

    def build_trainer(materials: Materials) -> Trainer:
        stop_ids = {materials.tokenizer.eos_token_id, *stop_token_ids(materials.model.generation_config)}
        record = completion_log(config.output / COMPLETIONS_FILE)
        scorer = BatchScorer(reward, stop_ids, record, text_format=text_format.name)
        return WrittenPromptsGRPOTrainer(
            materials.model,
            scorer.functions(),
            arguments,
            train_dataset=grpo_dataset(examples, text_format, materials.tokenizer, as_messages=tools is not None),
            processing_class=materials.tokenizer,
            peft_config=materials.peft_config,
            **(tools.trainer_options if tools else {}),
        )

    hashes = {"reward": reward.digest, **({"tools": tools.digest} if tools else {})}
    return run_training("grpo", config, text_format, hashes, build_trainer)


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


def vllm_arguments(config: GrpoConfig) -> dict[str, Any]:
    """TRL's settings for generation by vLLM; raise `SetupError` where it is wanted but not installed."""
    if config.vllm is None:
        return {}
    if find_spec("vllm") is None:
        raise SetupError("--vllm: vllm is not installed; run: python -m pip install vllm, or leave the option out")
    return {"use_vllm": True, "vllm_mode": config.vllm}


def stop_token_ids(generation_config: object) -> list[int]:
    """The token ids that the model itself declares as ends of a completion."""
    declared = getattr(generation_config, "eos_token_id", None)
    if declared is None:
        return []
    return [declared] if isinstance(declared, int) else list(declared)
