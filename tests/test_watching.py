"""Watching a run: its line a step, samples of completions, trackers, and the picture at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import EXAMPLES, WEATHER, Cli, InProcess, Place, call, example, read_rows, refusal, snapshot

from toolrl_cli.console import CONTROL
from toolrl_cli.errors import SetupError
from toolrl_cli.records import Example, Outcome, Rollout, Score, Target
from toolrl_cli.training.completions import Recorder, Sampled
from toolrl_cli.training.config import SftConfig, Tracker
from toolrl_cli.training.watching import Progress, best_and_worst, describe_step, show_samples

pytestmark = pytest.mark.slow

LOGGED: dict[str, Any] = {
    "loss": 0.0123,
    "reward": 1.25,
    "rewards/format/mean": 0.75,
    "rewards/format/std": 0.1,
    "rewards/correctness/mean": 0.5,
    "rewards/length/mean": None,
    "completions/mean_length": 84.4,
    "frac_reward_zero_std": 0.25,
    "exact": 0.125,
    "num_tokens": 1000.0,
}
ROWS = [Example.from_json(raw) for raw in EXAMPLES]


def state(step: int, steps: int = 4, main: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=steps, is_world_process_zero=main)


def sample(total: float, text: str = "text", id: str = "oslo", step: int = 0, reasons: Sequence[str] = ()) -> Sampled:
    rollout = Rollout(text, Target(response="no"), truncated=True, step=step)
    return Sampled(id, text, rollout, Score(total, {"format": total, "length": None}, Outcome.PARTIAL, tuple(reasons)))


def test_a_step_in_words() -> None:
    assert list(describe_step(LOGGED)) == [
        "reward 1.250 (format 0.75, correctness 0.50)",
        "exact 12%",
        "length 84",
        "flat 25%",
    ]
    assert list(describe_step({"loss": 2.5, "mean_token_accuracy": 0.5, "grad_norm": 1.0})) == [
        "loss 2.500",
        "accuracy 50.0%",
    ]
    assert list(describe_step({"reward": None, "loss": None})) == []


def test_a_line_a_step_with_speed_and_time_left(capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("toolrl_cli.training.watching.time.perf_counter", lambda: now[0])
    with ExitStack() as closing:
        progress = Progress("grpo", closing)
        arguments: Any = None
        control: Any = None
        progress.on_train_begin(arguments, state(0), control)
        for step, tokens in ((1, 1000.0), (2, 1500.0), (4, 2000.0)):
            now[0] += 10.0
            progress.on_log(arguments, state(step), control, {"loss": 1.0, "num_tokens": tokens})
        progress.on_log(arguments, state(4), control, {"train_runtime": 1.0, "train_loss": 1.0})
        progress.on_log(arguments, state(4, main=False), control, {"loss": 1.0})
    assert capfd.readouterr().err.splitlines() == [
        "grpo: step 1/4  loss 1.000  100 tokens/s  0:00:30 left",
        "grpo: step 2/4  loss 1.000  50 tokens/s  0:00:20 left",
        "grpo: step 4/4  loss 1.000  50 tokens/s",
    ]


def test_a_resumed_run_counts_from_where_it_stands(capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("toolrl_cli.training.watching.time.perf_counter", lambda: now[0])
    nothing: Any = None
    with ExitStack() as closing:
        progress = Progress("sft", closing)
        progress.on_train_begin(nothing, state(2), nothing)
        now[0] = 5.0
        progress.on_log(nothing, state(3), nothing, {"loss": 1.0, "num_tokens": 9000.0})
        now[0] = 10.0
        progress.on_log(nothing, state(4), nothing, {"loss": 1.0, "num_tokens": 9500.0})
    assert capfd.readouterr().err.splitlines() == [
        "sft: step 3/4  loss 1.000  0:00:05 left",
        "sft: step 4/4  loss 1.000  100 tokens/s",
    ]


def test_the_best_and_the_worst_are_shown_every_so_many_steps(capfd: Any) -> None:
    recorder = Recorder(show_samples(ROWS, 2))
    for step in (0, 1, 2):
        rows = [sample(1.0, "a[bold]b\x1b[31m", step=step), sample(3.0, step=step, id="tea", reasons=["why", "so"])]
        recorder.pass_on(rows)
        recorder.pass_on([sample(9.0, step=step)])  # a step may sample more than once
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if line.startswith("==")] == [
        "== step 0: best of 2, tea",
        "== step 0: worst of 2, oslo",
        "== step 2: best of 2, tea",
        "== step 2: worst of 2, oslo",
    ]
    assert shown.err.startswith(
        "== step 0: best of 2, tea\n\nprompt:\n  Tea in 4 minutes.\n\ncompletion:\n  text [cut off]\n\n"
        "reward 3 (format 3), partial:\n  why\n  so\n\n== step 0: worst"
    )
    assert "a[bold]b\\x1b[31m [cut off]" in shown.err
    assert "no fault found" in shown.err


def test_only_the_end_of_a_long_prompt_is_shown(capfd: Any) -> None:
    long = Example.from_json(example("oslo", "x" * 500 + "the end", call("weather", city="Oslo"), (WEATHER,)))
    show_samples([long], 1)([sample(1.0)])
    shown = capfd.readouterr().err
    assert "\n  ..." + "x" * 393 + "the end\n" in shown
    assert "== step 0: all equal, the first of 1, oslo" in shown


def test_equal_rewards_have_no_best() -> None:
    rows = [sample(1.0, id="a"), sample(1.0, id="b")]
    assert best_and_worst(rows) == {"all equal, the first": rows[0]}


def test_what_is_taken_aside_reaches_no_sink() -> None:
    seen: list[Any] = []
    recorder = Recorder(seen.extend)
    rollout, score = sample(1.0)[2:4]
    with recorder.aside() as rows:
        recorder(["a"], ["x"], [rollout], [score])
        recorder(["b"], ["x"], [rollout], [score])
    recorder(["c"], ["x"], [rollout], [score])
    assert ([row.id for row in rows], [row.id for row in seen]) == (["a", "b"], ["c"])


def test_a_run_shows_samples_and_leaves_a_picture(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from matplotlib.image import imread

    words = ["grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--max-steps", 2, "--show-every", 2]
    words += ["--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8, "--micro-batch-size", 4]
    done = cli(*words)
    assert done.exit_code == 0, done.stderr
    titles = [line for line in done.stderr.splitlines() if line.startswith("== ")]
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert titles
    assert all(title.startswith("== step 0: ") for title in titles)
    assert titles[0].rpartition(", ")[2] == rows[0]["id"]
    assert "format: no <think> block" in done.stderr
    assert not CONTROL.search(done.stderr.replace("\r\n", "\n"))
    assert imread(tmp_path / "run/curves.png").shape == (1080, 1200, 4)


def test_both_commands_leave_a_picture(trained: Place) -> None:
    from matplotlib.image import imread

    heights = [imread(trained.folder / f"runs/{name}/curves.png").shape[0] for name in ("sft", "grpo")]
    assert heights == [720, 1080]


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_a_tracker_that_is_not_installed_is_one_line_and_nothing_is_loaded(
    toolrl: Cli, tmp_path: Path, command: str
) -> None:
    missing = next(name for name in Tracker if importlib.util.find_spec(name) is None)
    words = (command, "none.jsonl", "--model", "none", "-o", "run", "--track", missing)
    line = refusal(toolrl(*words, cwd=tmp_path))
    assert line == f"--track {missing}: {missing} is not installed; run: python -m pip install {missing}"
    assert snapshot(tmp_path) == {}


def test_an_unknown_tracker_is_a_usage_error(cli: InProcess) -> None:
    done = cli("sft", "none.jsonl", "--model", "none", "-o", "run", "--track", "excel")
    assert done.exit_code == 2
    assert "excel" in done.stderr


def test_nothing_is_reported_unless_asked_and_trackers_change_no_result(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from trl import SFTConfig

    from toolrl_cli.training.arguments import build_arguments

    plain = SftConfig(data=tmp_path, model="m", output=tmp_path / "run")
    assert build_arguments(SFTConfig, plain, {}).report_to == []
    assert "track" not in plain.recorded()


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_metrics_reach_tensorboard(
    toolrl: Cli, examples_file: Path, tiny_model: Path, tmp_path: Path, command: str
) -> None:
    pytest.importorskip("tensorboard", reason="needs the test extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words: list[object] = [command, examples_file, "--model", tiny_model, "-o", "run", "--max-steps", 2]
    words += ["--batch-size", 4, "--track", "tensorboard", "--json"]
    if command == "grpo":
        words += ["--num-generations", 2, "--max-completion-length", 8, "--micro-batch-size", 4]
    done = toolrl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    (folder,) = (tmp_path / "run/checkpoints/runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for name in ("loss", "grad_norm", "num_tokens"):
        logged = [(row["step"], pytest.approx(row[name])) for row in read_rows(tmp_path / "run/metrics.jsonl")]
        assert [(event.step, event.value) for event in events.Scalars(f"train/{name}")] == logged


def test_a_missing_tracker_is_named_where_the_config_is_made(tmp_path: Path) -> None:
    missing = next(name for name in Tracker if importlib.util.find_spec(name) is None)
    with pytest.raises(SetupError, match="is not installed"):
        SftConfig(data=tmp_path, model="m", output=tmp_path, track=[missing])


def test_pages_are_given_back_after_the_first_step_and_then_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from toolrl_cli.training import callbacks

    now, given = [0.0], list[float]()
    monkeypatch.setattr(callbacks, "trim_heap", lambda: given.append(now[0]))
    monkeypatch.setattr("toolrl_cli.training.callbacks.time.monotonic", lambda: now[0])
    callback: Any = callbacks.TrimHeap()
    for now[0] in (100.0, 200.0, 399.0, 400.0, 500.0, 1000.0):
        callback.on_step_end(SimpleNamespace(device=torch.device("cpu")), None, None)
    now[0] = 2000.0
    callback.on_step_end(SimpleNamespace(device=torch.device("meta")), None, None)
    assert given == [100.0, 400.0, 1000.0]
