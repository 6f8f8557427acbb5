"""`--drop-flat-groups`: which groups are trained on, what is drawn, and what is logged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import change_trainer, interrupt_at, read_rows, snapshot

from toolrl_cli.errors import ConfigError
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.flat_groups import FlatGroupFilter, choose_groups
from toolrl_cli.training.grpo import train_grpo

pytestmark = pytest.mark.slow


def parity(completions: Sequence[Any], **columns: Any) -> list[float]:
    """1 for every other completion: half the groups of two are flat."""
    return [float(len(completion[-1]["content"]) % 2) for completion in completions]


def flat(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Nothing ever differs."""
    return [0.5 for _ in completions]


def configure(data: Path, model: Path, output: Path, **options: Any) -> GrpoConfig:
    settings: dict[str, Any] = {
        "reward": "test_flat_groups:parity",
        "learning_rate": 1e-2,
        "batch_size": 8,
        "micro_batch_size": 2,
        "num_generations": 2,
        "max_completion_length": 8,
        "max_steps": 4,
        "drop_flat_groups": True,
        **options,
    }
    return GrpoConfig(data=data, model=str(model), output=output, **settings)


def groups_of(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [list(rows[first : first + 2]) for first in range(0, len(rows), 2)]


def is_flat(group: Sequence[dict[str, Any]]) -> bool:
    return len({row["score"]["total"] for row in group}) == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, examples_file: Path, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("flat") / "run"
    train_grpo(configure(examples_file, tiny_model, folder))
    return folder


def test_groups_with_signal_stand_in_for_flat_ones(run: Path) -> None:
    rows, metrics = read_rows(run / "completions.jsonl"), read_rows(run / "metrics.jsonl")
    assert any(row.get("dropped") for row in rows)
    for step, logged in enumerate(metrics):
        groups = groups_of([row for row in rows if row["step"] == step])
        assert all(pair[0]["id"] == pair[1]["id"] for pair in groups)
        kept = [group for group in groups if not group[0].get("dropped")]
        assert len(kept) == 4
        assert all("dropped" not in row or row["dropped"] is True for group in groups for row in group)
        signal = sum(not is_flat(group) for group in groups)
        assert sum(not is_flat(group) for group in kept) == min(4, signal)
        assert logged["frac_reward_zero_std"] == sum(map(is_flat, kept)) / 4
        assert logged["flat_groups/dropped"] == 1 - 4 / len(groups)
        assert logged["unfiltered/frac_reward_zero_std"] == sum(map(is_flat, groups[:4])) / 4
        assert logged["unfiltered/reward"] == sum(row["score"]["total"] for group in groups[:4] for row in group) / 8
        assert logged["reward"] == sum(row["score"]["total"] for group in kept for row in group) / 8


def test_each_round_draws_what_is_missing_from_other_prompts(run: Path) -> None:
    rows, metrics = read_rows(run / "completions.jsonl"), read_rows(run / "metrics.jsonl")
    for step, logged in enumerate(metrics):
        groups = groups_of([row for row in rows if row["step"] == step])
        first, further = groups[:4], groups[4:]
        others = {"oslo", "tea", "cook", "rome", "egg", "lima"} - {group[0]["id"] for group in first}
        assert {group[0]["id"] for group in further} <= others
        missing, rounds = sum(map(is_flat, first)), 1
        while missing and rounds < 4:
            drawn, further = further[:missing], further[missing:]
            missing -= sum(not is_flat(group) for group in drawn)
            rounds += 1
        assert (rounds, further) == (logged["flat_groups/rounds"], [])


def test_every_token_that_was_generated_is_counted(run: Path) -> None:
    rows, metrics = read_rows(run / "completions.jsonl"), read_rows(run / "metrics.jsonl")
    counts = [0.0, *(logged["num_tokens"] for logged in metrics)]
    for step in range(4):
        made = [row for row in rows if row["step"] == step]
        assert counts[step + 1] - counts[step] > 8 * len(made)  # prompts beside eight tokens a completion
        assert metrics[step]["completions/max_length"] == 8.0


def test_the_batch_is_that_of_the_chosen_groups(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained on, decoded, has the advantages that its own groups give."""
    batches = []
    stock = FlatGroupFilter._generate_and_score_completions

    def spy(self: Any, inputs: Any) -> Any:
        batch = stock(self, inputs)
        texts = self.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        batches.append((texts, batch["advantages"].tolist()))
        return batch

    monkeypatch.setattr(FlatGroupFilter, "_generate_and_score_completions", spy)
    train_grpo(configure(examples_file, tiny_model, tmp_path / "run"))
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert len(batches) == 4
    for step, (texts, advantages) in enumerate(batches):
        kept = [row for row in rows if row["step"] == step and not row.get("dropped")]
        assert sorted(texts) == sorted(row["completion"] for row in kept)
        scores = {row["completion"]: row["score"]["total"] for row in kept}
        for first in range(0, 8, 2):
            pair = [scores[text] for text in texts[first : first + 2]]
            sign = [0.0, 0.0] if pair[0] == pair[1] else [1.0 if value else -1.0 for value in pair]
            assert [round(value, 2) for value in advantages[first : first + 2]] == [round(0.7070 * s, 2) for s in sign]


def test_with_no_signal_anywhere_the_rounds_end_and_the_weights_stay(
    examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = configure(examples_file, tiny_model, tmp_path / "run", reward="test_flat_groups:flat", resample_rounds=2)
    train_grpo(config)
    for logged in read_rows(tmp_path / "run/metrics.jsonl"):
        assert (logged["flat_groups/rounds"], logged["frac_reward_zero_std"], logged["grad_norm"]) == (3.0, 1.0, 0.0)
        assert logged["flat_groups/dropped"] == 1 - 4 / 12
    rows = read_rows(tmp_path / "run/completions.jsonl")
    first = [row for row in rows if row["step"] == 0]
    assert [bool(row.get("dropped")) for row in first] == [False] * 8 + [True] * 16


def test_a_resumed_run_draws_the_same(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = configure(examples_file, tiny_model, tmp_path / "whole", batch_size=4, max_steps=3)
    train_grpo(whole)
    assert any(row.get("dropped") for row in read_rows(tmp_path / "whole/completions.jsonl") if row["step"])
    config = replace(whole, output=tmp_path / "broken")
    with monkeypatch.context() as patch:
        change_trainer(patch, "grpo", lambda trainer: trainer.add_callback(interrupt_at([1])))
        with pytest.raises(KeyboardInterrupt):
            train_grpo(config)
    assert len(read_rows(tmp_path / "broken/metrics.jsonl")) == 1
    train_grpo(replace(config, resume=True))
    unbroken, resumed = snapshot(tmp_path / "whole"), snapshot(tmp_path / "broken")
    for name in ("completions.jsonl", "adapter_model.safetensors"):
        assert resumed[name] == unbroken[name], name


def test_another_seed_draws_others(run: Path, examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    train_grpo(configure(examples_file, tiny_model, tmp_path / "run", seed=1, max_steps=1))
    ids = [
        [row["id"] for row in read_rows(path / "completions.jsonl") if row["step"] == 0]
        for path in (run, tmp_path / "run")
    ]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    "overrides",
    [
        {"scale_rewards": "batch"},
        {"scale_rewards": "none", "loss_type": "dr_grpo"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"num_iterations": 2},
        {"steps_per_generation": 2},
        {"beta": 0.1},
    ],
)
def test_it_works_with_every_kind_of_advantage(
    examples_file: Path, tiny_model: Path, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    train_grpo(configure(examples_file, tiny_model, tmp_path / "run", overrides=overrides, max_steps=4))
    metrics = read_rows(tmp_path / "run/metrics.jsonl")
    assert [logged["step"] for logged in metrics] == [1, 2, 3, 4]
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert any(row.get("dropped") for row in rows)
    for group in groups_of([row for row in rows if row.get("dropped")]):
        assert is_flat(group)


def test_without_the_option_every_group_is_trained_on(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    train_grpo(configure(examples_file, tiny_model, tmp_path / "run", drop_flat_groups=False))
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert len(rows) == 4 * 8
    assert not any("dropped" in row for row in rows)
    assert not any("flat_groups" in name for name in read_rows(tmp_path / "run/metrics.jsonl")[-1])
    assert json.loads((tmp_path / "run/manifest.json").read_text())["config"]["drop_flat_groups"] is False


def test_the_first_groups_with_signal_are_chosen_then_the_first_without() -> None:
    signal = [torch.tensor([False, True, False]), torch.tensor([False, True]), torch.tensor([True])]
    assert choose_groups(signal, 3) == [(0, 1), (1, 1), (2, 0)]
    assert choose_groups(signal, 5) == [(0, 1), (1, 1), (2, 0), (0, 0), (0, 2)]


@pytest.mark.parametrize(
    ("rewards", "aggregation", "signal"),
    [
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]], "sum_then_normalize", [False, True]),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], "normalize_then_sum", [True, False]),
        ([[torch.nan, 1.0], [0.0, 1.0], [torch.nan, 1.0], [0.0, 2.0]], "sum_then_normalize", [False, True]),
        ([[torch.nan] * 2, [0.0, 1.0], [torch.nan] * 2, [torch.nan] * 2], "sum_then_normalize", [False, False]),
    ],
)
def test_signal_is_what_advantages_are_made_of(rewards: Any, aggregation: str, signal: list[bool]) -> None:
    trainer: Any = FlatGroupFilter.__new__(FlatGroupFilter)
    trainer.reward_weights, trainer.num_generations = torch.tensor([1.0, 1.0]), 2
    trainer.multi_objective_aggregation = aggregation
    assert trainer._has_signal(torch.tensor([rewards])).tolist() == [signal]


def test_rounds_need_a_number_above_zero(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resample-rounds 0: must be above 0"):
        configure(tmp_path, tmp_path, tmp_path, resample_rounds=0)


def test_live_tools_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--drop-flat-groups: samples no dialogues with live tools"):
        configure(tmp_path, tmp_path, tmp_path, tools=tmp_path / "tools.py")
