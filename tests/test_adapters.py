"""What is trained: new adapters, continued and merged ones, four bits, and where the KL divergence starts from."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, Place, change_trainer, refusal, snapshot

from toolrl_cli.errors import SetupError
from toolrl_cli.manifest import read_manifest
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.models import load_model, resolve_model
from toolrl_cli.training.run import construct

pytestmark = pytest.mark.slow


def configure(trained: Place, output: Path, **options: Any) -> GrpoConfig:
    """GRPO from the SFT run, with an entropy bonus that moves the weights where all completions earn the same."""
    settings: dict[str, Any] = {
        "batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "overrides": {"entropy_coef": 0.5},
        **options,
    }
    return GrpoConfig(
        data=trained.folder / "ex.jsonl", model=str(trained.folder / "runs/sft"), output=output, **settings
    )


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.arange(3, 40).unsqueeze(0)).logits


@pytest.fixture(scope="module")
def merged(trained: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that merges the SFT adapter and measures its divergence from there."""
    folder = tmp_path_factory.mktemp("merged") / "run"
    summary = train_grpo(configure(trained, folder, adapter="merge", beta=0.5, lora_rank=4, lora_alpha=12))
    assert summary.manifest.finished
    return folder


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_dry_run_rehearses_what_would_be_trained(
    trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    config = configure(trained, tmp_path / "run", adapter="merge", tuning=tuning, lora_rank=4, preflight=2)
    seen: list[dict[str, tuple[int, ...]]] = []

    def note(trainer: Any) -> None:
        seen.append({name: tuple(p.shape) for name, p in trainer.model.named_parameters() if p.requires_grad})

    def construct_and_note(*given: Any) -> Any:
        trainer = construct(*given)
        note(trainer)
        return trainer

    monkeypatch.setattr("toolrl_cli.training.preflight.construct", construct_and_note)
    assert train_grpo(replace(config, dry_run=True, force=True)).preflight
    assert not list(tmp_path.iterdir())
    change_trainer(monkeypatch, "grpo", note)
    train_grpo(replace(config, preflight=None))
    assert seen[0] == seen[1]


def test_a_merged_base_is_the_sft_model_and_below_a_new_adapter(merged: Path, trained: Place) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(merged / "base")
    sft: Any = load_model(resolve_model(str(trained.folder / "runs/sft")), full_precision=True)
    wanted = sft.merge_and_unload().to(base.dtype).state_dict()
    assert all(base.state_dict()[name].equal(value) for name, value in wanted.items())
    adapter = json.loads((merged / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (4, 12)
    assert adapter["base_model_name_or_path"] == str(merged / "base")
    manifest = read_manifest(merged)
    assert (manifest.config["base_model"], manifest.parent) == (str(merged / "base"), str(trained.folder / "runs/sft"))


def test_the_divergence_starts_at_the_merged_model(merged: Path) -> None:
    rows = [json.loads(line) for line in (merged / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == 0.0
    assert rows[1]["kl"] > 0.0


def test_a_merged_run_loads_plainly_and_after_a_move(merged: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    moved = Path(shutil.copytree(merged, tmp_path / "moved"))
    plain = logits(AutoPeftModelForCausalLM.from_pretrained(merged).float())
    source = resolve_model(str(moved))
    assert (source.base, source.adapter) == (moved / "base", moved)
    assert (logits(load_model(source).float()) - plain).abs().max() < 0.05


def test_a_merged_run_resumes_from_its_base(trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainer: Any) -> None:
        raise KeyboardInterrupt

    config = configure(trained, tmp_path / "run", adapter="merge", max_steps=1)
    change_trainer(monkeypatch, "grpo", fail)
    with pytest.raises(KeyboardInterrupt):
        train_grpo(config)
    monkeypatch.undo()
    before = snapshot(tmp_path / "run/base")
    assert train_grpo(replace(config, resume=True)).manifest.finished
    assert snapshot(tmp_path / "run/base") == before


def test_a_merge_that_fails_gives_back_the_run_it_would_have_replaced(
    trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SetupError("the disk is full")

    config = configure(trained, tmp_path / "run", adapter="merge", max_steps=1)
    train_grpo(config)
    before = snapshot(tmp_path / "run")
    monkeypatch.setattr("toolrl_cli.training.run.save_base", fail)
    with pytest.raises(SetupError, match="the disk is full"):
        train_grpo(replace(config, overwrite=True))
    assert (snapshot(tmp_path / "run"), len(list(tmp_path.iterdir()))) == (before, 1)


def test_the_divergence_of_a_continued_adapter_starts_at_the_adapter(
    trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the base below it: TRL keeps a frozen copy of the adapter, also over a resume."""
    seen: list[Any] = []
    change_trainer(monkeypatch, "grpo", seen.append)
    train_grpo(configure(trained, tmp_path / "run", beta=0.5, max_steps=1))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == 0.0
    from safetensors.torch import load_file

    started = load_file(trained.folder / "runs/sft/adapter_model.safetensors")
    frozen = load_file(tmp_path / "run/ref/adapter_model.safetensors")
    trained_on = load_file(tmp_path / "run/adapter_model.safetensors")
    assert all(frozen[name].equal(value) for name, value in started.items())
    assert not any(trained_on[name].equal(value) for name, value in started.items())
    assert all(".ref." not in name for name, value in seen[0].model.named_parameters() if value.requires_grad)


def test_all_weights_are_trained_from_a_merged_base(trained: Place, tmp_path: Path) -> None:
    summary = train_grpo(
        configure(trained, tmp_path / "run", tuning="full", adapter="merge", beta=0.5, learning_rate=1e-3, max_steps=1)
    )
    assert summary.metrics["kl"] == 0.0
    source = resolve_model(str(tmp_path / "run"))
    assert (source.base, source.adapter) == (tmp_path / "run", None)
    start = load_model(resolve_model(str(tmp_path / "run/base")), full_precision=True)
    assert (logits(load_model(source, full_precision=True)) - logits(start)).abs().max() > 0


def test_targets_are_the_named_layers(trained: Place, tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lora_targets": "q_proj, v_proj", "lora_rank": 2, "max_steps": 1}
    config = configure(trained, tmp_path / "run", **options)
    train_grpo(replace(config, model=str(tiny_model)))
    adapter = json.loads((tmp_path / "run/adapter_config.json").read_text())
    assert (sorted(adapter["target_modules"]), adapter["r"], adapter["lora_alpha"]) == (["q_proj", "v_proj"], 2, 4)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--adapter", "merge"), "--adapter merge: {model} has no adapter"),
        (
            ("--tuning", "qlora"),
            "--tuning qlora: bitsandbytes is missing; python -m pip install bitsandbytes",
        ),
        (
            ("--lora-targets", "q_prj,v_proj"),
            "--lora-targets: no layer 'q_prj' in the model; did you mean 'q_proj'?",
        ),
    ],
)
def test_a_tuning_that_cannot_be_is_one_line(
    options: tuple[str, str],
    why: str,
    cli: InProcess,
    examples_file: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8, *options)
    assert refusal(cli(*words)).startswith(why.replace("{model}", str(tiny_model)))
    assert refusal(cli(*words, "--dry-run")).startswith(why.replace("{model}", str(tiny_model)))
    assert snapshot(tmp_path) == {}


def test_options_of_a_new_adapter_are_told_where_none_is_made(
    trained: Place, tiny_model: Path, cli: InProcess, tmp_path: Path
) -> None:
    words = ("grpo", trained.folder / "ex.jsonl", "--model", trained.folder / "runs/sft", "-o", tmp_path / "run")
    sizes = ("--batch-size", 4, "--num-generations", 2, "--dry-run")
    told = cli(*words, *sizes, "--lora-rank", 4, "--lora-targets", "q_proj")
    assert (told.exit_code, told.stderr) == (
        0,
        f"{trained.folder / 'runs/sft'}: its adapter is trained on as it is, without --lora-rank, --lora-targets; "
        "--adapter merge makes a new one\n",
    )
    assert cli(*words, *sizes).stderr == ""
    words = ("grpo", trained.folder / "ex.jsonl", "--model", tiny_model, "-o", tmp_path / "run")
    told = cli(*words, *sizes, "--tuning", "full", "--lora-rank", 4)
    assert (told.exit_code, told.stderr) == (0, "--tuning full trains all weights, without --lora-rank\n")
