"""What is printed, where, and in which colours."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="needs a Unix terminal")

COLOUR = re.compile(r"\x1b\[[\d;]*(?:3[0-8]|9[0-7])[\d;]*m")
TRACK = "from toolrl_cli import console; print(sum(console.track(range(4), 'adding up', 4)))"
TABLE = (
    "from toolrl_cli import console\n"
    "console.print_table('marks', ('who', 'mark'), [('[red]é[/red]', '1'), ('b', '22')])"
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code away from any terminal."""
    clean = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=clean | environment, timeout=60)


def in_terminal(code: str, **environment: str) -> str:
    """Run code with standard output and error on a terminal; what the terminal received."""
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=clean | {"TERM": "xterm-256color"} | environment
    )
    os.close(theirs)
    received = b""
    try:
        while chunk := os.read(ours, 65536):
            received += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return received.decode()


def test_a_table_in_a_pipe() -> None:
    done = python(TABLE)
    assert done.stdout.splitlines() == [
        "marks                  ",
        "┏━━━━━━━━━━━━━━┳━━━━━━┓",
        "┃ who          ┃ mark ┃",
        "┡━━━━━━━━━━━━━━╇━━━━━━┩",
        "│ [red]é[/red] │    1 │",
        "│ b            │   22 │",
        "└──────────────┴──────┘",
    ]
    assert done.stderr == ""


def test_a_table_in_a_pipe_cuts_nothing() -> None:
    done = python(f"from toolrl_cli import console; console.print_table('t', ('', ''), [('a', {'x' * 900!r})])")
    assert f" {'x' * 900} " in done.stdout


def test_a_table_in_a_terminal_folds_what_is_too_long() -> None:
    code = f"from toolrl_cli import console; console.print_table('t', ('', ''), [('a', {'x' * 200!r})])"
    assert in_terminal(code, COLUMNS="60").count("x") == 200


def test_a_record() -> None:
    code = "from toolrl_cli import console; console.print_record('run', {{'a': {{'b': 'é'}}}}, as_json={}, stderr={})"
    assert python(code.format(True, False)).stdout == '{"a": {"b": "é"}}\n'
    table = python(code.format(False, False)).stdout
    assert [line for line in table.splitlines() if "│" in line] == ["│ a.b │     é │"]
    moved = python(code.format(False, True))
    assert (moved.stdout, moved.stderr) == ("", table)


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TERM": "xterm-256color", "COLUMNS": "80"}])
def test_no_progress_is_shown_where_nobody_looks(environment: dict[str, str]) -> None:
    done = python(TRACK, **environment)
    assert (done.stdout, done.stderr) == ("6\n", "")


def test_progress_in_a_terminal() -> None:
    received = in_terminal(TRACK)
    assert "adding up" in received
    assert COLOUR.search(received)
    assert "6\r\n" in received


def test_no_colours_where_they_are_not_wanted() -> None:
    received = in_terminal(TRACK, NO_COLOR="1")
    assert "adding up" in received
    assert not COLOUR.search(received)


def test_a_counter() -> None:
    code = (
        "from toolrl_cli import console\n"
        "with console.progress_counter('grading') as count:\n"
        "    count(1, 3), count(3, 3)"
    )
    assert re.search(r"grading .*3/3", in_terminal(code))


def test_a_log_line_goes_to_stderr() -> None:
    done = python("from toolrl_cli import console; console.log('[bold]note[/bold]'); console.print_text('result')")
    assert (done.stdout, done.stderr) == ("result\n", "[bold]note[/bold]\n")


def test_output_that_is_closed() -> None:
    command = [sys.executable, "-c", f"{TABLE}; console.print_json(1); console.print_text('x'); console.log('x')"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], timeout=60)
    assert done.returncode == 0
