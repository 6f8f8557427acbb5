"""`toolrl grpo`: what it continues, what it logs, and that training scores as `toolrl score` does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import (
    EXAMPLES,
    TIMER,
    WEATHER,
    InProcess,
    Place,
    call,
    change_trainer,
    example,
    interrupt_at,
    read_rows,
    refusal,
    snapshot,
)

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.formats import find_format
from toolrl_cli.inference.transformers_engine import write_prompt
from toolrl_cli.manifest import hash_file, read_manifest
from toolrl_cli.plugins.trl import BatchScorer
from toolrl_cli.records import Example
from toolrl_cli.rewards import find_reward
from toolrl_cli.training.completions import Recorder, completion_log
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.data import grpo_dataset
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.models import hash_weights, resolve_model
from toolrl_cli.training.run import load_materials

FORMAT = find_format("toolrl")
TOTALS = ("rewards/format/mean", "rewards/correctness/mean")


def configure(data: Path, model: Path, output: Path, **options: Any) -> GrpoConfig:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "micro_batch_size": 2,
        "num_generations": 2,
        "max_completion_length": 8,
        "max_steps": 2,
        **options,
    }
    return GrpoConfig(data=data, model=str(model), output=output, **settings)


def load_adapter(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def test_the_run_records_its_parent_its_reward_and_its_base(trained: Place, tiny_model: Path) -> None:
    manifest = read_manifest(trained.folder / "runs/grpo")
    assert (manifest.command, manifest.parent, manifest.finished) == ("grpo", "runs/sft", True)
    assert manifest.hashes == {
        "data": hash_file(trained.folder / "ex.jsonl"),
        "format": FORMAT.digest,
        "reward": find_reward("fine-grained").digest,
        **hash_weights(resolve_model(str(trained.folder / "runs/sft"))),
    }
    assert manifest.hashes["adapter"] != manifest.hashes["base"]
    assert (manifest.config["reward"], manifest.config["base_model"]) == ("fine-grained", str(tiny_model))


def test_each_step_logs_reward_parts_and_exact_rate(trained: Place) -> None:
    rows = read_rows(trained.folder / "runs/grpo/metrics.jsonl")
    completions = read_rows(trained.folder / "runs/grpo/completions.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row.keys() >= set(TOTALS)
    right = [row["score"]["outcome"] in ("exact", "abstained") for row in completions]
    assert [row["exact"] for row in rows] == [sum(right[:4]) / 4, sum(right[4:]) / 4]
    printed = trained.printed["grpo"]
    assert [line.split("  ")[0] for line in printed["stderr"]] == ["grpo: step 1/2", "grpo: step 2/2"]
    assert printed["stdout"]["metrics"] == rows[-1]


def test_completions_score_as_the_score_command_scores_them(trained: Place, cli: InProcess, tmp_path: Path) -> None:
    rows = read_rows(trained.folder / "runs/grpo/completions.jsonl")
    assert [row["step"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [row["id"] for row in rows[::2]] == [row["id"] for row in rows[1::2]]
    assert all(
        row.keys() == {"id", "step", "text_format", "completion", "truncated", "target", "score"} for row in rows
    )
    targets = {raw["id"]: raw["target"] for raw in EXAMPLES}
    assert [row["target"] for row in rows] == [targets[row["id"]] for row in rows]
    done = cli("score", trained.folder / "runs/grpo/completions.jsonl", "-o", tmp_path / "scored.jsonl", "--json")
    assert done.exit_code == 0
    assert read_rows(tmp_path / "scored.jsonl") == rows
    metrics = read_rows(trained.folder / "runs/grpo/metrics.jsonl")
    for step, logged in enumerate(metrics):
        made = [row for row in rows if row["step"] == step]
        assert logged["reward"] == sum(row["score"]["total"] for row in made) / 4
        # correctness says nothing where the gold has no call, and its mean leaves those out
        judged = [row["score"]["correctness"] for row in made if row["target"]["tool_calls"]]
        assert logged["rewards/correctness/mean"] == sum(judged) / len(judged)


def test_the_sft_adapter_is_continued_and_no_second_one_made(trained: Place, tiny_model: Path) -> None:
    config = configure(trained.folder / "ex.jsonl", trained.folder / "runs/sft", Path("none"))
    materials = load_materials(config, resolve_model(config.model))
    model = materials.model
    assert (materials.peft_config, list(model.peft_config)) == (None, ["default"])
    wanted = load_adapter(trained.folder / "runs/sft")
    have = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {name.replace(".default", "") for name in have} == wanted.keys()
    assert all(value.equal(wanted[name.replace(".default", "")]) for name, value in have.items())
    made = trained.folder / "runs/grpo"
    assert load_adapter(made).keys() == wanted.keys()
    assert json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)


def test_without_any_advantage_the_weights_stay(trained: Place) -> None:
    rows = read_rows(trained.folder / "runs/grpo/metrics.jsonl")
    assert [row["frac_reward_zero_std"] for row in rows] == [1.0, 1.0]
    before, after = (load_adapter(trained.folder / f"runs/{name}") for name in ("sft", "grpo"))
    assert all(after[name].equal(value) for name, value in before.items())


def test_settings_reach_trl(trained: Place, cli: InProcess, tmp_path: Path) -> None:
    """An entropy bonus trains even where all completions earn the same."""
    words = ("grpo", trained.folder / "ex.jsonl", "--model", trained.folder / "runs/sft", "-o", tmp_path / "run")
    sizes = ("--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8, "--max-steps", 2)
    done = cli(*words, *sizes, "--set", "entropy_coef=0.5", "--set", "learning_rate=1e-3", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["config"]["overrides"] == {"entropy_coef": 0.5, "learning_rate": 1e-3}
    assert (result["metrics"]["grad_norm"] > 0, result["metrics"]["learning_rate"]) == (True, 1e-3)
    before, after = load_adapter(trained.folder / "runs/sft"), load_adapter(tmp_path / "run")
    assert not any(after[name].equal(value) for name, value in before.items())


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_ends_as_if_unbroken(
    trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = trained.folder / "ex.jsonl", trained.folder / "runs/sft"
    options: dict[str, Any] = {"overrides": {"entropy_coef": 0.5}, "learning_rate": 1e-2, "max_steps": 3}
    train_grpo(configure(data, model, tmp_path / "whole", **options))
    change_trainer(monkeypatch, "grpo", lambda trainer: trainer.add_callback(interrupt_at([2])))
    with pytest.raises(KeyboardInterrupt):
        train_grpo(configure(data, model, tmp_path / "broken", **options))
    assert [row["step"] for row in read_rows(tmp_path / "broken/completions.jsonl")] == [0] * 4 + [1] * 4
    monkeypatch.undo()
    train_grpo(configure(data, model, tmp_path / "broken", **options, resume=True))
    whole, resumed = (snapshot(tmp_path / name) for name in ("whole", "broken"))
    assert resumed["completions.jsonl"] == whole["completions.jsonl"]
    assert resumed["adapter_model.safetensors"] == whole["adapter_model.safetensors"]
    assert [row["step"] for row in read_rows(tmp_path / "broken/metrics.jsonl")] == [1, 2, 3]


def test_what_forbids_shared_prefixes_is_said_or_refused(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.1}))
    words = ["grpo", examples_file, "--model", model, "--num-generations", 2, "--batch-size", 2, "--max-steps", 1]
    words += ["--max-completion-length", 4]
    line = refusal(cli(*words, "-o", tmp_path / "on", "--shared-prefix", "on"))
    assert line == "--shared-prefix on: dropout is on, and a group would share it"
    assert not (tmp_path / "on").exists()
    done = cli(*words, "-o", tmp_path / "auto")
    reason = "each prompt is computed once a completion, not once a group: dropout is on, and a group would share it"
    assert (done.exit_code, done.stderr.splitlines()[0]) == (0, reason)
    assert done.stderr.count("dropout") == 1


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_kl_penalty_starts_at_zero(tuning: str, trained: Place, tiny_model: Path, tmp_path: Path) -> None:
    model = trained.folder / "runs/sft" if tuning == "lora" else tiny_model
    options: dict[str, Any] = {"tuning": tuning, "beta": 0.1, "max_steps": 1}
    summary = train_grpo(configure(trained.folder / "ex.jsonl", model, tmp_path / "run", **options))
    assert summary.metrics["kl"] == 0.0
    assert resolve_model(str(tmp_path / "run")).adapter == (tmp_path / "run" if tuning == "lora" else None)


def test_full_tuning_on_an_adapter_is_refused(trained: Place, tmp_path: Path) -> None:
    run = trained.folder / "runs/sft"
    with pytest.raises(ConfigError, match="is a LoRA run; --tuning full needs a full model to start from"):
        train_grpo(configure(trained.folder / "ex.jsonl", run, tmp_path / "run", tuning="full"))
    assert snapshot(tmp_path) == {}


def test_fewer_examples_than_a_step_takes_are_refused(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        train_grpo(configure(examples_file, tiny_model, tmp_path / "run", batch_size=16))
    assert str(refused.value) == f"{examples_file}: 6 examples, but a step takes 8; lower --batch-size"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--reward", "nonsense"), "unknown reward 'nonsense'"),
        (("--num-generations", 3), "--num-generations 3: must be 2 or more and divide --batch-size 32"),
        (("--batch-size", 12), "--batch-size 12 must be a multiple of --micro-batch-size 8"),
        (("--set", "bta=1"), "--set bta: no argument of trl.GRPOConfig; did you mean 'beta'?"),
        (("--set", "beta=high"), "--set beta=high: trl.GRPOConfig wants float"),
        (("--set", "beta=0.1", "--set", "beta=0.2"), "--set beta=0.2: beta is given twice"),
        (("--set", "beta"), "--set beta: must read key=value"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    options: tuple[object, ...], why: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    line = refusal(cli("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", *options), 2)
    assert line.startswith(why)
    assert snapshot(tmp_path) == {}


def test_a_horizon_without_a_schedule_is_refused(cli: InProcess, examples_file: Path, tiny_model: Path) -> None:
    words = ("grpo", examples_file, "--model", tiny_model, "-o", "run", "--batch-size", 8, "--dry-run", "--horizon", 9)
    assert refusal(cli(*words)) == "--horizon 9: the reward fine-grained has no schedule to stretch"
    assert cli(*words, "--reward", "dynamic").exit_code == 0


def test_targets_and_tools_cross_without_padding(tiny_model: Path) -> None:
    """Arrow would give every row the arguments of all rows, as nulls."""
    from transformers import AutoTokenizer

    rows = [
        example("a", "x", call("weather", city="Oslo"), (WEATHER,)),
        example("b", "y", call("timer", minutes=4, deep={"k": [1, None]}), (TIMER,)),
        example("c", "z", {"thought": None, "tool_calls": [], "response": "No."}),
    ]
    examples = [Example.from_json(row) for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    dataset = grpo_dataset(examples, FORMAT, tokenizer)
    assert [json.loads(row["target"]) for row in dataset] == [row["target"] for row in rows]
    assert [row["id"] for row in dataset] == ["a", "b", "c"]
    prompts = [write_prompt(tokenizer, *FORMAT.render_prompt(e.tools, e.messages)) for e in examples]
    assert [row["prompt"] for row in dataset] == prompts


GOOD = '<think> t </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
STOP = 2


def test_completions_are_logged_with_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    scorer = BatchScorer(find_reward("length"), {STOP}, Recorder(completion_log(path)))
    logged: dict[str, float] = {}
    for step, texts, ids in ((0, [GOOD, GOOD, "no"], [[5, STOP], [5, 6], [STOP]]), (1, ["no"], [[STOP]])):
        columns = {
            "prompts": texts,
            "completions": [[{"role": "assistant", "content": text}] for text in texts],
            "completion_ids": ids,
            "id": ["oslo"] * len(texts),
            "target": [json.dumps(EXAMPLES[0]["target"])] * len(texts),
            "tools": [json.dumps(EXAMPLES[0]["tools"])] * len(texts),
            "trainer_state": SimpleNamespace(global_step=step),
            "log_metric": logged.setdefault,
            "log_extra": None,
        }
        parts = {function.__name__: function(**columns) for function in scorer.functions()}
        if step == 0:
            assert (parts["format"], parts["correctness"]) == ([1.0, 1.0, 0.0], [3.0, 3.0, -3.0])
    assert logged == {
        "exact": 2 / 3,
        "call_share": 2 / 3,
        "gold_call_share": 1.0,
        "spurious_call_share": 0.0,
        "format_share": 2 / 3,
    }
    assert [(row["step"], row["truncated"], row["score"]["outcome"]) for row in read_rows(path)] == [
        (0, False, "exact"),
        (0, True, "exact"),
        (0, False, "no_call"),
        (1, False, "no_call"),
    ]


@pytest.mark.slow
def test_continuous_batching_generates(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    train_grpo(configure(examples_file, tiny_model, tmp_path / "run", continuous_batching=True, max_steps=2))
    rows = read_rows(tmp_path / "run" / "completions.jsonl")
    assert [row["step"] for row in rows] == [0] * 4 + [1] * 4
    assert all(row["completion"] for row in rows)
