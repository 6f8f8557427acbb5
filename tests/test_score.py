"""`toolrl score` as a user runs it, and the file scoring behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli.errors import ConfigError, DataError, GateFailed
from toolrl_cli.rewards import find_reward
from toolrl_cli.scoring import Tally, check, score_file

TARGET: dict[str, Any] = {"thought": "t", "tool_calls": [{"name": "f", "arguments": {"a": 1}}], "response": None}
GOLD_TEXT = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
EXACT: dict[str, Any] = {"id": "1", "completion": GOLD_TEXT, "target": TARGET}
NO_CALL: dict[str, Any] = {"id": "2", "step": 7, "completion": "no", "target": TARGET, "truncated": False}
CUT: dict[str, Any] = {"id": "3", "completion": "<think> t", "ground_truth": GOLD_TEXT, "truncated": True}
ROWS = [EXACT, NO_CALL, CUT]
SCORED = [
    {"total": 4.0, "format": 1.0, "correctness": 3.0, "outcome": "exact", "reasons": []},
    {
        "total": -3.0,
        "format": 0.0,
        "correctness": -3.0,
        "outcome": "no_call",
        "reasons": ["format: no <think> block", "format: no <tool_call> block", "missing call f"],
    },
    {
        "total": -3.0,
        "format": 0.0,
        "correctness": -3.0,
        "outcome": "truncated",
        "reasons": [
            "format: <think> is not closed",
            "format: no <tool_call> block",
            "missing call f",
            "truncated: cut off at the token limit",
        ],
    },
]
SUMMARY = {
    "reward": "fine-grained",
    "reward_digest": find_reward().digest,
    "rows": 3,
    "malformed_rows": 0,
    "mean": {"total": -0.6667, "format": 0.3333, "correctness": -1.0},
    "exact_rate": 0.3333,
    "outcomes": {
        "exact": 1,
        "partial": 0,
        "wrong": 0,
        "malformed": 0,
        "truncated": 1,
        "no_call": 1,
        "spurious_call": 0,
        "abstained": 0,
    },
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def toolrl(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolrl_cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=60)


def score(data: Path, output: Path | None = None, **options: Any) -> tuple[Tally, list[str]]:
    messages: list[str] = []
    return score_file(data, find_reward(), output, messages.append, **options), messages


def test_rows_are_written_with_their_score(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scored.jsonl"
    tally, messages = score(write(tmp_path / "rows.jsonl", *ROWS), out)
    assert read(out) == [{**row, "score": scored} for row, scored in zip(ROWS, SCORED, strict=True)]
    assert (tally.to_json(), messages) == (SUMMARY, [])


def test_scored_rows_can_be_scored_again(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *ROWS)
    score(rows, tmp_path / "once.jsonl")
    score(tmp_path / "once.jsonl", tmp_path / "twice.jsonl")
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()
    score(tmp_path / "once.jsonl", tmp_path / "once.jsonl", overwrite=True)
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()


BAD_ROWS = [
    ("{", "not JSON; each line must hold one JSON value"),
    ('{"completion": "', "not JSON; each line must hold one JSON value"),
    ("[" * 100_000, "nested too deeply"),
    ('{"completion": "x", "target": {}, "n": ' + "9" * 10_000 + "}", "a number has over 4300 digits"),
    ([EXACT], "row must be an object, not a list"),
    (None, "not JSON; each line must hold one JSON value"),
    (1.5, "row must be an object, not a number"),
    ({"target": TARGET}, 'no "completion" field; each row needs the text that a model wrote'),
    ({"completion": None, "target": TARGET}, "completion must be a string, not null"),
    ({"completion": ["x"], "target": TARGET}, "completion must be a string, not a list"),
    (
        {"completion": "x"},
        'no "target" and no "ground_truth" field; each row needs one of them to score against',
    ),
    ({"completion": "x", "target": None}, "target must be an object, not null"),
    ({"completion": "x", "target": {"tool_calls": {}, "thought": 1}}, "thought must be a string, not a number"),
    ({"completion": "x", "target": {"tool_calls": [{"name": "f"}]}}, "tool call arguments must be an object, not null"),
    ({"completion": "x", "target": TARGET, "truncated": "yes"}, "truncated must be a boolean, not a string"),
    ({"completion": "x", "ground_truth": 1}, "ground_truth must be a string, not a number"),
    (
        {"completion": "x", "ground_truth": "hello"},
        "ground_truth: not <think>, then <tool_call> or <response>, each on lines of their own",
    ),
]


@pytest.mark.parametrize(("row", "why"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_left_out_and_told(tmp_path: Path, row: object, why: str) -> None:
    data, out = write(tmp_path / "rows.jsonl", EXACT, row, NO_CALL), tmp_path / "out.jsonl"
    tally, messages = score(data, out)
    assert messages == [f"{data}:2: {why}"]
    assert [kept["id"] for kept in read(out)] == ["1", "2"]
    assert (tally.rows, tally.malformed_rows) == (2, 1)
    with pytest.raises(DataError) as error:
        check(tally, data, fail_under=-9)
    assert str(error.value) == f"{data}: 1 of 3 rows could not be scored; mend or remove them"
    with pytest.raises(DataError) as error:
        score(data, tmp_path / "strict.jsonl", strict=True)
    assert str(error.value) == f"{data}:2: {why}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


@pytest.mark.parametrize("content", ["", "\n \n", "{\n"])
def test_no_row_to_score(tmp_path: Path, content: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(content, "utf-8")
    with pytest.raises(DataError, match="no rows to score"):
        score(data, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"completion": "\xe9"}\n')
    for name, why in (("none.jsonl", "no such file"), ("latin.jsonl", "not UTF-8 text"), (".", "is a directory")):
        with pytest.raises(DataError, match=why):
            score(tmp_path / name)


def test_an_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    data, out = write(tmp_path / "rows.jsonl", EXACT), write(tmp_path / "out.jsonl", "precious")
    with pytest.raises(ConfigError, match=r"out\.jsonl: exists; add --overwrite to replace it"):
        score(data, out)
    assert out.read_text("utf-8") == "precious\n"
    score(data, out, overwrite=True)
    assert [row["score"]["total"] for row in read(out)] == [4.0]


def test_the_gate(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, NO_CALL)  # mean (4 - 3) / 2 = 0.5
    tally, _ = score(data)
    check(tally, data, 0.5)
    check(tally, data, None)
    with pytest.raises(GateFailed) as error:
        check(tally, data, 0.51)
    assert str(error.value) == f"{data}: mean total 0.5000 is under 0.51"


def test_command_prints_one_json_object(tmp_path: Path) -> None:
    done = toolrl("score", write(tmp_path / "rows.jsonl", *ROWS), "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, SUMMARY, "")


def test_command_prints_a_table(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", *ROWS)
    done = toolrl("score", data, "--reward", "length", "--output", tmp_path / "out.jsonl")
    words = {
        line.strip("│ ").split("│")[0].strip(): line.split()[-2] for line in done.stdout.splitlines() if "│" in line
    }
    assert (done.returncode, done.stderr) == (0, "")
    assert (words["reward"], words["rows"], words["mean.length"], words["outcomes.no_call"]) == (
        "length",
        "3",
        "0.0",
        "1",
    )
    assert sorted(name for name in words if name.startswith("outcomes")) == [
        "outcomes.exact",
        "outcomes.no_call",
        "outcomes.truncated",
    ]
    assert "reward_digest" not in words
    assert [row["score"]["length"] for row in read(tmp_path / "out.jsonl")] == [0.0, 0.0, 0.0]


def test_command_in_a_pipe(tmp_path: Path) -> None:
    stdin = "".join(json.dumps(row) + "\n" for row in [EXACT, {"id": "é\ud800\u2028", **NO_CALL}])
    done = toolrl("score", "-", "-o", "-", "--json", stdin=stdin)
    rows = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert [row["score"] for row in rows] == SCORED[:2]
    assert (done.returncode, json.loads(done.stderr)["rows"]) == (0, 2)
    again = toolrl("score", "-", stdin=done.stdout)
    assert (again.returncode, "score -" in again.stdout) == (0, True)


def test_command_exit_statuses(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, "broken", NO_CALL)
    bad = toolrl("score", data, "--json", "--fail-under", "9")
    assert (bad.returncode, json.loads(bad.stdout)["malformed_rows"]) == (1, 1)
    assert bad.stderr.splitlines() == [
        f"{data}:2: not JSON; each line must hold one JSON value",
        f"toolrl: {data}: 1 of 3 rows could not be scored; mend or remove them",
    ]
    strict = toolrl("score", data, "--strict")
    assert (strict.returncode, strict.stdout) == (1, "")
    assert strict.stderr == f"toolrl: {data}:2: not JSON; each line must hold one JSON value\n"
    gate = toolrl("score", write(tmp_path / "good.jsonl", NO_CALL), "--fail-under", "2.5")
    assert (gate.returncode, gate.stderr.endswith("mean total -3.0000 is under 2.5\n")) == (3, True)
    unknown = toolrl("score", data, "--reward", "lenght")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "toolrl: unknown reward 'lenght'; choose from fine-grained, length; did you mean 'length'?\n",
    )
    assert toolrl("score", data, "--fail-under", "high").returncode == 2


def test_a_reader_that_leaves_the_pipe_early(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", *([EXACT] * 5000))
    command = f"{sys.executable} -m toolrl_cli score {data} -o - | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_help_imports_no_engine() -> None:
    code = "import sys; from toolrl_cli.commands import score; print('toolrl_cli.rewards' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
