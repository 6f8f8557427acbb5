"""`--num-processes`: what several processes compute, write and print, and how they end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Cli, InProcess, read_rows, refusal

from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.manifest import Manifest, read_manifest
from toolrl_cli.training.config import SftConfig
from toolrl_cli.training.launch import exit_status, patience, starts_processes
from toolrl_cli.training.run import finish

pytestmark = pytest.mark.slow

ROW_NOISE = Path(__file__).parent / "row_noise"
"""Sampling that does not depend on the number of processes, and a reward that a random model can earn."""
EXACT = ("--tuning", "full", "--set", "bf16=false", "--learning-rate", "1e-3")
GRPO = ("--batch-size", 8, "--num-generations", 4, "--micro-batch-size", 2, "--max-completion-length", 12)
SFT = ("--batch-size", 4, "--micro-batch-size", 1)


def environment() -> dict[str, str]:
    """The tests' noise and reward on the path."""
    folders = [str(ROW_NOISE), str(ROW_NOISE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(folders)}


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(run / "model.safetensors"))


def difference(run: Path, other: Path) -> float:
    """The largest difference between two models' weights."""
    first, second = weights(run), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


LOST = """
import signal
from contextlib import ExitStack
from toolrl_cli.training.callbacks import StopOnSignal
with ExitStack() as closing:
    StopOnSignal(closing).on_train_begin(None, None, None)
    signal.raise_signal(signal.SIGTERM)
    raise RuntimeError("connection closed")
"""
"""A training that the launcher ends, and that meets the loss of another process only then."""


INTERRUPTED = """
import sys
import torch.distributed
from toolrl_cli.training.launch import main_process_speaks
try:
    with main_process_speaks():
        torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("in the group" if torch.distributed.is_initialized() else "left it")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, toolrl: Cli, tiny_model: Path, examples_file: Path) -> Path:
    """The same GRPO in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    words = ("grpo", examples_file, "--model", tiny_model, "--reward", "letters:share", *GRPO, *EXACT, "--max-steps", 4)
    for name, processes in (("one", ()), ("two", ("--num-processes", 2))):
        done = toolrl(*words, *processes, "-o", folder / name, "--json", **environment())
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.out").write_text(done.stdout)
        (folder / f"{name}.err").write_text(done.stderr)
    return folder


def test_a_preflight_and_the_filter_of_flat_groups(
    toolrl: Cli, tiny_model: Path, examples_file: Path, tmp_path: Path
) -> None:
    words = (
        "grpo",
        examples_file,
        "--model",
        tiny_model,
        "--reward",
        "letters:mostly",
        "-o",
        tmp_path / "run",
        "--json",
    )
    options = ("--max-steps", 3, "--preflight", 4, "--drop-flat-groups", "--num-processes", 2)
    done = toolrl(*words, *GRPO, *EXACT, *options, **environment())
    assert done.returncode == 0, done.stderr
    foretold = json.loads((tmp_path / "run/preflight.json").read_text())
    assert (foretold["prompts"], foretold["samples"], foretold["rewards"]["n"]) == (6, 4, 24)
    assert 0 < foretold["no_signal"] < 1
    rows = read_rows(tmp_path / "run/completions.jsonl")
    groups = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    assert all(len({row["id"] for row in group}) == 1 for group in groups)
    flat = [len({row["score"]["total"] for row in group}) == 1 for group in groups]
    dropped = [group[0].get("dropped", False) for group in groups]
    assert any(flat)
    assert all(gone for gone, useless in zip(dropped, flat, strict=True) if useless)
    assert [row["step"] for row in rows if not row.get("dropped")] == [0] * 8 + [1] * 8 + [2] * 8
    assert json.loads(done.stdout)["metrics"]["step"] == 3


class TestTwoProcessesAreOne:
    def test_in_every_completion_and_its_score(self, runs: Path) -> None:
        one, two = (read_rows(runs / name / "completions.jsonl") for name in ("one", "two"))
        assert len(two) == 4 * 8
        assert one == two

    def test_in_the_reward_curve(self, runs: Path) -> None:
        one, two = (read_rows(runs / name / "metrics.jsonl") for name in ("one", "two"))
        assert [row["step"] for row in two] == [1, 2, 3, 4]
        for name in ("reward", "reward_std", "completions/mean_length"):
            assert [row[name] for row in one] == [row[name] for row in two]
        assert len({row["reward"] for row in one}) == 4
        for name in ("grad_norm", "entropy"):
            assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)

    def test_in_the_weights(self, runs: Path, tiny_model: Path) -> None:
        """Each of 4 steps moves a weight by up to 1e-3."""
        assert difference(runs / "one", tiny_model) > 2e-3
        assert difference(runs / "one", runs / "two") < 2e-5

    def test_the_main_process_alone_prints_and_writes(self, runs: Path) -> None:
        printed = json.loads((runs / "two.out").read_text())
        assert printed["config"]["num_processes"] == 2
        steps = [line.split("  ")[0] for line in (runs / "two.err").read_text().splitlines()]
        assert steps == [f"grpo: step {n}/4" for n in (1, 2, 3, 4)]
        manifest = read_manifest(runs / "two")
        assert (manifest.finished, manifest.config["num_processes"]) == (True, 2)
        assert "num_processes" not in read_manifest(runs / "one").config

    def test_another_number_of_processes_does_not_resume(self, runs: Path, cli: InProcess, tiny_model: Path) -> None:
        config = read_manifest(runs / "two").config
        words = ("grpo", config["data"], "--model", tiny_model, "--reward", "letters:share", *GRPO, *EXACT)
        sys.path.insert(0, str(ROW_NOISE))
        try:
            done = cli(*words, "--max-steps", 4, "-o", runs / "two", "--resume")
        finally:
            sys.path.remove(str(ROW_NOISE))
        assert "cannot resume with another config.num_processes (2 before, None now)" in refusal(done)


def sft_words(data: Path, model: Path, output: Path) -> tuple[object, ...]:
    return ("sft", data, "--model", model, "-o", output, *SFT, *EXACT)


def test_sft_started_by_the_user(toolrl: Cli, tiny_model: Path, examples_file: Path, tmp_path: Path) -> None:
    """`accelerate launch -m toolrl_cli` is no other than `--num-processes`, and torchrun neither."""
    launchers = (
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0),
        ("torch.distributed.run", "--standalone", "--nproc-per-node", 2),
    )
    done = toolrl(*sft_words(examples_file, tiny_model, tmp_path / "one"), "--max-steps", 3)
    assert done.returncode == 0, done.stderr
    for number, launcher in enumerate(launchers):
        words = (*sft_words(examples_file, tiny_model, tmp_path / str(number)), "--max-steps", 3, "--json")
        command = [sys.executable, "-m", *launcher, "-m", "toolrl_cli", *words]
        started = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
        assert started.returncode == 0, started.stderr
        assert json.loads(started.stdout)["config"]["num_processes"] == 2
        assert difference(tmp_path / "one", tmp_path / str(number)) < 2e-5
        assert [row["step"] for row in read_rows(tmp_path / str(number) / "metrics.jsonl")] == [1, 2, 3]


def test_an_accelerate_configuration(toolrl: Cli, tiny_model: Path, examples_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 2\n"
        "machine_rank: 0\nmain_process_port: 0\nmixed_precision: 'no'\nuse_cpu: false\n"
    )
    words = (*sft_words(examples_file, tiny_model, tmp_path / "run"), "--max-steps", 1)
    done = toolrl(*words, "--accelerate-config", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"]["num_processes"] == 2


class TestRefusals:
    """All before a process is started."""

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("--num-processes", 3), "--batch-size 4 must be a multiple of the 3 processes"),
            (("--num-processes", 8), "--batch-size 4 must be a multiple of the 8 processes"),
            (("--num-processes", 0), "--num-processes 0: must be above 0"),
            (
                ("--num-processes", 2, "--batch-size", 12, "--micro-batch-size", 4),
                "--batch-size 12 must be a multiple of --micro-batch-size 4 times 2 processes",
            ),
            (("--accelerate-config", "missing.yaml"), "missing.yaml: no such file"),
        ],
    )
    def test_what_cannot_be_shared(
        self, words: tuple[object, ...], why: str, cli: InProcess, examples_file: Path, tmp_path: Path
    ) -> None:
        done = cli("sft", examples_file, "--model", "none", "-o", tmp_path / "run", "--batch-size", 4, *words)
        assert refusal(done, 2 if why.startswith("--") else 1) == why

    def test_a_configuration_without_a_number(self, cli: InProcess, examples_file: Path, tmp_path: Path) -> None:
        path = tmp_path / "accelerate.yaml"
        path.write_text("num_processes: many\n")
        done = cli("sft", examples_file, "--model", "none", "-o", tmp_path / "run", "--accelerate-config", path)
        assert refusal(done) == f"{path}: names no num_processes; give --num-processes"

    @pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
    def test_shards_without_an_accelerator(
        self, kind: str, cli: InProcess, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
        path = tmp_path / "accelerate.yaml"
        path.write_text(f"num_processes: 2\ndistributed_type: {kind}\n")
        done = cli("sft", examples_file, "--model", "none", "-o", tmp_path / "run", "--accelerate-config", path)
        assert refusal(done) == f"{path}: {kind} needs accelerators, and there is none; use MULTI_CPU"

    def test_what_accelerate_refuses(self, cli: InProcess, examples_file: Path, tmp_path: Path) -> None:
        path = tmp_path / "accelerate.yaml"
        path.write_text("num_processes: 2\ndistributed_type: MULTI_GPU\nnonsense: 1\n")
        done = cli("sft", examples_file, "--model", "none", "-o", tmp_path / "run", "--accelerate-config", path)
        assert refusal(done).startswith("accelerate cannot start the processes: The config file at ")

    def test_what_every_process_finds_is_told_once(self, toolrl: Cli, examples_file: Path, tmp_path: Path) -> None:
        words = ("sft", examples_file, "--model", "none", "-o", tmp_path / "run", "--batch-size", 4)
        assert refusal(toolrl(*words, "--num-processes", 2)).startswith("none: no such model; ")
        assert not (tmp_path / "run").exists()


def config(**options: Any) -> SftConfig:
    return SftConfig(data=Path("d"), model="m", output=Path("o"), **options)


class TestWhoStartsProcesses:
    def test_those_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        assert [starts_processes(config(num_processes=n)) for n in (None, 1, 2)] == [False, False, True]
        assert not starts_processes(config(num_processes=2, dry_run=True))

    def test_none_within_one_that_was_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert not starts_processes(config(num_processes=2))
        with pytest.raises(ConfigError, match="--num-processes 4: but 2 were started"):
            starts_processes(config(num_processes=4))

    def test_a_world_without_a_launcher_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Job schedulers set WORLD_SIZE to the number of their machines."""
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert starts_processes(config(num_processes=4))


def test_what_all_meet_is_told_by_the_main_process_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {}
    for rank in ("0", "1", "7"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("RANK", rank)
        waits[rank] = [patience(SetupError("no model")), patience(RuntimeError("connection closed by peer"))]
    assert waits == {"0": [0.0, 10.0], "1": [6.0, 6.0], "7": [10.0, 10.0]}


def test_the_exit_status_of_a_process_is_that_of_all() -> None:
    assert [exit_status(1, code, []) for code in (1, 4, 130)] == [1, 4, 130]
    assert exit_status(1, -signal.SIGTERM, [signal.SIGTERM]) == 143
    with pytest.raises(SetupError, match="process 1 was killed by SIGKILL, for want of memory perhaps"):
        exit_status(1, -signal.SIGKILL, [])


def start(output: Path, *words: object) -> subprocess.Popen[str]:
    """A training in two processes, past its first step."""
    command = [sys.executable, "-m", "toolrl_cli", *map(str, words), "-o", str(output), "--num-processes", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = output / "metrics.jsonl"
    give_up = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < give_up and process.poll() is None:
        time.sleep(0.1)
    return process


@pytest.fixture
def long_run(tiny_model: Path, examples_file: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two processes in a training that takes minutes."""
    words = ("sft", examples_file, "--model", tiny_model, *SFT, *EXACT, "--max-steps", 20000)
    process = start(tmp_path / "run", *words)
    yield process
    if process.poll() is None:
        process.kill()


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes, in the order of their ranks."""
    children = psutil.Process(process.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


class TestAnEnd:
    def test_what_one_process_meets_is_told_with_its_number(
        self, toolrl: Cli, tiny_model: Path, examples_file: Path, tmp_path: Path
    ) -> None:
        words = ("grpo", examples_file, "--model", tiny_model, "--reward", "letters:fail_in_second", *GRPO)
        done = toolrl(*words, "-o", tmp_path / "run", "--num-processes", 2, **environment())
        assert (done.returncode, done.stdout, done.stderr.splitlines()) == (
            1,
            "",
            ["process 1 of 2 failed:", "toolrl: reward letters:fail_in_second raises RuntimeError: no judge today"],
        )

    @pytest.mark.parametrize("processes", [1, 2])
    def test_a_loss_that_shows_after_sigterm_is_not_told(self, processes: int) -> None:
        world = {"LOCAL_RANK": "0", "WORLD_SIZE": str(processes)}
        done = subprocess.run(
            [sys.executable, "-c", LOST], env=os.environ | world, capture_output=True, text=True, check=False
        )
        if processes > 1:
            assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
        else:
            assert done.returncode == 1
            assert "finishing this step" in done.stderr and "connection closed" in done.stderr

    def test_ctrl_c_leaves_the_group(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "store")]
        done = subprocess.run(
            command, env=os.environ | {"LOCAL_RANK": "0"}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "left it\n"), done.stderr

    def test_ctrl_c_saves_once_and_resume_goes_on_exactly(
        self, toolrl: Cli, tiny_model: Path, examples_file: Path, tmp_path: Path
    ) -> None:
        words = ("sft", examples_file, "--model", tiny_model, *SFT, *EXACT, "--max-steps", 60)
        interrupted = start(tmp_path / "run", *words)
        ranks = ranks_of(interrupted)
        interrupted.send_signal(signal.SIGINT)
        stdout, stderr = interrupted.communicate(timeout=60)
        assert [line for line in stderr.splitlines() if not line.startswith("sft: step")] == [
            "finishing this step and saving it; press Ctrl-C again to stop at once",
            "interrupted; finished work is kept",
        ]
        assert (interrupted.returncode, stdout, len(ranks), gone(ranks)) == (130, "", 2, True)
        step = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
        checkpoints = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
        assert [path.name for path in checkpoints] == [f"checkpoint-{step}"]
        for output, resume in (("run", ("--resume",)), ("unbroken", ())):
            done = toolrl(*words, "-o", tmp_path / output, "--num-processes", 2, *resume)
            assert done.returncode == 0, done.stderr
        assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 61))
        assert difference(tmp_path / "run", tmp_path / "unbroken") == 0.0

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
    def test_ranks_end_with_their_launcher(self, long_run: subprocess.Popen[str], number: int, status: int) -> None:
        ranks = ranks_of(long_run)
        long_run.send_signal(number)
        assert (long_run.wait(60), gone(ranks)) == (status, True)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_no_rank_outlives_another(self, long_run: subprocess.Popen[str], rank: int) -> None:
        ranks = ranks_of(long_run)
        ranks[rank].kill()
        _, stderr = long_run.communicate(timeout=60)
        assert (long_run.returncode, gone(ranks)) == (1, True)
        assert [line for line in stderr.splitlines() if not line.startswith("sft: step")] == [
            f"toolrl: process {rank} was killed by SIGKILL, for want of memory perhaps; continue with --resume"
        ]


def test_a_run_without_weights_is_not_finished(tmp_path: Path) -> None:
    manifest = Manifest.create("sft", {}, seed=0, format="toolrl", hashes={})
    with pytest.raises(SetupError, match="the trainer saved no weights, only the shards in its checkpoints"):
        finish(tmp_path, manifest, None)
    assert not any(tmp_path.iterdir())
