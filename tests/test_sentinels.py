"""Sentinels: each stops a run that is forced into its state, says why, and lets the run go on when told to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, InProcess, call, change_trainer, interrupt_at, read_rows, refusal, write_lines

from toolrl_cli.errors import ConfigError, TrainingStopped
from toolrl_cli.training.checkpoints import whole_checkpoints
from toolrl_cli.training.config import GrpoConfig, SftConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.sentinels import SENTINELS, Watch, read_limits
from toolrl_cli.training.sft import train_sft

ADVICE = {name: sentinel.advice for name, sentinel in SENTINELS.items()}


def only(name: str, window: int = 3) -> dict[str, Any]:
    """Settings that leave one sentinel on."""
    return {other: False for other in SENTINELS if other != name} | {"window": window}


# The judgement


def judge(settings: dict[str, Any], rows: list[dict[str, float]]) -> list[str | None]:
    """What the watch says to each row, the first of them logged at step 1."""
    watch = Watch(read_limits(settings))
    return [watch.feed(step, row) for step, row in enumerate(rows, start=1)]


def test_a_mean_over_the_window_is_judged_and_only_when_the_window_is_full() -> None:
    rows = [{"frac_reward_zero_std": share, "reward": 0.25} for share in (1.0, 1.0, 0.7, 1.0, 1.0, 1.0)]
    told = judge(only("zero-variance"), rows)
    assert told[:5] == [None] * 5
    assert told[5] == (
        "zero-variance: in 1.00 of the groups all completions earn the same, so nothing is learned (mean reward 0.25) "
        f"(limit 0.95, mean of steps 4-6); {ADVICE['zero-variance']}; step 6 is saved, "
        "and --resume --sentinel zero-variance=off goes on"
    )


def test_a_format_that_was_never_learned_is_no_collapse() -> None:
    assert judge(only("format", 1), [{"format_share": share} for share in (0.0, 0.5, 0.0)]) == [None] * 3
    told = judge(only("format", 1), [{"format_share": share} for share in (0.0, 0.6, 0.21, 0.19)])
    assert [text is None for text in told] == [True, True, True, False]


def test_calls_are_measured_against_the_targets() -> None:
    rows = [{"call_share": calls, "gold_call_share": 0.8} for calls in (0.0, 0.7, 0.31, 0.29)]
    told = judge(only("calls", 1), rows)
    assert told[:3] == [None] * 3
    assert told[3] and told[3].startswith("calls: 0.29 of the completions call tools, but 0.80 of the targets do")


def test_spurious_calls_are_a_share_of_the_targets_without_calls() -> None:
    rows = [{"spurious_call_share": share, "gold_call_share": 0.9} for share in (0.01, 0.07, 0.09)]
    told = judge(only("spurious", 1), rows)
    assert told[:2] == [None] * 2
    assert told[2] and told[2].startswith("spurious: 0.90 of the completions call a tool where no call is right")
    assert judge(only("spurious", 1), [{"spurious_call_share": 0.0, "gold_call_share": 1.0}] * 2) == [None] * 2


def test_entropy_is_measured_against_the_first_window() -> None:
    told = judge(only("entropy", 2), [{"entropy": value} for value in (1.0, 3.0, 0.12, 0.1, 0.09)])
    assert told[:4] == [None] * 4
    assert told[4] and told[4].startswith("entropy: the entropy fell to 0.0950, 0.048 of where it began")


def test_steps_without_the_metric_or_with_nan_are_left_out() -> None:
    rows: list[dict[str, Any]] = [
        {"completions/clipped_ratio": 1.0},
        {"loss": 0.5},
        {"completions/clipped_ratio": None},
    ]
    told = judge(only("length"), [*rows, {"completions/clipped_ratio": math.nan}])
    assert told[:2] == [None, None]
    assert told[2] and told[2].startswith("length: 1.00 of the completions are cut off (mean length nan tokens)")
    assert told[3] is None


def test_records_of_several_steps_fill_the_window() -> None:
    watch = Watch(read_limits(only("zero-variance", 10)))
    assert watch.feed(8, {"frac_reward_zero_std": 0.0}) is None
    assert watch.feed(16, {"frac_reward_zero_std": 1.0}) is None
    assert watch.feed(24, {"frac_reward_zero_std": 1.0}) is not None


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        (
            "entropi=1",
            "no such sentinel; did you mean 'entropy'?; there are nan, format, calls, spurious, zero-variance, "
            "entropy, length, drift, window",
        ),
        ("nan=3", "can only be switched off, as nan=off"),
        ("length=0", "must be a limit above 0 and up to 1, or off"),
        ("length=long", "must be a limit above 0 and up to 1, or off"),
        ("format=5", "must be a limit above 0 and up to 1, or off"),
        ("drift=0", "must be a limit above 0, or off"),
        ("window=off", "must be a whole number of steps, 1 or more"),
        ("window=2.5", "must be a whole number of steps, 1 or more"),
        ("window=.inf", "must be a whole number of steps, 1 or more"),
        ("window=true", "must be a whole number of steps, 1 or more"),
    ],
)
@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_settings_that_make_no_sense_are_one_line(
    command: str, setting: str, why: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = (command, examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8)
    line = refusal(cli(*words, "--sentinel", setting), status=2)
    assert line.startswith("--sentinel ") and line.endswith(f": {why}")


def test_a_config_file_sets_sentinels() -> None:
    limits = read_limits({"entropy": 0.01, "length": False, "calls": "off", "nan": False, "window": 5})
    kept = {name: sentinel.limit for name, sentinel in SENTINELS.items() if name not in ("length", "calls")}
    assert (limits.values, limits.window, limits.nan) == (kept | {"entropy": 0.01}, 5, False)
    with pytest.raises(ConfigError):
        read_limits({"entropy": True})


# NaN


def configure_sft(data: Path, model: Path, output: Path, **options: Any) -> SftConfig:
    settings: dict[str, Any] = {"tuning": "full", "batch_size": 6, "max_steps": 4, "save_steps": 1, **options}
    return SftConfig(data=data, model=str(model), output=output, **settings)


@pytest.mark.slow
def test_an_update_that_would_ruin_the_weights_is_left_out(
    examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped) as stopped:
        train_sft(configure_sft(examples_file, tiny_model, run, learning_rate=1e20))
    assert str(stopped.value) == (
        f"{run}: stopped by the sentinel nan: gradients of step 2 are NaN or infinite; "
        "step 2 is saved without an update, and --resume goes on after it; where it comes again, start a new run with "
        "a lower learning rate"
    )
    steps = [folder / "model.safetensors" for folder in whole_checkpoints(run / "checkpoints")]
    assert [path.parent.name for path in steps] == ["checkpoint-1", "checkpoint-2"]
    assert steps[0].read_bytes() == steps[1].read_bytes()
    assert json.loads((run / "manifest.json").read_text())["finished"] is False
    off = {"nan": False}
    train_sft(configure_sft(examples_file, tiny_model, run, learning_rate=1e20, resume=True, sentinels=off))
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert math.isnan(rows[-1]["grad_norm"])


@pytest.mark.parametrize("logging_steps", [1, 3])
@pytest.mark.slow
def test_after_one_bad_batch_the_run_goes_on(
    logging_steps: int, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(trainer: Any) -> None:
        stock = trainer.compute_loss

        def compute_loss(*args: Any, **options: Any) -> Any:
            return stock(*args, **options) * (math.nan if trainer.state.global_step == 1 else 1)

        trainer.compute_loss = compute_loss

    options = {"save_steps": 9, "overrides": {"logging_steps": logging_steps}}
    change_trainer(monkeypatch, "sft", spoil)
    with pytest.raises(TrainingStopped, match=r"gradients of step 2 are NaN or infinite"):
        train_sft(configure_sft(examples_file, tiny_model, tmp_path / "run", **options))
    monkeypatch.undo()
    assert train_sft(
        configure_sft(examples_file, tiny_model, tmp_path / "run", resume=True, **options)
    ).manifest.finished
    losses = [math.isfinite(row["loss"]) for row in read_rows(tmp_path / "run/metrics.jsonl")]
    assert losses == ([True, False, True, True] if logging_steps == 1 else [True])


def test_ruined_weights_are_not_saved(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped, match="33792 of 33792 weights are NaN or infinite after step 1, which is not"):
        train_sft(configure_sft(examples_file, tiny_model, run, learning_rate=1e39))
    assert whole_checkpoints(run / "checkpoints") == []


# What GRPO samples


def configure(data: Path, model: Path, output: Path, **options: Any) -> GrpoConfig:
    settings: dict[str, Any] = {
        "tuning": "full",
        "batch_size": 12,
        "micro_batch_size": 12,
        "num_generations": 2,
        "max_completion_length": 64,
        "temperature": 0.3,
        "learning_rate": 1e-6,
        "max_steps": 9,
        **options,
    }
    return GrpoConfig(data=data, model=str(model), output=output, **settings)


def teach(data: Path, model: Path, output: Path) -> Path:
    """A model that has learned the examples by heart."""
    train_sft(configure_sft(data, model, output, learning_rate=1e-2, max_steps=90, save_steps=90))
    return output


@pytest.fixture(scope="module")
def taught(examples_file: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers the examples right."""
    return teach(examples_file, tiny_model, tmp_path_factory.mktemp("taught") / "run")


@pytest.fixture(scope="module")
def eager(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that always calls a tool."""
    folder = tmp_path_factory.mktemp("eager")
    rows = [row if row["target"]["tool_calls"] else row | {"target": call("weather", city="Cook")} for row in EXAMPLES]
    return teach(write_lines(folder / "ex.jsonl", rows), tiny_model, folder / "run")


def become(model: Path, step: int) -> Any:
    """A callback that gives the trained model the weights of another one after a step."""
    from safetensors.torch import load_file
    from transformers import TrainerCallback

    class Become(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                kwargs["model"].load_state_dict(load_file(model / "model.safetensors"), strict=False)

    return Become()


def test_probabilities_that_nothing_can_be_drawn_from_are_named(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_model / "model.safetensors")
    (tmp_path / "nan").mkdir()
    save_file({name: value * math.nan for name, value in weights.items()}, tmp_path / "nan/model.safetensors")
    change_trainer(monkeypatch, "grpo", lambda trainer: trainer.add_callback(become(tmp_path / "nan", 2)))
    with pytest.raises(TrainingStopped, match="nan: the model gives no probabilities to sample from"):
        train_grpo(configure(examples_file, tiny_model, tmp_path / "run", save_steps=1))
    whole = whole_checkpoints(tmp_path / "run/checkpoints")
    assert [path.name for path in whole] == ["checkpoint-1", "checkpoint-2"]


def as_options(limits: dict[str, Any]) -> list[str]:
    """Words of the command line; a limit of False is off."""
    return [word for key, value in limits.items() for word in ("--sentinel", f"{key}={value or 'off'}")]


@pytest.mark.parametrize("name", ["format", "calls", "entropy", "spurious", "zero-variance", "length"])
@pytest.mark.slow
def test_a_run_that_goes_wrong_is_saved_and_stopped(
    name: str,
    cli: InProcess,
    request: pytest.FixtureRequest,
    examples_file: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixtures = {"entropy": ("tiny_model", "taught"), "spurious": ("taught", "eager")}
    before, after = map(request.getfixturevalue, fixtures.get(name, ("taught", "tiny_model")))
    change_trainer(monkeypatch, "grpo", lambda trainer: trainer.add_callback(become(after, 4)))
    run = tmp_path / "run"
    words = ["grpo", examples_file, "--model", before, "-o", run, "--tuning", "full", "--temperature", 0.3]
    words += ["--batch-size", 12, "--micro-batch-size", 12, "--num-generations", 2, "--max-completion-length", 64]
    words += ["--learning-rate", 1e-6, "--max-steps", 9]
    limits = only(name) | ({"length": 0.7} if name == "length" else {})  # the random model ends some by chance
    done = cli(*words, *as_options(limits))
    assert done.exit_code == 4, done.stderr
    steps = [row["step"] for row in read_rows(run / "metrics.jsonl")]
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"toolrl: {run}: stopped by the sentinel {name}: ")
    assert line.endswith(f"; step {steps[-1]} is saved, and --resume --sentinel {name}=off goes on")
    assert 5 < steps[-1] < 9
    assert [path.name for path in whole_checkpoints(run / "checkpoints")] == [f"checkpoint-{steps[-1]}"]
    assert json.loads((run / "manifest.json").read_text())["finished"] is False

    again = cli(*words, *as_options(limits), "--resume")
    assert (again.exit_code, len(read_rows(run / "metrics.jsonl"))) == (4, steps[-1] + 1)
    done = cli(*words, *as_options(limits | {name: False}), "--resume", "--json")
    assert (done.exit_code, json.loads(done.stdout)["finished"]) == (0, True)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == list(range(1, 10))


@pytest.mark.slow
def test_a_resumed_run_is_stopped_at_the_step_at_which_the_unbroken_one_is(
    taught: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for name, interrupts in (("whole", []), ("broken", [6])):

        def change(trainer: Any, interrupts: list[int] = interrupts) -> None:
            trainer.add_callback(become(tiny_model, 4))
            trainer.add_callback(interrupt_at(interrupts))

        change_trainer(monkeypatch, "grpo", change)
        options = {"sentinels": only("format")}
        if interrupts:
            with pytest.raises(KeyboardInterrupt):
                train_grpo(configure(examples_file, taught, tmp_path / name, **options))
        with pytest.raises(TrainingStopped) as stopped:
            train_grpo(configure(examples_file, taught, tmp_path / name, **options, resume=True))
        lines.append(str(stopped.value).replace(name, "run"))
        monkeypatch.undo()
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_vllm_that_drifts_from_the_trainer_stops_the_run(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric is that which TRL logs with vLLM; here a callback logs it."""
    from transformers import TrainerCallback

    class Drift(TrainerCallback):
        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logged = self.trainer._metrics["train"]["sampling/sampling_logp_difference/mean"]
            logged.append(0.02 if state.global_step < 4 else 0.7)

    change_trainer(monkeypatch, "grpo", lambda trainer: trainer.add_callback(Drift(trainer)))
    with pytest.raises(TrainingStopped, match=r"drift: vLLM's log-probabilities are 0\.47 from the trainer's"):
        train_grpo(configure(examples_file, tiny_model, tmp_path / "run", sentinels=only("drift")))


@pytest.mark.slow
def test_a_sane_run_is_left_alone(taught: Path, examples_file: Path, tmp_path: Path) -> None:
    options = {"temperature": 1.0, "sentinels": {"window": 3}, "learning_rate": 1e-4}
    summary = train_grpo(configure(examples_file, taught, tmp_path / "run", **options))
    assert summary.manifest.finished
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 9
    assert [row["gold_call_share"] for row in rows] == pytest.approx([10 / 12] * 9)


@pytest.mark.slow
def test_sft_is_not_judged_by_what_a_model_samples(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Its entropy falls as it learns."""
    options = {"learning_rate": 1e-2, "max_steps": 30, "sentinels": {"window": 1, "entropy": 0.9}}
    assert train_sft(configure_sft(examples_file, tiny_model, tmp_path / "run", **options)).manifest.finished
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["entropy"] < 0.9 * rows[0]["entropy"]


def test_values_that_are_not_finite_are_counted_and_huge_ones_are_not() -> None:
    torch = pytest.importorskip("torch")
    from toolrl_cli.training.callbacks import count_bad

    assert count_bad([]) == 0
    assert count_bad([torch.full((3,), 1e30), torch.zeros(2)]) == 0  # whose norm is infinite in float32
    assert count_bad([torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, -torch.inf], dtype=torch.bfloat16)]) == 3
