"""A GRPO run as the same training for verl: its parquet files, the reward, and a launch file."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.jsonl import dump_json, open_atomic
from toolrl_cli.manifest import Manifest, hash_file, open_output
from toolrl_cli.records import Example, Json
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.data import read_examples
from toolrl_cli.training.grpo import choose_examples
from toolrl_cli.training.models import ModelSource, hub_id_of, load_tokenizer, name_for_others, resolve_model
from toolrl_cli.training.plan import grpo_steps, prompt_lengths
from toolrl_cli.training.text_format import TEMPLATE_FILE, choose_format

if TYPE_CHECKING:
    from toolrl_cli.formats.base import TextFormat
    from toolrl_cli.training.export import ExportConfig

VERSION = "0.9.1"
"""Of verl, whose configuration the launch file is checked against."""
HERE = "$here"
REWARD_FILE = re.compile(r"(.+\.(?:py|ya?ml))([:=].*)?$")
SUMS = {"sum_then_normalize": None}
LOSSES = {
    "grpo": "seq-mean-token-mean",
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
SCALES = {"group": True, "none": False}
SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}
CARRIED = (
    *("learning_rate", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2"),
    *("warmup_steps", "lr_scheduler_type", "num_train_epochs", "max_steps", "num_iterations"),
    *("temperature", "top_k", "top_p", "num_generations", "max_completion_length"),
    *("beta", "epsilon", "epsilon_high", "entropy_coef", "loss_type", "scale_rewards", "multi_objective_aggregation"),
)
"""The arguments of TRL that have their like in verl."""
COUNTED = ("num_train_epochs", "max_steps", "num_iterations", "num_generations")
"""Those of them that decide how many steps a run takes, beside its batches."""
BATCHED = ("steps_per_generation", "generation_batch_size")
"""The overrides that decide what is sampled at a time; verl samples for one step."""
REWARD = '''\
"""The reward of this training, for verl's reward.custom_reward_function.path."""

from pathlib import Path

from toolrl_cli.plugins import verl


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **unused):
    """The score of one response with its parts."""
    return verl.compute_score(
        data_source,
        solution_str,
        ground_truth,
        extra_info,
        reward={reward},
        matching={matching!r},
        settings={settings!r},
        text_format={text_format!r},
    )
'''
README = """\
# {name} under verl

The training of `{run}` with the same examples, reward and hyper-parameters, for verl {version}:

```bash
GPUS=8 NODES=1 bash run.sh
```

toolrl must be installed beside verl; more arguments for verl go after `run.sh`. Training starts from {start}.
{left_out}"""


def export_verl(config: ExportConfig, run: Manifest) -> None:
    """Write train.parquet, test.parquet if there are held-out examples, reward.py, run.sh and README.md.

    Raises:
        ConfigError: the run is none of GRPO, has a setting without its like in verl, or the output folder is refused.
        DataError: the examples are gone, or are not those of the run.
    """
    from toolrl_cli.training.export import refuse_output_among_inputs

    if run.command != "grpo":
        raise ConfigError(f"{config.run}: is a run of {run.command}; --to verl takes one of grpo")
    if run.config["tools"]:
        raise ConfigError(f"{config.run}: runs tools while it trains; --to verl takes runs without --tools")
    template = config.run / TEMPLATE_FILE
    text_format = choose_format(None, run.format, template if template.exists() else None)
    splits = read_splits(config, run, text_format)
    source = resolve_model(str(run.config["model"]))
    refuse_output_among_inputs(config, inputs_of(config, run, source))
    tokenizer = load_tokenizer(source)
    longest = max(max(prompt_lengths(examples, text_format, tokenizer)) for examples in splits.values())
    rows = {split: list(verl_rows(examples, text_format, split)) for split, examples in splits.items()}
    arguments = effective_arguments(run.config)
    overrides = {
        **translate(arguments, run.config),
        **length_overrides(arguments, run.config, len(splits["train"])),
        **data_overrides(longest, tested="test" in splits, shuffled=run.config["order"] is None),
        "data.seed": run.seed,
        "trainer.experiment_name": config.run.resolve().name,
    }
    manifest = replace(run, command="export", parent=str(config.run), finished=False)
    open_output(config.output, manifest, overwrite=config.overwrite)
    overrides["actor_rollout_ref.model.path"] = place_start(config.output, source)
    for split, part in rows.items():
        write_parquet(config.output / f"{split}.parquet", part)
    write_reward(config.output, run)
    write_text(config.output / "run.sh", launch_file(overrides))
    write_text(config.output / "README.md", describe(config, run, overrides))
    replace(manifest, finished=True).write(config.output)


def inputs_of(config: ExportConfig, run: Manifest, source: ModelSource) -> list[Path | None]:
    """What is read: the examples and their scores, the model that the run started from, and the reward's files."""
    files = [Path(str(run.config[name])) for name in ("model", "by") if run.config[name]]
    rewards = [split_term(term)[0] for term in str(run.config["reward"]).split(",")]
    return [data_of(config, run), config.test, *files, source.base, source.adapter, *rewards]


def data_of(config: ExportConfig, run: Manifest) -> Path:
    """Where the run's examples lie."""
    return config.data or Path(str(run.config["data"]))


def read_splits(config: ExportConfig, run: Manifest, text_format: TextFormat) -> dict[str, list[Example]]:
    """The run's examples, and those held out where there are any."""
    data = data_of(config, run)
    if hash_file(data) != run.hashes["data"]:
        raise DataError(f"{data}: not the examples of this run; give them by --data")
    told = {name: run.config[name] for name in ("limit", "order", "max_prompt_length", "model")}
    by = Path(run.config["by"]) if run.config["by"] else None
    train = choose_examples(GrpoConfig(data=data, output=config.output, by=by, **told), text_format, None)
    return {"train": train, **({"test": read_examples(config.test, text_format)} if config.test else {})}


def effective_arguments(config: Json) -> Json:
    """TRL's arguments as the run had them: the defaults, what toolrl sets, and the user's overrides."""
    from trl import GRPOConfig

    defaults = {field.name: field.default for field in fields(GRPOConfig)}
    own = {name: config[name] for name in CARRIED if name in config}
    own |= {"num_train_epochs": config["epochs"], "max_steps": config["max_steps"] or -1}
    own |= {"lr_scheduler_type": "constant_with_warmup"}
    return {name: value for name, value in (defaults | own | config["overrides"]).items() if name in CARRIED}


def translate(arguments: Json, config: Json) -> Json:
    """The overrides of verl's configuration that say what TRL's arguments said.

    Raises:
        ConfigError: an argument has a value without its like in verl.
    """
    return {
        **algorithm_overrides(arguments),
        **optimizer_overrides(arguments),
        **batch_overrides(arguments, config),
        **model_overrides(config),
        **trainer_overrides(),
    }


def algorithm_overrides(arguments: Json) -> Json:
    """Advantages, loss and penalty; TRL's KL estimator is verl's low_var_kl."""
    beta, epsilon = arguments["beta"], arguments["epsilon"]
    like(SUMS, "multi_objective_aggregation", arguments)
    loss = like(LOSSES, "loss_type", arguments)
    norm = {"actor_rollout_ref.actor.loss_scale_factor": arguments["max_completion_length"]}
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": like(SCALES, "scale_rewards", arguments),
        "algorithm.use_kl_in_reward": False,
        "actor_rollout_ref.actor.loss_agg_mode": loss,
        **(norm if arguments["loss_type"] == "dr_grpo" else {}),
        "actor_rollout_ref.actor.clip_ratio_low": epsilon,
        "actor_rollout_ref.actor.clip_ratio_high": arguments["epsilon_high"] or epsilon,
        "actor_rollout_ref.actor.entropy_coeff": arguments["entropy_coef"],
        "actor_rollout_ref.actor.use_kl_loss": beta != 0,
        "actor_rollout_ref.actor.kl_loss_coef": beta,
        "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    }


def optimizer_overrides(arguments: Json) -> Json:
    """Learning rate, its schedule, decay and clipping; warm-up below 1 is a share of the steps, as in transformers."""
    warmup = arguments["warmup_steps"] or 0
    optim = "actor_rollout_ref.actor.optim"
    return {
        f"{optim}.lr": arguments["learning_rate"],
        f"{optim}.lr_scheduler_type": like(SCHEDULES, "lr_scheduler_type", arguments),
        f"{optim}.lr_warmup_steps": int(warmup) if warmup >= 1 else -1,
        f"{optim}.lr_warmup_steps_ratio": warmup if warmup < 1 else 0.0,
        f"{optim}.weight_decay": arguments["weight_decay"],
        f"{optim}.betas": f"[{arguments['adam_beta1']},{arguments['adam_beta2']}]",
        f"{optim}.clip_grad": arguments["max_grad_norm"],
    }


def batch_overrides(arguments: Json, config: Json) -> Json:
    """Sizes and sampling; verl counts prompts where toolrl counts completions, but for the micro-batches."""
    prompts = config["batch_size"] // arguments["num_generations"]
    micro = min(config["micro_batch_size"], config["batch_size"])
    rollout = "actor_rollout_ref.rollout"
    return {
        "data.train_batch_size": prompts,
        "data.max_response_length": arguments["max_completion_length"],
        "actor_rollout_ref.actor.ppo_mini_batch_size": prompts,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": micro,
        "actor_rollout_ref.actor.ppo_epochs": arguments["num_iterations"],
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": micro,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": arguments["num_generations"],
        f"{rollout}.temperature": arguments["temperature"],
        f"{rollout}.top_k": arguments["top_k"] or -1,
        f"{rollout}.top_p": arguments["top_p"],
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": micro,
    }


def model_overrides(config: Json) -> Json:
    """An adapter like the run's; verl's rollout takes one only where it loads the base itself."""
    targets = config["lora_targets"]
    if config["tuning"] == "full":
        return {"actor_rollout_ref.model.lora_rank": 0}
    return {
        "actor_rollout_ref.model.lora_rank": config["lora_rank"],
        "actor_rollout_ref.model.lora_alpha": config["lora_alpha"] or 2 * config["lora_rank"],
        "actor_rollout_ref.model.target_modules": targets if targets == "all-linear" else f"[{targets}]",
        "actor_rollout_ref.rollout.load_format": "safetensors",
    }


def length_overrides(arguments: Json, config: Json, examples: int) -> Json:
    """Steps of the training, and passes enough for them: verl ends at whichever comes first.

    A step of verl is a batch of prompts with all its updates, one of TRL is an update; a pass of either leaves out
    the prompts that fill no batch.
    """
    steps = math.ceil(steps_of(arguments, config, examples) / arguments["num_iterations"])
    steps_a_pass = max(1, examples // (config["batch_size"] // arguments["num_generations"]))
    return {
        "trainer.total_training_steps": steps,
        "trainer.total_epochs": max(math.ceil(arguments["num_train_epochs"]), math.ceil(steps / steps_a_pass)),
    }


def steps_of(arguments: Json, config: Json, examples: int) -> int:
    """Optimizer steps that the run itself takes, its processes counted as one that has the rows of all."""
    from trl import GRPOConfig

    rows = min(config["micro_batch_size"] * config.get("num_processes", 1), config["batch_size"])
    told = {name: arguments[name] for name in COUNTED}
    told |= {name: config["overrides"][name] for name in BATCHED if name in config["overrides"]}
    told |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": config["batch_size"] // rows}
    return grpo_steps(GRPOConfig(use_cpu=True, bf16=False, **told), examples)


def trainer_overrides() -> Json:
    """Where the training runs, and the reward."""
    return {
        "trainer.logger": "[console]",
        "trainer.project_name": "toolrl",
        "trainer.default_local_dir": f"{HERE}/checkpoints",
        "reward.custom_reward_function.path": f"{HERE}/reward.py",
        "reward.custom_reward_function.name": "compute_score",
        "reward.reward_manager.name": "naive",
    }


def data_overrides(longest: int, *, tested: bool, shuffled: bool) -> Json:
    """The files; verl wants held-out ones also where it never looks at them."""
    return {
        "data.shuffle": shuffled,
        "data.train_files": f"{HERE}/train.parquet",
        "data.val_files": f"{HERE}/{'test' if tested else 'train'}.parquet",
        "data.prompt_key": "prompt",
        "data.max_prompt_length": longest,
        "data.truncation": "error",
        "trainer.val_before_train": tested,
        "trainer.test_freq": 20 if tested else -1,
    }


def like(known: Mapping[Any, Any], name: str, arguments: Json) -> Any:
    """What verl has for the value of an argument; raise `ConfigError` where it has nothing."""
    value = getattr(arguments[name], "value", arguments[name])
    if value not in known:
        raise ConfigError(f"{name} {value}: verl has nothing like it; it has {', '.join(known)}")
    return known[value]


def verl_rows(examples: list[Example], text_format: TextFormat, split: str) -> Iterator[Json]:
    """Rows in the columns of ToolRL's own verl files; the gold and the tools are JSON text.

    Raises:
        ConfigError: the format leaves the tools to the chat template, and verl's rows have no place for them.
    """
    for index, example in enumerate(examples):
        prompt = text_format.render_prompt(example.tools, example.messages)
        if prompt.tools is not None:
            raise ConfigError(
                f"--to verl: its prompts are messages alone, and the {text_format.name} format needs tools"
            )
        yield {
            "data_source": "toolrl",
            "prompt": [{"content": message["content"], "role": message["role"]} for message in prompt.messages],
            "ability": "tool calling",
            "reward_model": {"ground_truth": dump_json(example.target.to_json()), "style": "rule"},
            "extra_info": {"index": index, "split": split, "id": example.id, "tools": dump_json(list(example.tools))},
        }


def write_parquet(path: Path, rows: list[Json]) -> None:
    """Write rows as a Parquet file."""
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(path)


def place_start(output: Path, source: ModelSource) -> str:
    """What verl loads the starting model by: a Hub id, else a folder with full weights, written here if need be."""
    from toolrl_cli.training.export import merge

    name = name_for_others(source)
    if source.adapter is None and (hub_id_of(name) or name == source.base_name):
        return name
    merge(source).save_pretrained(output / "start")
    load_tokenizer(source).save_pretrained(output / "start")
    return f"{HERE}/start"


def write_reward(output: Path, run: Manifest) -> None:
    """Write reward.py, and beside it copies of the YAML and Python files that define the reward or terms of it."""
    told = {"matching": run.config["matching"], "settings": run.config["reward_settings"], "text_format": run.format}
    terms = [place_term(output, number, term) for number, term in enumerate(str(run.config["reward"]).split(","), 1)]
    write_text(output / "reward.py", REWARD.format(reward=' + "," + '.join(terms), **told))


def place_term(output: Path, number: int, term: str) -> str:
    """One reward of a sum as Python source; a file that it names is copied into the folder, and named there."""
    file, rest = split_term(term)
    if file is None:
        return repr(term)
    copy = f"reward_{number}_{file.name}"
    write_text(output / copy, file.read_text("utf-8"))
    place = f"str(Path(__file__).with_name({copy!r}))"
    return f"{place} + {rest!r}" if rest else place


def split_term(term: str) -> tuple[Path | None, str]:
    """The file that a reward of a sum is defined in, None for a preset or a module, and what follows it."""
    named = REWARD_FILE.match(term)
    if not named or not Path(named[1]).is_file():
        return None, term
    return Path(named[1]), named[2] or ""


def launch_file(overrides: Json) -> str:
    """A shell script that starts verl with the overrides, and with any that it is given itself."""
    lines = [f"    {name}={show(value)}" for name, value in sorted(overrides.items())]
    lines += ['    trainer.n_gpus_per_node="${GPUS:-1}"', '    trainer.nnodes="${NODES:-1}"', '    "$@"']
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            f"# Checked against the configuration of verl {VERSION}.",
            "set -euo pipefail",
            'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
            "python3 -m verl.trainer.main_ppo \\",
            " \\\n".join(lines),
            "",
        ]
    )


def show(value: Any) -> str:
    """A value as Hydra reads it and the shell leaves it; a path below the script's folder stays a variable."""
    if isinstance(value, str) and value.startswith(HERE):
        return f'"{value}"'
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def describe(config: ExportConfig, run: Manifest, overrides: Json) -> str:
    """The README of the folder."""
    start = str(overrides["actor_rollout_ref.model.path"]).replace(f"{HERE}/", "")
    lost = lost_settings(run.config)
    left_out = f"\nWithout their like in verl, and left out: {', '.join(lost)}.\n" if lost else ""
    if lost:
        log(f"export: without their like in verl, and left out: {', '.join(lost)}")
    name = config.run.resolve().name
    return README.format(name=name, run=config.run, version=VERSION, start=f"`{start}`", left_out=left_out)


def lost_settings(config: Json) -> list[str]:
    """What the run was told and verl has nothing like."""
    options = {
        "--drop-flat-groups": config["drop_flat_groups"],
        "the 4 bits of --tuning qlora": config["tuning"] == "qlora",
    }
    return [*(name for name, given in options.items() if given), *sorted(set(config["overrides"]) - set(CARRIED))]


def write_text(path: Path, text: str) -> None:
    """Write a text file, as a whole or not at all."""
    with open_atomic(path) as stream:
        stream.write(text)
