"""An evaluation that is killed at any point goes on with `--resume`, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EXAMPLES, call, example, write_lines

from toolrl_cli.errors import ConfigError
from toolrl_cli.evaluation import EvalConfig, evaluate, read_recorded
from toolrl_cli.inference.base import Prompt
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Completion

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


@pytest.mark.slow
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
