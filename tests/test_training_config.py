"""Options of sft and grpo: their bounds, YAML, `--set`, and what a dry run tells."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, refusal, snapshot

from toolrl_cli.commands.options import SETTINGS, parse_settings
from toolrl_cli.errors import ConfigError, SetupError, UsageError
from toolrl_cli.training.arguments import adopt_overrides, build_arguments
from toolrl_cli.training.config import GrpoConfig, SftConfig

SFT: dict[str, Any] = {"data": Path("ex.jsonl"), "model": "tiny", "output": Path("run")}


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (SftConfig, {"learning_rate": 0.0}, "--learning-rate 0.0: must be above 0"),
        (SftConfig, {"learning_rate": float("nan")}, "--learning-rate nan: must be above 0"),
        (SftConfig, {"limit": 0}, "--limit 0: must be above 0"),
        (SftConfig, {"max_steps": -3}, "--max-steps -3: must be above 0"),
        (SftConfig, {"epochs": -0.5}, "--epochs -0.5: must be above 0"),
        (SftConfig, {"seed": -1}, "--seed -1: must be 0 or more"),
        (SftConfig, {"batch_size": 12}, "--batch-size 12 must be a multiple of --micro-batch-size 8"),
        (GrpoConfig, {"beta": -0.1}, "--beta -0.1: must be 0 or more"),
        (GrpoConfig, {"temperature": float("inf")}, "--temperature inf: must be finite"),
        (GrpoConfig, {"resample_rounds": 5}, "--resample-rounds: is for --drop-flat-groups, which is not given"),
        (GrpoConfig, {"num_generations": 1}, "--num-generations 1: must be 2 or more and divide --batch-size 32"),
        (GrpoConfig, {"num_generations": 5}, "--num-generations 5: must be 2 or more and divide --batch-size 32"),
    ],
)
def test_impossible_options_are_refused(kind: type[SftConfig | GrpoConfig], options: Any, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        kind(**SFT, **options)
    assert str(refused.value) == why


def test_zero_is_a_seed_and_a_weight() -> None:
    config = GrpoConfig(**SFT, seed=0, beta=0.0)
    assert (config.seed, config.beta) == (0, 0.0)


def test_the_manifest_records_what_decides_the_result() -> None:
    assert SftConfig(**SFT, save_steps=5, seed=3, overrides={"weight_decay": 0.1}).recorded() == {
        "data": "ex.jsonl",
        "model": "tiny",
        "preset": None,
        "tuning": "lora",
        "adapter": "continue",
        "lora_rank": 16,
        "lora_alpha": None,
        "lora_targets": "all-linear",
        "learning_rate": 2e-4,
        "batch_size": 16,
        "micro_batch_size": 8,
        "epochs": 1.0,
        "max_steps": None,
        "limit": None,
        "format": None,
        "template": None,
        "overrides": {"weight_decay": 0.1},
        "max_length": 2048,
    }


def test_settings_are_read_as_yaml_and_numbers_as_python_reads_them() -> None:
    settings = ["a=1", "b=1e-6", "c=true", "d=text", "e=[1, 2]", "f={k: 1}", "g=x=y", "h=", "i=: bad: yaml"]
    assert parse_settings(settings, "--set") == {
        "a": 1,
        "b": 1e-6,
        "c": True,
        "d": "text",
        "e": [1, 2],
        "f": {"k": 1},
        "g": "x=y",
        "h": None,
        "i": ": bad: yaml",
    }


@pytest.mark.parametrize("setting", ["weight_decay", "=1", ""])
def test_a_setting_needs_a_key_and_a_value(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set .*: must read key=value$"):
        parse_settings([setting], "--set")


def test_arguments_take_the_options_and_the_overrides_win() -> None:
    from trl import GRPOConfig

    config = GrpoConfig(**SFT, batch_size=16, max_steps=7, seed=5, overrides={"weight_decay": 0.5, "max_steps": 9})
    made = build_arguments(GRPOConfig, config, {"num_generations": 4, "beta": 0.25})
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "max_steps", "seed")
    assert [getattr(made, name) for name in names] == [8, 2, 0.5, 9, 5]
    assert (made.num_generations, made.beta, made.output_dir) == (4, 0.25, "run/checkpoints")
    assert made.report_to == []


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"max_lenght": 3}, "--set max_lenght: no argument of trl.SFTConfig; did you mean 'max_length'?"),
        ({"output_dir": "x"}, "--set output_dir: the run folder is what --output names"),
        ({"qqqq": 3}, "--set qqqq: no argument of trl.SFTConfig"),
        ({"weight_decay": "much"}, "--set weight_decay=much: trl.SFTConfig wants float"),
        ({"bf16": "maybe"}, "--set bf16=maybe: trl.SFTConfig wants bool | None"),
        ({"optim": "adamw_torc"}, "--set optim=adamw_torc: unknown; did you mean 'adamw_torch'?"),
        ({"lr_scheduler_type": "cosin"}, "--set lr_scheduler_type=cosin: unknown; did you mean 'cosine'?"),
        ({"logging_strategy": "q"}, "--set logging_strategy=q: unknown; choose from no, steps, epoch"),
        ({"lr_scheduler_kwargs": "{a: "}, "--set lr_scheduler_kwargs={a: : must be a mapping, as {name: value}"),
        ({"report_to": "wandb"}, "--set report_to: give --track"),
        ({"eval_strategy": "steps"}, "--set eval_strategy: no data is held out; toolrl eval measures a run"),
        ({"push_to_hub": True}, "--set push_to_hub: give --push-to-hub ORG/NAME"),
        ({"deepspeed": "z3.json"}, "--set deepspeed: give --accelerate-config"),
        ({"save_strategy": "no"}, "--set save_strategy: give --save-steps"),
        ({"assistant_only_loss": True}, "--set assistant_only_loss: sft learns the completion of each example only"),
        ({"load_best_model_at_end": True}, "--set load_best_model_at_end: no data is held out"),
        ({"weight_decay": -0.1}, "--set weight_decay=-0.1: must lie in [0, inf)"),
        ({"adam_beta2": 1.0}, "--set adam_beta2=1.0: must lie in [0, 1)"),
    ],
)
def test_arguments_that_trl_cannot_take_are_refused(overrides: dict[str, Any], why: str) -> None:
    from trl import SFTConfig

    with pytest.raises(ConfigError) as refused:
        build_arguments(SFTConfig, SftConfig(**SFT, overrides=overrides), {})
    assert str(refused.value).startswith(why)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"num_iterations": 0}, "--set num_iterations=0: must lie in [1, inf)"),
        ({"steps_per_generation": 0}, "--set steps_per_generation=0: must lie in [1, inf)"),
        ({"top_k": -5}, "--set top_k=-5: must lie in [0, inf)"),
        ({"top_p": 7}, "--set top_p=7: must lie in [0, 1]"),
        ({"min_p": float("nan")}, "--set min_p=nan: must lie in [0, 1]"),
        ({"repetition_penalty": 0}, "--set repetition_penalty=0: must lie in (0, inf)"),
        (
            {"importance_sampling_level": "tokn"},
            "--set importance_sampling_level=tokn: unknown; did you mean 'token'?",
        ),
        ({"use_vllm": True}, "--set use_vllm: give --vllm"),
        ({"sync_ref_model": True}, "--set sync_ref_model: without --beta there is no reference model"),
        (
            {"generation_kwargs": {"topp": 0.5}},
            "--set generation_kwargs: topp is no setting of generation; did you mean 'top_p'?",
        ),
        ({"cache_implementation": "statik"}, "--set cache_implementation=statik: unknown; did you mean 'static'?"),
        (
            {"generation_kwargs": {"prompt_lookup_num_tokens": 3}},
            "--set generation_kwargs: prompt_lookup_num_tokens writes one completion at a time; leave it out",
        ),
        ({"generation_kwargs": {"top_p": 7}}, "--set generation_kwargs: top_p=7 must lie in [0, 1]"),
    ],
)
def test_arguments_that_trl_would_fail_with_later_are_refused(overrides: dict[str, Any], why: str) -> None:
    from trl import GRPOConfig

    with pytest.raises(UsageError) as refused:
        build_arguments(GRPOConfig, GrpoConfig(**SFT, overrides=overrides), {})
    assert str(refused.value) == why


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_a_kernel_that_is_missing_is_told() -> None:
    from trl import SFTConfig

    with pytest.raises(SetupError, match=r"liger-kernel is not installed; run: python -m pip install liger-kernel$"):
        build_arguments(SFTConfig, SftConfig(**SFT, overrides={"use_liger_kernel": True}), {})


def test_float16_takes_the_place_of_bfloat16() -> None:
    from trl import SFTConfig

    made = build_arguments(SFTConfig, SftConfig(**SFT, overrides={"fp16": True}), {})
    assert (made.fp16, made.bf16) == (True, False)


def test_yes_and_no_are_text_where_text_is_taken() -> None:
    from trl import SFTConfig

    given = parse_settings(["logging_strategy=no", "run_name=on", "torch_compile=no", "bf16=false"], "--set")
    adopted = adopt_overrides(SFTConfig, SftConfig(**SFT, overrides=given))
    assert adopted.overrides == {"logging_strategy": "no", "run_name": "on", "torch_compile": False, "bf16": False}
    from_yaml = adopt_overrides(SFTConfig, SftConfig(**SFT, overrides={"logging_strategy": False, "bf16": False}))
    assert from_yaml.overrides == {"logging_strategy": "no", "bf16": False}


@pytest.mark.parametrize("option", ["--set", "--set-reward"])
def test_a_key_that_is_given_twice_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=rf"^{option} beta=0.2: beta is given twice$"):
        parse_settings(["beta=0.1", "beta=0.2"], option)


@pytest.mark.parametrize(("command", "config"), [("sft", SftConfig), ("grpo", GrpoConfig)])
def test_help_shows_each_option_with_its_text(cli: InProcess, command: str, config: type) -> None:
    shown = " ".join(cli(command, "--help").stdout.split())
    for option in fields(config):
        name = ({"data": "data"} | SETTINGS).get(option.name, f"--{option.name.replace('_', '-')}")
        assert name in shown


def test_yaml_gives_options_and_the_command_line_wins(
    cli: InProcess, tmp_path: Path, examples_file: Path, tiny_model: Path
) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(f"model: {tiny_model}\nlearning-rate: 0.5\nmax-steps: 7\nset: [weight_decay=0.1]\nlimit: 2\n")
    output = tmp_path / "run"
    words = ("sft", examples_file, "-o", output, "--config", settings, "--max-steps", 2, "--dry-run", "--json")
    done = cli(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert (plan["output"], plan["finished"], plan["metrics"]) == (str(output), False, {})
    config = plan["config"]
    assert [config[name] for name in ("learning_rate", "max_steps", "limit")] == [0.5, 2, 2]
    assert config["overrides"] == {"weight_decay": 0.1}
    assert config["base_model"] == str(tiny_model)
    assert snapshot(tmp_path) == {"run.yaml": settings.read_bytes()}
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lerning_rate: 1", "no option 'lerning_rate' in toolrl sft; did you mean 'learning-rate'?"),
        ("max_step: 2", "no option 'max_step' in toolrl sft; did you mean 'max-steps'?"),
        ("zzz: 1", "no option 'zzz' in toolrl sft"),
        ("limit: 1\nseed: 2\nlimit: 3", "3: not YAML ('limit' is given twice)"),
        ("- a\n- b", "must hold a mapping of names to values"),
    ],
)
def test_a_yaml_file_that_does_not_fit_is_refused(
    cli: InProcess, tmp_path: Path, examples_file: Path, text: str, why: str
) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(text)
    line = refusal(cli("sft", examples_file, "--model", "m", "-o", tmp_path / "run", "--config", settings))
    assert line.startswith(f"{settings}:{why}" if why[0].isdigit() else f"{settings}: {why}")
