"""What sft and grpo refuse before anything is loaded, in one line and at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import InProcess, refusal

from toolrl_cli.errors import ConfigError
from toolrl_cli.training.live_tools import choose_live_format

BOTH = "--resume continues what --overwrite would delete; leave one out"


@pytest.mark.parametrize("command", ["sft", "grpo", "quickstart"])
def test_a_run_is_not_both_resumed_and_overwritten(command: str, cli: InProcess, tmp_path: Path) -> None:
    words = () if command == "quickstart" else ("ex.jsonl", "--model", "m")
    assert refusal(cli(command, *words, "-o", tmp_path / "run", "--resume", "--overwrite"), 2) == BOTH


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_standard_input_is_no_training_data(command: str, cli: InProcess) -> None:
    line = refusal(cli(command, "-", "--model", "m", "-o", "run"), 2)
    assert line == "-: training data cannot come from standard input; give a file of toolrl prepare"


def test_an_unknown_preset_in_a_file_names_the_file(cli: InProcess, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("preset: desktop\n", "utf-8")
    line = refusal(cli("sft", "ex.jsonl", "--model", "m", "-o", "run", "--config", settings))
    assert line.startswith(f"{settings}: preset: ") and "'desktop' is not one of 'laptop', 'single-gpu'" in line


def test_tools_need_a_model_that_is_shown_tools(tiny_model: Path) -> None:
    with pytest.raises(ConfigError) as error:
        choose_live_format(str(tiny_model), None, None)
    assert str(error.value) == "the model's chat template shows no tools; --tools needs another model"


@pytest.mark.parametrize(
    ("words", "why", "status"),
    [
        (("sft", "none.jsonl"), "none.jsonl: no such file", 1),
        (("sft", "rows.jsonl"), "rows.jsonl:1: ", 1),
        (("grpo", "ex.jsonl", "--reward", "finegrained"), "unknown reward 'finegrained'", 2),
        (("grpo", "ex.jsonl", "--template", "none.jinja"), "none.jinja: cannot be read", 1),
    ],
)
def test_a_misspelled_input_is_found_before_anything_heavy_is_imported(
    words: tuple[str, ...], why: str, status: int, examples_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "ex.jsonl").symlink_to(examples_file)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi"}\n', "utf-8")
    code = "import sys; sys.modules['torch'] = None; from toolrl_cli.cli import app; app(prog_name='toolrl')"
    command = [sys.executable, "-c", code, *words, "--model", "m", "-o", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refusal(done, status).startswith(why)
