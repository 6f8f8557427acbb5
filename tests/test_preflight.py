"""`toolrl grpo --preflight`: what it says, that it is right, and that it leaves the training as it is."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, Cli, InProcess, interrupt_at, read_rows, refusal, snapshot, write_lines

from toolrl_cli.errors import ConfigError, GateFailed
from toolrl_cli.records import Outcome, Rollout, Score, Target
from toolrl_cli.training.completions import Sampled
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.preflight import (
    Cost,
    advantage_values,
    describe_cost,
    describe_rewards,
    flat_chance,
    report_lines,
    sampled_share,
    sparkline,
    suggest_group_size,
)

pytestmark = pytest.mark.slow

SMALL = {"batch_size": 4, "micro_batch_size": 2, "num_generations": 2, "max_completion_length": 8, "max_steps": 3}
REFUSED = (
    "preflight: 100% of the groups of 2 would have no signal, over 90%; begin from a model after sft, or change the "
    "data, --reward or --temperature; "
)


def lucky(completions: Sequence[Any], **columns: Any) -> list[float]:
    """A reward that differs from completion to completion, and draws from every random stream there is."""
    return [random.random() + np.random.random() + torch.rand(()).item() for _ in completions]


def never(completions: Sequence[Any], **columns: Any) -> list[float]:
    """A reward that nothing earns."""
    return [0.0 for _ in completions]


def configure(data: Path, model: Path, output: Path, **options: Any) -> GrpoConfig:
    settings: dict[str, Any] = {"reward": "test_preflight:lucky", "learning_rate": 1e-2, **SMALL, **options}
    return GrpoConfig(data=data, model=str(model), output=output, **settings)


def row(total: float, truncated: bool = False, **parts: float) -> Sampled:
    rollout = Rollout("text", Target(response="no"), truncated)
    outcome = Outcome.EXACT if total > 1 else Outcome.WRONG
    return Sampled("id", "text", rollout, Score(total, parts or {"format": total}, outcome))


@pytest.mark.parametrize("values", [(1, 1, 1, 1), (1, 1, 1, 0), (1, 1, 0, 0), (3, 1, 0, 0, 0), (0, 1)])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_flat_group_is_as_likely_as_the_subsets_of_the_sample_say(values: tuple[int, ...], size: int) -> None:
    subsets = list(combinations(values, min(size, len(values))))
    assert flat_chance(values, size) == sum(len(set(subset)) == 1 for subset in subsets) / len(subsets)


def test_a_larger_group_is_taken_for_one_of_the_size_of_the_sample() -> None:
    assert [flat_chance((1, 1, 1, 0), size) for size in (2, 3, 4, 32)] == [0.5, 0.25, 0.0, 0.0]
    assert flat_chance((1, 1), 32) == 1.0


@pytest.mark.parametrize(
    ("signal", "samples", "suggested"),
    [
        ({2: 0.3, 4: 0.5, 8: 0.55, 16: 0.55, 32: 0.55}, 8, 4),
        ({2: 0.3, 4: 0.4, 8: 0.55, 16: 0.55, 32: 0.55}, 8, 8),
        ({2: 0.3, 4: 0.4, 8: 0.55, 16: 0.55, 32: 0.55}, 6, 8),  # six samples say nothing of eight
        ({2: 0.1, 4: 0.2, 8: 0.3, 16: 0.4, 32: 0.6}, 64, 32),
        ({2: 0.0, 4: 0.0, 8: 0.0, 16: 0.0, 32: 0.0}, 8, None),
    ],
)
def test_the_suggested_group_size(signal: dict[int, float], samples: int, suggested: int | None) -> None:
    assert suggest_group_size(signal, samples) == suggested


def test_rewards_become_a_report(tmp_path: Path) -> None:
    """Of four prompts one is solved, one stuck, and two differ in one completion of four."""
    totals = [(2.0, 2.0, 2.0, 2.0), (0.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (2.0, 2.0, 2.0, 0.0)]
    values = [total for group in totals for total in group]
    rows = [row(total, truncated=total == 0) for total in values]
    report = describe_rewards(rows, values, configure(tmp_path, tmp_path, tmp_path, preflight=4))
    assert (report["prompts"], report["samples"], report["group_size"]) == (4, 4, 2)
    assert report["no_signal"] == 0.75  # 1, 1, 1/2, 1/2
    assert report["signal_by_group_size"] == {"2": 0.25, "4": 0.5}
    assert report["suggested_group_size"] == 4
    assert report["truncated"] == 0.5
    assert report["histograms"]["total"]["counts"] == [8, 0, 0, 0, 0, 0, 0, 0, 0, 8]
    assert report["groups"]["pass_at"] == {"1": 0.5, "2": 0.625, "4": 0.75}
    assert (report["groups"]["solved"], report["groups"]["stuck"]) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("aggregation", "values"),
    [
        ("sum_then_normalize", [(2.0,), (2.0,), (1.0,)]),
        ("normalize_then_sum", [(1.0, 1.0), (0.0, 2.0), (1.0, None)]),
    ],
)
def test_what_makes_an_advantage(aggregation: str, values: list[Any]) -> None:
    """The parts by themselves or their weighted sum, the same up to float32, of the rows of this process."""
    trainer = SimpleNamespace(
        scored=torch.tensor([[9.0, 9.0]] * 3 + [[1.0, 0.5], [0.0, 1.0 + 1e-7], [1.0, torch.nan]]),
        accelerator=SimpleNamespace(process_index=1),
        reward_weights=torch.tensor([1.0, 2.0]),
        multi_objective_aggregation=aggregation,
    )
    assert advantage_values(trainer, 3) == values


def test_the_cost_of_the_run_follows_from_that_of_the_sample() -> None:
    """10 s for 20 completions: a step of 8 takes 4 s, the training of a completion 0.25 s."""
    arguments = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    trainer = SimpleNamespace(args=arguments, num_iterations=1, accelerator=SimpleNamespace(num_processes=2))
    cost = Cost(10.0, 20, 1000, 0.25, 3 << 30)
    assert describe_cost(cost, trainer, 900, 1.0, 2) == {
        "sampling_seconds": 10.0,
        "mean_length": 50.0,
        "tokens_per_second": 200.0,
        "generation_seconds_per_step": 4.0,
        "training_seconds_per_step": 2.0,
        "steps": 900,
        "hours": 1.5,
        "peak_memory_gib": 3.0,
    }
    more = describe_cost(cost, trainer, 900, 1.0, 8)  # of which the sample had two
    assert (more["tokens_per_second"], more["generation_seconds_per_step"], more["hours"]) == (800.0, 1.0, 0.375)
    alone = describe_cost(Cost(10.0, 20, 1000, None, None), trainer, 900, 1.5, 2)
    assert (alone["training_seconds_per_step"], alone["peak_memory_gib"], alone["hours"]) == (None, None, 1.5)
    assert (sampled_share(0.5, 1), sampled_share(0.5, 4)) == (1.0, 1.875)


def test_a_histogram_in_a_line() -> None:
    assert sparkline({"edges": [0.0, 1.0, 2.0, 3.0], "counts": [8, 0, 1]}) == "0 █ ▁ 3"
    assert sparkline({"edges": [2.0, 2.0], "counts": [5]}) == "2 █ 2"


@pytest.mark.parametrize("options", [{}, {"drop_flat_groups": True}, {"beta": 0.1, "tuning": "full"}])
def test_a_run_is_the_same_to_the_bit_with_and_without(
    examples_file: Path, tiny_model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    runs = {"plain": None, "checked": 5}
    for name, preflight in runs.items():
        train_grpo(configure(examples_file, tiny_model, tmp_path / name, preflight=preflight, **options))
    plain, checked = (snapshot(tmp_path / name) for name in runs)
    model = "model.safetensors" if options.get("tuning") else "adapter_model.safetensors"
    for name in (model, "completions.jsonl", "manifest.json"):
        assert plain[name] == checked[name], name
    before, after = (read_rows(tmp_path / name / "metrics.jsonl") for name in runs)
    timeless = [[{k: v for k, v in step.items() if k != "step_time"} for step in steps] for steps in (before, after)]
    assert timeless[0] == timeless[1]
    assert checked.keys() - plain.keys() == {"preflight.json"}


def test_the_same_seed_samples_the_same(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    reports = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = configure(examples_file, tiny_model, tmp_path / name, seed=seed, preflight=4, dry_run=True)
        report = train_grpo(config).preflight
        assert report
        assert report["cost"]["tokens_per_second"] > 0
        reports.append({name: value for name, value in report.items() if name not in ("cost", "seed")})
    assert reports[0] == reports[1] != reports[2]
    assert snapshot(tmp_path) == {}


def test_a_report_of_whole_groups_is_what_the_groups_say(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = configure(examples_file, tiny_model, tmp_path / "run", reward="test_flat_groups:parity", preflight=2)
    report = train_grpo(config).preflight
    assert report == json.loads((tmp_path / "run/preflight.json").read_text())
    assert report
    assert report["prompts"] == len(EXAMPLES)
    assert report["no_signal"] == report["groups"]["zero_variance"]
    assert 0 < report["no_signal"] < 1
    assert (report["truncated"], report["cost"]["mean_length"], report["cost"]["steps"]) == (0.9167, 7.9, 3)


def test_a_run_without_signal_is_refused_until_it_is_forced(
    toolrl: Cli, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing.py").write_text("def never(completions, **columns):\n    return [0.0] * len(completions)\n")
    words: list[object] = ["grpo", examples_file, "--model", tiny_model, "-o", "run", "--reward", "nothing:never"]
    words += ["--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8, "--micro-batch-size", 4]
    words += ["--max-steps", 1, "--preflight", 4, "--json"]
    done = toolrl(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1] == f"toolrl: {REFUSED}--force trains anyway"
    assert "groups of 2 without signal: 100%" in done.stderr
    assert not (tmp_path / "run").exists()
    done = toolrl(*words, "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = snapshot(tmp_path / "run")
    assert toolrl(*words, "--overwrite", cwd=tmp_path).returncode == 3
    assert snapshot(tmp_path / "run") == before, "a run is replaced only by one that begins"
    assert [path.name for path in tmp_path.iterdir() if "run" in path.name] == ["run"]
    result = json.loads(done.stdout)
    assert (result["finished"], result["preflight"]["suggested_group_size"]) == (True, None)
    assert done.stderr.startswith("preflight: 6 prompts, 4 completions each")


def test_a_dry_run_only_reports_and_still_is_a_gate(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--preflight", 4, "--dry-run"]
    words += ["--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8]
    done = cli(*words, "--reward", "test_preflight:lucky")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "preflight: 6 prompts, 4 completions each" in done.stdout
    assert "groups of 2 without signal: 0%" in done.stdout
    done = cli(*words, "--reward", "test_preflight:never", "--json")
    assert (done.exit_code, done.stderr) == (3, f"toolrl: {REFUSED}--force trains anyway\n")
    assert json.loads(done.stdout)["preflight"]["no_signal"] == 1.0
    done = cli(*words, "--reward", "test_preflight:never", "--force", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert snapshot(tmp_path) == {}


def test_a_resumed_run_is_not_checked_again(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from conftest import change_trainer

    config = configure(examples_file, tiny_model, tmp_path / "run", preflight=4)
    with monkeypatch.context() as patch:
        change_trainer(patch, "grpo", lambda trainer: trainer.add_callback(interrupt_at([1])))
        with pytest.raises(KeyboardInterrupt):
            train_grpo(config)
    assert "preflight: 6 prompts" in capfd.readouterr().err
    resumed = GrpoConfig(**{**config.__dict__, "resume": True})
    assert train_grpo(resumed).manifest.finished
    assert "preflight" not in capfd.readouterr().err


def test_a_report_says_what_it_does_not_know(tmp_path: Path) -> None:
    config = configure(tmp_path, tmp_path, tmp_path, batch_size=16, num_generations=8, preflight=2)
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(per_device_train_batch_size=1, gradient_accumulation_steps=1),
        num_iterations=1,
        accelerator=SimpleNamespace(num_processes=1),
    )
    cost = describe_cost(Cost(1.0, 2, 10, None, None), trainer, 3600, 1.0, 1)
    lines = list(report_lines(describe_rewards([row(0.0), row(2.0)], [0, 2], config) | {"cost": cost}))
    assert lines == [
        "preflight: 1 prompts, 2 completions each, in 1.0 s",
        "  total        mean  1.000  0 █        █ 2",
        "  format       mean  1.000  0 █        █ 2",
        "  outcomes: exact 1, wrong 1; cut off 0%",
        "  pass@1 0.50, pass@2 1.00",
        "  groups of 8 without signal: at most 0%",
        "  with signal by group size: 2: 100%; suggested: 2",
        "  5 tokens a completion, 10 generated a second; a step: 0.5 s generation, training not measured",
        "  3600 steps: about 0.50 hours of generation alone",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"preflight": 1}, "--preflight 1: must be 2 or more; one completion has nothing to differ from"),
        ({"preflight": 0}, "--preflight 0: must be above 0"),
        ({"force": True}, "--force: is for --preflight, which is not given"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(tmp_path, tmp_path, tmp_path, **options)
    assert str(refused.value) == why


def test_a_preflight_of_a_model_that_is_missing_is_one_line(cli: InProcess, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    words = ("grpo", data, "--model", tmp_path / "none", "-o", tmp_path / "run", "--preflight", 4, "--dry-run")
    assert refusal(cli(*words)).startswith(f"{tmp_path / 'none'}: ")


def test_the_gate_is_at_nine_tenths(tmp_path: Path) -> None:
    from toolrl_cli.training.preflight import require_signal

    config = configure(tmp_path, tmp_path, tmp_path, preflight=4)
    require_signal({"no_signal": 0.9, "group_size": 2, "samples": 4}, config)
    with pytest.raises(GateFailed, match="preflight: 91% of the groups of 2 would have no signal, over 90%"):
        require_signal({"no_signal": 0.91, "group_size": 2, "samples": 4}, config)
    with pytest.raises(GateFailed, match="preflight: as far as 4 completions tell, up to 91% of the groups of 8 would"):
        require_signal({"no_signal": 0.91, "group_size": 8, "samples": 4}, config)
