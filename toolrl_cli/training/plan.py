"""What a run will take, told before it begins: steps, tokens, lengths against the limits, and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, DataError, first_line
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.transformers_engine import tokenize_prompt
from toolrl_cli.records import Example, Json
from toolrl_cli.scoring.tally import percentiles
from toolrl_cli.training.config import GrpoConfig, SftConfig
from toolrl_cli.training.launch import planned_processes
from toolrl_cli.training.models import ModelSource

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOConfig, SFTConfig
    from trl.trainer.base_config import _BaseConfig

T = TypeVar("T")
PERCENTILES = (50, 90, 99)


def grpo_steps(arguments: GRPOConfig, examples: int) -> int:
    """Optimizer steps of a GRPO run; prompts that do not fill a generation are left out of each pass."""
    prompts = prompts_at_once(arguments)
    return total_steps(arguments, examples // prompts * arguments.num_iterations * arguments.steps_per_generation)


def prompts_at_once(arguments: GRPOConfig) -> int:
    """Prompts that completions are sampled for at a time."""
    return int(arguments.generation_batch_size // arguments.num_generations)


def sft_steps(arguments: SFTConfig, examples: int) -> int:
    """Optimizer steps of an SFT run."""
    return total_steps(arguments, ceil(examples / (arguments.per_device_train_batch_size * arguments.world_size)))


def total_steps(arguments: _BaseConfig, micro_batches: int) -> int:
    """Optimizer steps of so many micro-batches a pass, as transformers' Trainer counts them."""
    limit: int = arguments.max_steps
    passes: float = arguments.num_train_epochs
    return limit if limit > 0 else ceil(passes * max(1, ceil(micro_batches / arguments.gradient_accumulation_steps)))


def prompt_lengths(examples: Sequence[Example], text_format: TextFormat, tokenizer: Any) -> list[int]:
    """Tokens of each example's prompt, as it is trained on and sampled from."""
    return [
        len(tokenize_prompt(tokenizer, *text_format.render_prompt(example.tools, example.messages)))
        for example in examples
    ]


def drop_long_prompts(examples: Sequence[Example], lengths: Sequence[int], limit: int) -> list[Example]:
    """The examples whose prompt has at most `limit` tokens; the others are counted in a line of the log.

    Raises:
        DataError: none is left.
    """
    kept = [example for example, length in zip(examples, lengths, strict=True) if length <= limit]
    if not kept:
        raise DataError(f"--max-prompt-length {limit}: every prompt is longer, the shortest has {min(lengths)} tokens")
    if len(kept) < len(examples):
        log(f"grpo: --max-prompt-length {limit} leaves out {len(examples) - len(kept)} of {len(examples)} examples")
    return kept


def summarize(lengths: Sequence[int]) -> Json:
    """Mean, nearest-rank percentiles and the largest of some lengths."""
    ranks = percentiles(Counter(lengths), PERCENTILES)
    return {"mean": round(sum(lengths) / len(lengths), 1), **ranks, "max": max(lengths)}


def plan_sft(config: SftConfig, arguments: SFTConfig, dataset: Dataset, source: ModelSource) -> Json:
    """Steps, tokens and memory a process of an SFT run over a data set of `training.data.sft_dataset`."""
    from trl import pack_dataset

    from toolrl_cli.training.footprint import Batch

    totals = [len(ids) for ids in dataset["input_ids"]]
    prompts = [mask.count(0) for mask in dataset["completion_mask"]]
    targets = [total - prompt for total, prompt in zip(totals, prompts, strict=True)]
    longest = min(max(totals), config.max_length)
    completion = min(max(targets), longest)
    rows, _ = config.share_batch(planned_processes(config))
    learnt = sum(prompt < config.max_length for prompt in prompts)
    packed = (
        pack_dataset(dataset, config.max_length, arguments.packing_strategy) if arguments.packing else range(learnt)
    )
    return {
        "steps": sft_steps(arguments, len(packed)),
        "examples": learnt,
        "tokens_per_epoch": sum(min(total, config.max_length) for total in totals),
        "prompt_tokens": summarize(prompts),
        "target_tokens": summarize(targets),
        "over_max_length": sum(total > config.max_length for total in totals),
        "memory_gib": estimate(source, config, arguments, Batch(rows, longest - completion, completion, rows)),
    }


def plan_grpo(
    config: GrpoConfig,
    arguments: GRPOConfig,
    prompts: Sequence[int],
    targets: Sequence[int],
    source: ModelSource,
) -> Json:
    """Steps and tokens of a GRPO run, and the memory of each of its processes.

    Args:
        config: the options.
        arguments: TRL's, made of them.
        prompts: tokens of each prompt that is trained on.
        targets: tokens of each gold completion.
        source: the model.
    """
    from toolrl_cli.training.footprint import Batch

    processes, limit = planned_processes(config), config.max_completion_length
    rows, _ = config.share_batch(processes)
    distinct = rows if config.shared_prefix == "off" else ceil(rows / config.num_generations)
    batch = Batch(rows, max(prompts), limit, distinct, arguments.generation_batch_size // processes)
    return {
        "steps": grpo_steps(arguments, len(prompts)),
        "examples": len(prompts),
        "prompt_tokens_per_epoch": sum(prompts),
        "sampled_tokens_per_epoch_at_most": len(prompts) * config.num_generations * limit,
        "prompt_tokens": summarize(prompts),
        "gold_tokens": summarize(targets),
        "gold_over_max_completion_length": sum(target > limit for target in targets),
        "shared_prefix": tell_sharing(config, source, max(prompts) + limit),
        "memory_gib": estimate(source, config, arguments, batch),
    }


def tell_sharing(config: GrpoConfig, source: ModelSource, length: int) -> str:
    """Whether rows of up to `length` tokens share their prompts, as far as the architecture decides, or why not.

    Raises:
        ConfigError: they cannot, and `--shared-prefix on` is given.
    """
    from toolrl_cli.inference.shared_prefix import prefix_obstacle
    from toolrl_cli.training.footprint import build_shape

    if config.shared_prefix == "off":
        return "off"
    reason = unless_unknown(lambda: prefix_obstacle(build_shape(source.base), length))
    if reason and config.shared_prefix == "on":
        raise ConfigError(f"--shared-prefix on: {reason}")
    return reason or "on"


def estimate(source: ModelSource, config: SftConfig | GrpoConfig, arguments: _BaseConfig, batch: Any) -> Json | str:
    """The parts of the memory in GiB, or why they cannot be counted."""
    from toolrl_cli.training.footprint import estimate_footprint

    return unless_unknown(lambda: estimate_footprint(source, config, arguments, batch).to_json())


def unless_unknown(find: Callable[[], T]) -> T | str:
    """What is found of an architecture, or that it cannot be built without its weights: the plan stands without it."""
    try:
        return find()
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        return f"not known for this architecture ({first_line(error)})"
