"""A training that is killed at any moment goes on with `--resume`, and ends to the bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Place, change_trainer, interrupt_at, read_rows, write_lines

from toolrl_cli.errors import ConfigError, DataError, Terminated
from toolrl_cli.manifest import hash_samples, read_manifest
from toolrl_cli.training.callbacks import rewind_log
from toolrl_cli.training.checkpoints import CONTENTS_FILE, STAGING, discard_broken, whole_checkpoints
from toolrl_cli.training.config import GrpoConfig, SftConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.run import RunSummary
from toolrl_cli.training.sft import train_sft

pytestmark = pytest.mark.slow

CLOCKS = {"step_time"}
"""Metrics that are wall-clock time."""
SHARED: dict[str, Any] = {"batch_size": 4, "max_steps": 14, "save_steps": 3}
SFT = {**SHARED, "learning_rate": 1e-2}
GRPO = {**SHARED, "num_generations": 2, "max_completion_length": 8, "learning_rate": 1e-2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft-lora": ("sft", {**SFT, "micro_batch_size": 2}),
    "sft-full": ("sft", {**SFT, "tuning": "full", "overrides": {"logging_steps": 4}}),
    "grpo-lora": ("grpo", {**GRPO, "micro_batch_size": 2, "beta": 0.1, "overrides": {"num_iterations": 3}}),
    "grpo-full": (
        "grpo",
        {**GRPO, "tuning": "full", "overrides": {"steps_per_generation": 2, "logging_steps": 2, "entropy_coef": 0.1}},
    ),
}
REWARD = """
def letters(completions, **columns):
    return [float(len(set(messages[-1]["content"])) % 7) for messages in completions]
"""


def run_all(jobs: list[dict[str, Any]]) -> list[list[int]]:
    """How each job ended, and how many events it had."""
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py"))]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    statuses: list[list[int]] = json.loads(done.stdout)
    assert not [status for status, _ in statuses if status not in (0, -9)], done.stderr
    return statuses


def results(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The metrics without wall-clock times, and the bytes of the weights and the completions."""
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_rows(run / "metrics.jsonl")]
    return rows, {p.name: p.read_bytes() for p in (*run.glob("*.safetensors"), *run.glob("completions.jsonl"))}


@pytest.fixture(params=RUNS)
def planned(
    request: pytest.FixtureRequest, trained: Place, tiny_model: Path, tmp_path: Path
) -> tuple[str, dict[str, Any]]:
    """A command and its configuration but for the output; `grpo-lora` continues the adapter of an SFT run."""
    (tmp_path / "reward.py").write_text(REWARD)
    command, options = RUNS[request.param]
    if command == "grpo":
        options = options | {"reward": f"{tmp_path / 'reward.py'}:letters"}
    model = trained.folder / "runs/sft" if request.param == "grpo-lora" else tiny_model
    return command, {"data": str(trained.folder / "ex.jsonl"), "model": str(model), **options}


def test_ten_kills_leave_no_trace(planned: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    command, config = planned
    job = {"command": command, "kill": None}
    [(status, events)] = run_all([job | {"config": config | {"output": str(tmp_path / "whole")}}])
    assert status == 0

    chance = random.Random(0)
    broken = job | {"config": config | {"output": str(tmp_path / "broken"), "resume": True}}
    kills = [(chance.randint(1, events // 4), chance.choice((0, chance.uniform(0, 0.1)))) for _ in range(10)]
    ended = run_all([*({**broken, "kill": kill} for kill in kills), broken])
    assert [status for status, _ in ended] == [-9] * 10 + [0]

    rows, files = results(tmp_path / "broken")
    wanted_rows, wanted_files = results(tmp_path / "whole")
    assert rows == wanted_rows
    assert files == wanted_files


def train(command: str, config: dict[str, Any], output: Path, **options: Any) -> RunSummary:
    """Run a planned training in this process."""
    told = config | {"data": Path(config["data"]), "output": output} | options
    return train_sft(SftConfig(**told)) if command == "sft" else train_grpo(GrpoConfig(**told))


def test_interrupts_leave_no_trace(
    planned: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stop falls elsewhere: between two uses of the same completions, at the end of an epoch, between two logs."""
    train(*planned, tmp_path / "whole")
    steps = [2, 9, 10]
    change_trainer(monkeypatch, planned[0], lambda trainer: trainer.add_callback(interrupt_at(steps)))
    while steps:
        with pytest.raises(KeyboardInterrupt):
            train(*planned, tmp_path / "broken", resume=True)
    assert train(*planned, tmp_path / "broken", resume=True).manifest.finished
    assert results(tmp_path / "broken") == results(tmp_path / "whole")
    rewards = [row["reward"] for row in results(tmp_path / "whole")[0] if row.get("reward")]
    assert planned[0] == "sft" or len(set(rewards)) > 3


def test_rows_grouped_by_length_come_in_the_order_of_an_unbroken_run(
    trained: Place, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"data": str(trained.folder / "ex.jsonl"), "model": str(tiny_model), **SFT, "batch_size": 2}
    config |= {"micro_batch_size": 1, "overrides": {"train_sampling_strategy": "group_by_length"}}
    train("sft", config, tmp_path / "whole")
    steps = [4, 8]
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(interrupt_at(steps)))
    while steps:
        with pytest.raises(KeyboardInterrupt):
            train("sft", config, tmp_path / "broken", resume=True)
    train("sft", config, tmp_path / "broken", resume=True)
    assert results(tmp_path / "broken") == results(tmp_path / "whole")


@pytest.fixture(scope="module")
def stopped(trained: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, marked as unfinished."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    model = str(trained.folder / "runs/sft")
    train("sft", {**SFT, "data": trained.folder / "ex.jsonl", "model": model}, run, max_steps=4, save_steps=2)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    return run


def test_a_checkpoint_without_any_of_its_bytes_is_passed_over(stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    older, newer = (run / f"checkpoints/checkpoint-{step}" for step in (2, 4))
    names = [path.name for path in newer.iterdir()]
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "loop_state_0.pt"} < set(names)
    for name in names:
        content = (newer / name).read_bytes()
        assert whole_checkpoints(run / "checkpoints") == [older, newer]
        (newer / name).write_bytes(content[:-1])
        if name != CONTENTS_FILE:  # its last byte is the end of a line
            assert whole_checkpoints(run / "checkpoints") == [older]
            (newer / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert whole_checkpoints(run / "checkpoints") == [older]
        (newer / name).unlink()
        assert whole_checkpoints(run / "checkpoints") == [older]
        (newer / name).write_bytes(content)


def test_what_is_broken_goes_and_what_is_whole_or_not_ours_stays(stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped / "checkpoints", tmp_path / "checkpoints")
    (folder / STAGING / "checkpoint-6").mkdir(parents=True)
    (folder / "checkpoint-4/optimizer.pt").unlink()
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-best")
    discard_broken(folder)
    assert {path.name for path in folder.iterdir()} >= {"checkpoint-2", "checkpoint-best"}
    assert not [name for name in (STAGING, "checkpoint-4") if (folder / name).exists()]


def test_a_run_whose_last_checkpoint_is_cut_off_goes_on_from_the_one_before(
    stopped: Path, trained: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    with (run / "checkpoints/checkpoint-4/optimizer.pt").open("rb+") as stream:
        stream.truncate(100)
    config = {**SFT, "data": trained.folder / "ex.jsonl", "model": str(trained.folder / "runs/sft")}
    train("sft", config, run, max_steps=4, save_steps=2, resume=True)
    assert results(run) == results(stopped)
    newest = run / "checkpoints/checkpoint-4"
    assert capfd.readouterr().err.splitlines()[:2] == [
        f"{newest}: passed over and removed: its optimizer.pt is not as it was saved",
        f"sft {run}: goes on after step 2",
    ]


def test_a_run_is_resumed_from_another_folder_but_not_with_other_data(
    stopped: Path, trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    monkeypatch.chdir(trained.folder)
    config = {**SFT, "data": Path("ex.jsonl"), "model": "runs/sft"}
    train("sft", config, run, max_steps=4, save_steps=2, resume=True)
    assert f"sft {run}: goes on after step 4\n" in capfd.readouterr().err
    other = tmp_path / "ex.jsonl"
    other.write_bytes(Path("ex.jsonl").read_bytes() * 2)
    with pytest.raises(ConfigError, match=r"cannot resume with another config\.data"):
        train("sft", config | {"data": other}, run, max_steps=4, save_steps=2, resume=True)


def test_resuming_nothing_says_that_it_begins_anew(
    trained: Place, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {**SFT, "data": trained.folder / "ex.jsonl", "model": str(tiny_model), "max_steps": 1}
    train("sft", config, tmp_path / "run", resume=True)
    assert f"sft {tmp_path / 'run'}: no checkpoint to resume; begins anew\n" in capfd.readouterr().err


@pytest.mark.parametrize(("kind", "file"), [("adapter", "adapter_model.safetensors"), ("base", "model.safetensors")])
def test_other_weights_than_at_the_start_are_refused(
    kind: str, file: str, trained: Place, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained.folder / "runs/sft" if kind == "adapter" else tiny_model, tmp_path / "model")
    config = {**SFT, "data": trained.folder / "ex.jsonl", "model": str(model), "max_steps": 1}
    train("sft", config, tmp_path / "run")
    change_byte(model / file)
    with pytest.raises(ConfigError, match=f"the {kind} weights of the model are not those that the run began with"):
        train("sft", config, tmp_path / "run", resume=True)


def change_byte(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_change_anywhere_in_weights_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(1000))
    seen = {hash_samples([path])}
    for position in (0, 500, 999):
        path.write_bytes(bytes(position) + b"x" + bytes(999 - position))
        seen.add(hash_samples([path]))
    path.write_bytes(bytes(1001))
    seen |= {hash_samples([path]), hash_samples([]), hash_samples([path.rename(tmp_path / "other.safetensors")])}
    assert len(seen) == 7


def test_sigterm_saves_the_step(
    trained: Place, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**SFT, "data": trained.folder / "ex.jsonl", "model": str(tiny_model)}
    handler = signal.getsignal(signal.SIGTERM)
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(interrupt_at([2], signal.SIGTERM)))
    with pytest.raises(Terminated):
        train("sft", config, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [path.name for path in whole_checkpoints(tmp_path / "run/checkpoints")] == ["checkpoint-2"]
    assert read_manifest(tmp_path / "run").finished is False


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 2), (2, 3), (9, 3)])
def test_a_log_is_cut_after_a_step(step: int, kept: int, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log.jsonl", [{"step": 1, "x": 0.1}, {"step": 1}, {"step": 2, "x": float("nan")}])
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as stream:
        stream.write(b'{"step": 3, "x')
    rewind_log(path, step)
    assert path.read_bytes() == b"".join(lines[:kept])
    rewind_log(tmp_path / "none.jsonl", step)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"step": "x"}', b"\xff"])
def test_a_log_with_another_line_is_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"log.jsonl:2: not a record of this run; remove the line"):
        rewind_log(path, 5)
