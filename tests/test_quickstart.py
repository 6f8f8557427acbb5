"""`toolrl quickstart`: the recipe, the commands it shows, and the whole pipeline with the real small model."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolrl_cli.cli import app
from toolrl_cli.errors import ConfigError
from toolrl_cli.quickstart import Recipe, command_lines, plan_recipe, run_recipe


@contextlib.contextmanager
def silent(description: str) -> Iterator[Any]:
    yield lambda done, total: None


def captured(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration that a shown command hands to its library function."""
    calls: list[Any] = []

    class Stop(Exception):
        pass

    def capture(config: Any, **options: Any) -> None:
        calls.append(config)
        raise Stop

    monkeypatch.setattr(name, capture)
    CliRunner().invoke(app, shlex.split(command)[1:])
    return calls[0]


def test_the_shown_commands_do_just_what_the_quickstart_does(
    examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = plan_recipe(tmp_path / "q", seed=3)
    recipe.sft.data.parent.mkdir(parents=True)
    recipe.sft.data.symlink_to(examples_file)
    lines = iter(command_lines(recipe))
    for config in recipe.prepare:
        shown = captured("toolrl_cli.prepare.prepare_examples", next(lines), monkeypatch)
        assert shown == replace(config, overwrite=False)
    expected: dict[str, list[Any]] = {
        "toolrl_cli.evaluation.evaluate": [config for configs in recipe.evals.values() for config in configs],
        "toolrl_cli.training.sft.train_sft": [recipe.sft],
        "toolrl_cli.training.grpo.train_grpo": [recipe.grpo],
    }
    order = ["evaluate", "evaluate", "train_sft", "evaluate", "evaluate", "train_grpo", "evaluate", "evaluate"]
    for function in order:
        name = next(name for name in expected if name.endswith(function))
        assert captured(name, next(lines), monkeypatch) == expected[name].pop(0)
    assert next(lines, None) is None


def test_training_and_held_out_examples_are_different_files(tmp_path: Path) -> None:
    recipe = plan_recipe(tmp_path)
    train, held_out = recipe.prepare
    assert [path.name for path in train.inputs] == ["train-openai.jsonl", "train-toolrl.jsonl", "train-xlam.jsonl"]
    assert recipe.sft.data == recipe.grpo.data == train.output
    assert {configs[0].data for configs in recipe.evals.values()} == {held_out.output}


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and not a toolrl output"):
        run_recipe(plan_recipe(tmp_path), print, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def shortened(folder: Path, *, resume: bool = False) -> Recipe:
    """The recipe with few steps and few entries, so that it ends in a minute or two."""
    recipe = plan_recipe(folder, resume=resume)
    return replace(
        recipe,
        sft=replace(recipe.sft, max_steps=2, batch_size=4, micro_batch_size=4),
        grpo=replace(
            recipe.grpo, max_steps=2, batch_size=4, micro_batch_size=4, num_generations=2, max_completion_length=32
        ),
        evals={
            stage: tuple(replace(config, limit=3, max_new_tokens=32) for config in configs)  # type: ignore[misc]
            for stage, configs in recipe.evals.items()
        },
    )


@pytest.mark.slow
def test_the_pipeline_runs_with_the_real_model_and_the_real_checker(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    said: list[str] = []
    report = run_recipe(shortened(folder), said.append, silent)

    assert said[0] == "prepare examples.jsonl" and "train grpo" in said
    title, columns, rows = report.table()
    assert title == "3 held-out examples, mean [95% interval]"
    assert columns == ["", "exact rate", "total", "format", "correctness", "BFCL simple_python"]
    assert [row[0] for row in rows] == ["raw model", "after SFT", "after GRPO"]
    assert all(row[-1].endswith("/3") for row in rows)
    assert (folder / "reward.png").read_bytes().startswith(b"\x89PNG")
    steps = [json.loads(line)["step"] for line in (folder / "grpo/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))

    again = run_recipe(shortened(folder, resume=True), said.append, silent)
    assert again.examples == report.examples and again.bfcl == report.bfcl
    assert json.loads((folder / "grpo/manifest.json").read_text())["finished"]
    with pytest.raises(ConfigError, match="--resume"):
        run_recipe(shortened(folder), said.append, silent)
