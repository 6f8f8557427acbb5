"""`--preset` of sft and grpo: what stands in them, and which of preset, YAML file and command line wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, call, example, refusal, write_lines

PAPER = {
    "preset": "toolrl-paper",
    "tuning": "full",
    "learning_rate": 1e-6,
    "batch_size": 512 * 4,
    "micro_batch_size": 8,
    "num_generations": 4,
    "epochs": 15.0,
    "max_prompt_length": 2048,
    "max_completion_length": 1024,
    "temperature": 1.0,
    "beta": 0.0,
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many examples as one step of the paper takes, and some."""
    rows = [example(f"e{i}", "How is Oslo?", call("weather", city="Oslo")) for i in range(520)]
    return write_lines(tmp_path_factory.mktemp("many") / "ex.jsonl", rows)


def resolve(cli: InProcess, command: str, data: Path, model: Path, *words: object) -> dict[str, Any]:
    """What a dry run prints."""
    done = cli(command, data, "--model", model, "-o", data.parent / "run", "--dry-run", "--json", *words)
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_the_paper_trains_512_prompts_a_step_for_15_passes(cli: InProcess, many: Path, tiny_model: Path) -> None:
    printed = resolve(cli, "grpo", many, tiny_model, "--preset", "toolrl-paper")
    assert PAPER.items() <= printed["config"].items()
    assert printed["plan"]["steps"] == 15


@pytest.mark.parametrize("command", ["sft", "grpo"])
@pytest.mark.parametrize("preset", ["laptop", "single-gpu"])
def test_a_preset_for_a_machine_is_complete(
    command: str, preset: str, cli: InProcess, many: Path, tiny_model: Path
) -> None:
    printed = resolve(cli, command, many, tiny_model, "--preset", preset, "--limit", 40)
    config = printed["config"]
    assert (config["preset"], config["tuning"]) == (preset, "lora")
    assert config["batch_size"] % config["micro_batch_size"] == 0
    assert printed["plan"]["steps"] > 0
    assert config["max_length" if command == "sft" else "max_prompt_length"] >= 1024


def test_the_command_line_wins_over_yaml_and_yaml_over_the_preset(
    cli: InProcess, many: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("learning_rate: 0.5\nepochs: 3\n")
    words = ("--limit", 40, "--epochs", 2, "--config", settings, "--preset", "laptop")
    for some in (words, (*words[4:], *words[:4])):
        config = resolve(cli, "grpo", many, tiny_model, *some)["config"]
        wanted = {"epochs": 2.0, "learning_rate": 0.5, "max_completion_length": 128, "lora_alpha": None}
        assert wanted.items() <= config.items()


def test_a_yaml_file_names_a_preset(cli: InProcess, many: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("limit: 40\npreset: laptop\nbatch-size: 64\nreward: [fine-grained, length=0.5]\n")
    config = resolve(cli, "grpo", many, tiny_model, "--config", settings)["config"]
    assert (config["preset"], config["batch_size"], config["lora_rank"]) == ("laptop", 64, 16)
    assert (config["learning_rate"], config["reward"]) == (1e-4, "fine-grained,length=0.5")
    other = resolve(cli, "grpo", many, tiny_model, "--config", settings, "--preset", "single-gpu")["config"]
    assert (other["preset"], other["batch_size"], other["lora_rank"]) == ("single-gpu", 64, 32)


def test_two_presets_are_wrong_usage(cli: InProcess, many: Path) -> None:
    words = ("grpo", many, "--model", "m", "-o", "run", "--preset", "laptop", "--preset", "single-gpu")
    assert refusal(cli(*words), 2) == "--preset: is given twice; presets do not add up"


@pytest.mark.parametrize(("command", "preset"), [("grpo", "desktop"), ("sft", "toolrl-paper")])
def test_an_unknown_preset_is_wrong_usage(command: str, preset: str, cli: InProcess, many: Path) -> None:
    done = cli(command, many, "--model", "m", "-o", "run", "--preset", preset)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"'{preset}' is not one of" in done.stderr


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("output_dir=x", "--set output_dir: the run folder is what --output names"),
        (
            "gradient_accumulation_steps=2",
            "--set gradient_accumulation_steps: give --batch-size and --micro-batch-size",
        ),
        ("num_train_epochs=2", "--set num_train_epochs: give --epochs"),
        ("reward_weights=[1, 1]", "--set reward_weights: give --reward NAME=WEIGHT"),
        ("hub_token=hf_x", "--set hub_token: it would stand in the manifest; log in with hf auth login"),
        ("optim_target_modules=[1]", "--set optim_target_modules=[1]: trl.GRPOConfig wants None | str | list[str]"),
        ("generation_kwargs={top_p: ", "--set generation_kwargs={top_p: : must be a mapping, as {name: value}"),
        ("label_names=text", "--set label_names=text: trl.GRPOConfig wants list[str] | None"),
        ("generation_kwargs=3", "--set generation_kwargs=3: trl.GRPOConfig wants dict | str | None"),
        ("top_k=true", "--set top_k=True: trl.GRPOConfig wants int"),
        ("top_p=null", "--set top_p=None: trl.GRPOConfig wants float"),
        ("beta=high", "--set beta=high: trl.GRPOConfig wants float"),
        ("num_generations=null", "--set num_generations=None: trl.GRPOConfig wants int"),
        ("num_generations=3", "--num-generations 3: must be 2 or more and divide --batch-size 32"),
        ("loss_type=gpro", "--set loss_type=gpro: trl.GRPOConfig wants grpo or dr_grpo or dapo or bnpo or cispo or"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    setting: str, why: str, cli: InProcess, many: Path, tiny_model: Path
) -> None:
    line = refusal(cli("grpo", many, "--model", tiny_model, "-o", many.parent / "run", "--set", setting), 2)
    assert line.startswith(why)


def test_set_wins_over_the_option_it_names_and_takes_nested_values(
    cli: InProcess, many: Path, tiny_model: Path
) -> None:
    settings = ("beta=0.25", "max_steps=3", "generation_kwargs={num_beams: 1}", "min_p=null")
    words = [word for setting in settings for word in ("--set", setting)]
    printed = resolve(cli, "grpo", many, tiny_model, "--beta", 0.5, "--max-steps", 9, "--limit", 40, *words)
    config = printed["config"]
    assert (config["beta"], config["max_steps"], printed["plan"]["steps"]) == (0.25, 3, 3)
    assert config["overrides"] == {
        "beta": 0.25,
        "max_steps": 3,
        "generation_kwargs": {"num_beams": 1},
        "min_p": None,
    }
