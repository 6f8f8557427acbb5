"""An evaluation that is killed at any point goes on with `--resume`, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import EXAMPLES, call, example, read_rows, snapshot, write_lines

from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.evaluation import EvalConfig, evaluate, read_recorded, rescore
from toolrl_cli.inference.base import Failure, Prompt
from toolrl_cli.jsonl import write_json
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Completion

pytestmark = pytest.mark.slow

RIGHT = '<think> look </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
ANSWERS = (RIGHT, RIGHT.replace("Oslo", "naïve \U0001f327"), RIGHT.replace("}}", ""), "nothing", "")
COUNT = 12
SLOW_RUN = """
import sys, time
from pathlib import Path
from toolrl_cli.evaluation import EvalConfig, evaluate
from toolrl_cli.inference.predictions import RecordedEngine, read_predictions
from toolrl_cli.formats import find_format

class Slow(RecordedEngine):
    def generate(self, prompts):
        for answered in super().generate(prompts):
            time.sleep(0.02)
            yield answered

data, predictions, output = map(Path, sys.argv[1:])
engine = Slow(read_predictions(predictions, find_format("toolrl")))
evaluate(EvalConfig(bench="examples", data=data, model="slow", output=output, resume=True), engine=engine)
"""


class Script:
    """An engine that answers by the number in the id."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        for prompt in prompts:
            yield prompt, Completion(ANSWERS[int(prompt.id) % len(ANSWERS)])


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    rows = [example(str(i), f"{i}: Oslo?", call("weather", city="Oslo")) for i in range(COUNT)]
    data = write_lines(tmp_path / "examples.jsonl", rows)
    return EvalConfig(bench="examples", data=data, model="slow", output=tmp_path / "out", resume=True)


def test_kills_at_any_time_leave_no_trace(tmp_path: Path, config: EvalConfig) -> None:
    rows = [{"id": str(i), "completion": ANSWERS[i % len(ANSWERS)]} for i in range(COUNT)]
    predictions = write_lines(tmp_path / "predictions.jsonl", rows)
    results = config.output / "results.jsonl"
    kept = 0
    for lines in (1, 4, 9):
        command = [sys.executable, "-c", SLOW_RUN, str(config.data), str(predictions), str(config.output)]
        with subprocess.Popen(command) as process:
            wait_for(lambda wanted=lines: count_lines(results) >= wanted)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert kept < lines <= count_lines(results) < COUNT
        kept = count_lines(results)
    assert not read_manifest(config.output).finished
    resumed = evaluate(config, engine=Script())
    whole = evaluate(replace(config, output=tmp_path / "whole"), engine=Script())
    assert resumed == whole
    assert (config.output / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert read_recorded(config.output).results == read_recorded(tmp_path / "whole").results
    assert count_lines(results) == COUNT


def wait_for(ready: object, seconds: float = 30.0) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.002)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_file_that_ends_at_any_byte_is_continued(tmp_path: Path, config: EvalConfig) -> None:
    evaluate(config, engine=Script())
    results, summary, manifest = (
        config.output / f"{name}" for name in ("results.jsonl", "summary.json", "manifest.json")
    )
    written, expected = results.read_bytes(), summary.read_bytes()
    unfinished = json.dumps(json.loads(manifest.read_text("utf-8")) | {"finished": False})
    emoji = written.index("\U0001f327".encode())
    for end in {*range(0, len(written), 211), emoji + 1, emoji + 2, len(written) - 1, len(written)}:
        results.write_bytes(written[:end])
        manifest.write_text(unfinished, "utf-8")
        summary.unlink()
        evaluate(config, engine=Script())
        assert (results.read_bytes(), summary.read_bytes()) == (written, expected)
        assert read_manifest(config.output).finished


def test_a_kill_while_the_manifest_is_written_leaves_a_folder_that_can_be_used(config: EvalConfig) -> None:
    config.output.mkdir()
    (config.output / ".manifest.json.x7_k2").write_text('{"command": "ev', "utf-8")
    assert evaluate(config, engine=Script()).n == COUNT


def test_answers_to_other_prompts_are_not_mixed_in(config: EvalConfig) -> None:
    evaluate(config, engine=Script())
    results = config.output / "results.jsonl"
    lines = results.read_text("utf-8").splitlines()
    other = json.dumps(json.loads(lines[3]) | {"prompt_hash": "0" * 16})
    results.write_text("\n".join([*lines[:3], other, *lines[4:6]]) + "\n", "utf-8")
    with pytest.raises(ConfigError, match="1 recorded answers, such as 3, are to other prompts than those of now"):
        evaluate(config, engine=Script())


class Failing(Script):
    """Gives some entries no answer, and stops hard after a number of prompts."""

    def __init__(self, *silent: str, limit: int | None = None) -> None:
        self.silent, self.limit = silent, limit
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion | Failure]]:  # type: ignore[override]
        for prompt, completion in super().generate(prompts):
            if len(self.asked) == self.limit:
                raise SetupError("the server is gone")
            self.asked.append(prompt.id)
            yield prompt, Failure("timed out") if prompt.id in self.silent else completion


def test_entries_without_an_answer_are_asked_again(tmp_path: Path, config: EvalConfig) -> None:
    whole = evaluate(replace(config, output=tmp_path / "whole"), engine=Script())
    first = evaluate(config, engine=Failing("2", "5", "7"))
    assert (first.errors.n, first.n) == (3, COUNT)
    # Two of three are answered now; the third keeps its error, and is not counted twice.
    engine, seen = Failing("5"), list[tuple[int, int]]()
    second = evaluate(config, engine=engine, progress=lambda done, total: seen.append((done, total)))
    assert (engine.asked, seen) == (["2", "5", "7"], [(10, 12), (11, 12), (12, 12)])
    assert (second.errors.n, second.n) == (1, COUNT)
    assert evaluate(config, engine=Failing()) == whole
    assert [row["id"] for row in read_rows(config.output / "results.jsonl")] == [str(i) for i in range(COUNT)]
    assert (config.output / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    engine = Failing()
    assert (evaluate(config, engine=engine), engine.asked) == (whole, [])


def test_a_server_that_is_still_down_leaves_a_finished_evaluation_as_it_is(config: EvalConfig) -> None:
    evaluate(config, engine=Failing("2", "5"))
    kept = snapshot(config.output)
    with pytest.raises(SetupError, match="the server is gone"):
        evaluate(config, engine=Failing(limit=0))
    assert snapshot(config.output) == kept
    # From the first new answer on it is unfinished, and says so.
    with pytest.raises(SetupError, match="the server is gone"):
        evaluate(config, engine=Failing(limit=1))
    with pytest.raises(DataError, match="not finished"):
        read_recorded(config.output)
    assert evaluate(config, engine=Failing()).errors.n == 0


def test_kills_while_entries_are_asked_again_leave_no_trace(tmp_path: Path, config: EvalConfig) -> None:
    """The first run fails on all entries but one; two that repeat it are killed."""
    rows = [{"id": str(i), "completion": ANSWERS[i % len(ANSWERS)]} for i in range(COUNT)]
    predictions = write_lines(tmp_path / "predictions.jsonl", rows)
    results = config.output / "results.jsonl"
    evaluate(config, engine=Failing(*map(str, range(1, COUNT))))
    for lines in (COUNT + 2, COUNT + 5):
        command = [sys.executable, "-c", SLOW_RUN, str(config.data), str(predictions), str(config.output)]
        with subprocess.Popen(command) as process:
            wait_for(lambda wanted=lines: count_lines(results) >= wanted)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not read_manifest(config.output).finished
    whole = evaluate(replace(config, output=tmp_path / "whole"), engine=Script())
    assert evaluate(config, engine=Script()) == whole
    assert read_recorded(config.output).results == read_recorded(tmp_path / "whole").results
    assert count_lines(results) == COUNT


def test_a_run_without_any_answer_can_be_resumed(config: EvalConfig) -> None:
    with pytest.raises(SetupError, match=r"none of 12 entries was answered.*repeat with --resume"):
        evaluate(config, engine=Failing(*map(str, range(COUNT))))
    assert evaluate(config, engine=Script()).errors.n == 0


def test_a_resumed_evaluation_goes_on_saying_that_it_was_rescored(config: EvalConfig) -> None:
    evaluate(config, engine=Failing("2"))
    rescored = rescore(config.output)
    before = read_manifest(config.output)
    # As if the reward had become another one since: what counts is what graded last.
    changed = before.hashes | {"reward": "0" * 16}
    write_json(config.output / "manifest.json", asdict(before) | {"hashes": changed})
    summary = evaluate(config, engine=Script())
    after = read_manifest(config.output)
    assert (after.rescored, after.hashes, after.finished) == (before.rescored, changed, True)
    assert before.rescored is not None and "rescored by toolrl" in before.rescored["notes"][0]
    assert summary.notes == rescored.summary.notes
    assert evaluate(config, engine=Script()) == summary


def test_a_killed_model_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row | {"id": f"{row['id']}{i}"} for i in range(4) for row in EXAMPLES]
    data = write_lines(tmp_path / "ex.jsonl", rows)
    whole = EvalConfig(
        bench="examples", data=data, model=str(tiny_model), output=tmp_path / "whole", max_new_tokens=48, batch_size=1
    )
    words = ["eval", "--bench", "examples", "--data", data, "--model", tiny_model, "-o", tmp_path / "out"]
    words += ["--max-new-tokens", 48, "--batch-size", 1]
    results = tmp_path / "out" / "results.jsonl"
    command = [sys.executable, "-m", "toolrl_cli", *map(str, words)]
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: count_lines(results) >= 3, seconds=120)
        process.kill()
    assert 3 <= count_lines(results) < len(rows)
    resumed = evaluate(replace(whole, output=tmp_path / "out", resume=True))
    assert resumed == evaluate(whole)
    assert (tmp_path / "out" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
