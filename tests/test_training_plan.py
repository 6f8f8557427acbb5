"""What a dry run tells is what the run then does: its steps, its examples, and what it holds in memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, InProcess, Place, call, example, read_rows, refusal, write_lines

from toolrl_cli.training.config import GrpoConfig, SftConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.plan import summarize
from toolrl_cli.training.sft import train_sft

SIZES: dict[str, Any] = {"batch_size": 4, "num_generations": 2, "max_completion_length": 4}


def grpo(data: Path, model: Path, output: Path, **options: Any) -> GrpoConfig:
    return GrpoConfig(data=data, model=str(model), output=output, **(SIZES | options))


def plan(summary: Any) -> dict[str, Any]:
    assert summary.plan is not None
    found: dict[str, Any] = summary.plan
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1.5},
        {"batch_size": 8, "micro_batch_size": 2, "epochs": 2},
        {"overrides": {"num_iterations": 2}},
        {"batch_size": 8, "micro_batch_size": 2, "overrides": {"steps_per_generation": 1}},
    ],
)
@pytest.mark.slow
def test_grpo_takes_the_steps_that_were_planned(
    options: dict[str, Any], examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    planned = plan(train_grpo(grpo(examples_file, tiny_model, tmp_path / "run", **options, dry_run=True)))["steps"]
    done = train_grpo(grpo(examples_file, tiny_model, tmp_path / "run", **options))
    assert done.metrics["step"] == planned > 1


@pytest.mark.slow
def test_sft_takes_the_steps_and_learns_from_the_examples_that_were_planned(
    examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """One prompt fills the limit: that example is left out."""
    options: dict[str, Any] = {"batch_size": 2, "micro_batch_size": 1, "epochs": 2.5}
    config = SftConfig(data=examples_file, model=str(tiny_model), output=tmp_path / "run", **options, dry_run=True)
    options["max_length"] = plan(train_sft(config))["prompt_tokens"]["max"]
    told = plan(train_sft(replace(config, max_length=options["max_length"])))
    done = train_sft(SftConfig(data=examples_file, model=str(tiny_model), output=tmp_path / "run", **options))
    assert (told["examples"], told["steps"]) == (5, done.metrics["step"])


@pytest.mark.slow
def test_packed_rows_are_what_steps_are_counted_from(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 1, "micro_batch_size": 1, "overrides": {"packing": True}}
    config = SftConfig(data=examples_file, model=str(tiny_model), output=tmp_path / "run", **options)
    told = plan(train_sft(replace(config, dry_run=True)))
    assert told["steps"] == train_sft(config).metrics["step"] < told["examples"]


def test_lengths_are_summarized_by_nearest_rank() -> None:
    assert summarize([5]) == {"mean": 5.0, "p50": 5, "p90": 5, "p99": 5, "max": 5}
    assert summarize(range(1, 101)) == {"mean": 50.5, "p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_long_prompts_are_left_out_and_counted(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8, "--json")
    whole = json.loads(cli(*words, "--dry-run").stdout)["plan"]
    limit = whole["prompt_tokens"]["p50"]
    done = cli(*words, "--dry-run", "--max-prompt-length", limit)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["plan"]
    left_out = 6 - told["examples"]
    assert done.stderr == f"grpo: --max-prompt-length {limit} leaves out {left_out} of 6 examples\n"
    assert (left_out > 0, told["prompt_tokens"]["max"]) == (True, limit)
    assert told["sampled_tokens_per_epoch_at_most"] == told["examples"] * 8 * 256
    line = refusal(cli(*words, "--max-prompt-length", 3))
    assert line.startswith("--max-prompt-length 3: every prompt is longer, the shortest has ")


def test_memory_is_counted_from_the_architecture(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    parameters = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--dry-run", "--json")
    told = {
        tuning: json.loads(cli(*words, "--tuning", tuning).stdout)["plan"]["memory_gib"] for tuning in ("full", "lora")
    }
    weights = round(parameters * 4 / 2**30, 3)
    assert (told["full"]["weights"], told["full"]["gradients"]) == (weights, weights)
    assert told["full"]["optimizer"] == round(parameters * 8 / 2**30, 3)
    assert told["lora"]["optimizer"] <= told["full"]["optimizer"]
    assert told["full"]["peak"] > told["full"]["activations"] > 0


def test_what_forbids_a_shared_prefix_is_told_before_the_run(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    turned = shutil.copytree(tiny_model, tmp_path / "turned")
    config = json.loads((turned / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    (turned / "config.json").write_text(json.dumps(config))
    why = "the model's positions are not rotary, or change with the length"
    for model, option, told in ((tiny_model, "on", "on"), (tiny_model, "off", "off"), (turned, "auto", why)):
        words = ("grpo", examples_file, "--model", model, "-o", tmp_path / "run", "--batch-size", 8, "--json")
        done = cli(*words, "--shared-prefix", option, "--dry-run")
        assert json.loads(done.stdout)["plan"]["shared_prefix"] == told
    assert refusal(cli(*words, "--shared-prefix", "on", "--dry-run")) == f"--shared-prefix on: {why}"
    assert refusal(cli(*words, "--shared-prefix", "on")) == f"--shared-prefix on: {why}"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_only_the_texts_forbid_is_told_once_or_ends_a_run_that_leaves_nothing(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=16, **sizes, **ids)
    MistralForCausalLM(config).save_pretrained(tmp_path / "model")
    words: list[object] = ["grpo", examples_file, "--model", tmp_path / "model", "-o", tmp_path / "run"]
    words += ["--max-steps", 2, "--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8]
    why = "the model's sliding window of 16 tokens is shorter than prompt and completion"
    assert refusal(cli(*words, "--shared-prefix", "on")) == f"--shared-prefix on: {why}"
    assert not (tmp_path / "run").exists()
    done = cli(*words)
    assert done.exit_code == 0
    assert done.stderr.count("each prompt is computed once a completion") == 1


def test_memory_is_that_of_one_of_the_processes(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--dry-run", "--json")
    sizes = ("--num-generations", 4, "--micro-batch-size", 64, "--max-completion-length", 1024)
    alone, shared, small = (
        json.loads(cli(*words, *sizes, *more).stdout)["plan"]
        for more in (("--batch-size", 24), ("--batch-size", 24, "--num-processes", 6), ("--batch-size", 4))
    )
    assert shared["memory_gib"] == small["memory_gib"] != alone["memory_gib"]
    assert shared["steps"] == alone["steps"]


def test_activations_are_what_autograd_keeps(tiny_model: Path, tmp_path: Path) -> None:
    """The same hooks over the real model count the same bytes, beside the padding mask of its two layers."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks
    from transformers import AutoModelForCausalLM

    from toolrl_cli.training.footprint import build_skeleton, saved_bytes

    config = SftConfig(data=tmp_path, model=str(tiny_model), output=tmp_path / "run", tuning="full")
    counted = saved_bytes(build_skeleton(tiny_model, config), 256)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        mask = (torch.arange(256) > 0).long().unsqueeze(0)
        model.model(input_ids=torch.zeros((1, 256), dtype=torch.long), attention_mask=mask, use_cache=False)
    masks = 2 * 256 * 256 * 4
    assert counted + masks == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.01)


def scored(path: Path, totals: dict[str, list[float]]) -> Path:
    rows = [{"id": id, "score": {"total": total}} for id, some in totals.items() for total in some]
    return write_lines(path, rows)


@pytest.mark.parametrize("order", ["easy-first", "hard-first"])
@pytest.mark.slow
def test_examples_come_in_the_order_of_their_mean_reward(
    order: str, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    totals = {"oslo": [1, 1], "tea": [4], "cook": [0, 3], "rome": [-3], "egg": [2], "lima": [4, 4]}
    by = scored(tmp_path / "scored.jsonl", {id: list(map(float, some)) for id, some in totals.items()})
    done = train_grpo(grpo(examples_file, tiny_model, tmp_path / "run", order=order, by=by, epochs=2))
    easy = [["tea", "lima"], ["egg", "cook"], ["oslo", "rome"]]
    hard = [["rome", "oslo"], ["cook", "egg"], ["tea", "lima"]]
    taken: list[list[str]] = []
    for step in range(6):
        ids = [row["id"] for row in read_rows(tmp_path / "run/completions.jsonl") if row["step"] == step]
        taken.append(list(dict.fromkeys(ids)))
    assert taken == (easy if order == "easy-first" else hard) * 2
    assert set(done.manifest.hashes) == {"data", "format", "base", "reward", "order"}


def test_an_example_without_score_and_half_an_order_are_one_line(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    by = scored(tmp_path / "scored.jsonl", {"oslo": [1.0], "egg": [2.0]})
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8)
    line = refusal(cli(*words, "--order", "easy-first", "--by", by))
    assert line.startswith(f"{by}: no score for 4 of 6 examples, 'tea' first; score a completion of each")
    both = "--order and --by belong together: --order easy-first --by scored.jsonl"
    assert refusal(cli(*words, "--order", "easy-first"), 2) == both
    assert refusal(cli(*words, "--by", by), 2) == both
    settings = ("--order", "hard-first", "--by", by, "--set", "shuffle_dataset=true")
    assert refusal(cli(*words, *settings), 2) == "--set shuffle_dataset: --order decides it"
    unscored = write_lines(tmp_path / "rows.jsonl", [{"id": "oslo"}])
    assert 'the "score" of a row' in refusal(cli(*words, "--order", "easy-first", "--by", unscored))


def test_an_evaluation_of_the_examples_gives_the_order(trained: Place, cli: InProcess, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "ex.jsonl", [EXAMPLES[0], example("two", "x", call("weather", city="Rome"))])
    model = trained.folder / "runs/sft"
    done = cli(
        "eval", "--bench", "examples", "--data", data, "--model", model, "-o", tmp_path / "e", "--max-new-tokens", 4
    )
    assert done.exit_code == 0, done.output
    words = ("grpo", data, "--model", model, "-o", tmp_path / "run", "--batch-size", 4, "--num-generations", 2)
    done = cli(*words, "--order", "easy-first", "--by", tmp_path / "e/results.jsonl", "--dry-run", "--json")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"])
def test_every_loss_of_trl_takes_a_step(loss: str, trained: Place, tmp_path: Path) -> None:
    """With both aggregations and scalings among them; TRL's class holds the values, so none is missing."""
    from trl import GRPOConfig

    options: dict[str, Any] = {
        "loss_type": loss,
        "scale_rewards": {"grpo": "batch", "dr_grpo": "none"}.get(loss, "group"),
        "multi_objective_aggregation": "normalize_then_sum" if loss in ("bnpo", "grpo") else "sum_then_normalize",
        "overrides": {"entropy_coef": 0.5},
        "max_steps": 1,
        "reward": "fine-grained,length",
    }
    config = grpo(trained.folder / "ex.jsonl", trained.folder / "runs/sft", tmp_path / "run", **options)
    summary = train_grpo(config)
    assert summary.metrics["grad_norm"] > 0
    assert f'`"{loss}"`' in str(GRPOConfig.__doc__)
