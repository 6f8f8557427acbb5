"""GRPO under a tool-call reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolrl_cli.errors import DataError
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.rewards import find_reward, require_readable
from toolrl_cli.training.arguments import build_arguments
from toolrl_cli.training.completions import completion_log
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.data import grpo_dataset, read_examples
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

    from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer

    quiet_libraries()
    reward = find_reward(config.reward, matching=config.matching, settings=config.reward_settings)
    text_format = choose_format(config.model, config.format, config.template)
    require_readable(text_format)
    examples = read_examples(config.data, text_format, config.limit)
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
        scorer = BatchScorer(reward, stop_ids, completion_log(config.output / COMPLETIONS_FILE))
        return SharedPrefixGRPOTrainer(
            materials.model,
            scorer.functions(),
            arguments,
            train_dataset=grpo_dataset(examples, text_format),
            processing_class=materials.tokenizer,
            peft_config=materials.peft_config,
            shared_prefix=config.shared_prefix,
        )

    return run_training("grpo", config, text_format, {"reward": reward.digest}, build_trainer)


def stop_token_ids(generation_config: object) -> list[int]:
    """The token ids that the model itself declares as ends of a completion."""
    declared = getattr(generation_config, "eos_token_id", None)
    if declared is None:
        return []
    return [declared] if isinstance(declared, int) else list(declared)
