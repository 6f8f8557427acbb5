"""`toolrl score` as a user runs it, and the file scoring behind it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli.errors import ConfigError, DataError, GateFailed
from toolrl_cli.records import Json, Outcome, Score
from toolrl_cli.rewards import find_reward
from toolrl_cli.scoring import ScoreConfig, check, score_file
from toolrl_cli.scoring.run import missed_limits, read_gates
from toolrl_cli.scoring.tally import Tally

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
    "n": 3,
    "malformed_rows": 0,
    "mean": {"total": -0.6667, "format": 0.3333, "correctness": -1.0},
    # totals 4, -3, -3: deviations 14/3, -7/3, -7/3, so the variance is (196 + 49 + 49) / 9 / 2 = 49/3
    "std": {"total": 4.0415, "format": 0.5774, "correctness": 3.4641},
    "percentiles": {
        "total": {"p5": -3.0, "p25": -3.0, "p50": -3.0, "p75": 4.0, "p95": 4.0},
        "format": {"p5": 0.0, "p25": 0.0, "p50": 0.0, "p75": 1.0, "p95": 1.0},
        "correctness": {"p5": -3.0, "p25": -3.0, "p50": -3.0, "p75": 3.0, "p95": 3.0},
    },
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


def score(data: Path, output: Path | None = None, **options: Any) -> tuple[Json, list[str]]:
    """The summary without what the clock says, and the lines about rows left out."""
    messages: list[str] = []
    summary = score_file(ScoreConfig(data=data, output=output, **options), messages.append)
    return untimed(summary), messages


def untimed(summary: Json) -> Json:
    assert summary["rows_per_second"] > 0
    return {name: value for name, value in summary.items() if name not in ("seconds", "rows_per_second")}


def test_rows_are_written_with_their_score(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scored.jsonl"
    summary, messages = score(write(tmp_path / "rows.jsonl", *ROWS), out)
    assert read(out) == [{**row, "score": scored} for row, scored in zip(ROWS, SCORED, strict=True)]
    assert (summary, messages) == (SUMMARY, [])


def test_scored_rows_can_be_scored_again(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *ROWS)
    score(rows, tmp_path / "once.jsonl")
    score(tmp_path / "once.jsonl", tmp_path / "twice.jsonl")
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()
    (tmp_path / "link.jsonl").symlink_to("once.jsonl")
    for same in ("once.jsonl", "link.jsonl"):
        with pytest.raises(ConfigError, match=f"{same}: is an input, and would be lost; choose another name"):
            score(tmp_path / "once.jsonl", tmp_path / same, overwrite=True)


BAD_ROWS = [
    ("{", "not JSON; each line must hold one JSON value"),
    ('{"completion": "', "not JSON; each line must hold one JSON value"),
    ("[" * 100_000, "nested too deeply"),
    ('{"completion": "x", "target": {}, "n": ' + "9" * 10_000 + "}", "a number has over 4300 digits"),
    ([EXACT], "row must be an object, not a list"),
    (None, "row must be an object, not null"),
    (1.5, "row must be an object, not a number"),
    ({"target": TARGET}, 'no "completion" field; each row needs the text that a model wrote'),
    ({"completion": None, "target": TARGET}, "completion must be a string, not null"),
    ({"completion": ["x"], "target": TARGET}, "completion must be a string, not a list"),
    (
        {"completion": "x"},
        'no "target" and no "ground_truth" field; each row needs one of them to score against',
    ),
    ({"completion": "x", "target": None}, "target must be an object, not null"),
    ({"completion": "x", "target": {"calls": []}}, "target has no thought, tool_calls or response"),
    ({"completion": "x", "target": {"tool_calls": ""}}, "target.tool_calls must be a list, not a string"),
    ({"completion": "x", "target": {"tool_calls": [], "thought": 1}}, "thought must be a string, not a number"),
    ({"completion": "x", "target": {"tool_calls": [{"name": "f"}]}}, "tool call arguments must be an object, not null"),
    ({"completion": "x", "target": TARGET, "truncated": "yes"}, "truncated must be a boolean, not a string"),
    ({"completion": "x", "target": TARGET, "step": -1}, "step must be a whole number from 0 to 10^12, not -1"),
    (
        {"completion": "x", "target": TARGET, "step": "3"},
        "step must be a whole number from 0 to 10^12, not '3'",
    ),
    ({"completion": "x", "target": TARGET, "tools": {"a": 1}}, "tools must be a list, not an object"),
    ({"completion": "x", "ground_truth": 1}, "ground_truth must be a string, not a number"),
    (
        {"completion": "x", "ground_truth": "hello"},
        "ground_truth: not <think>, then <tool_call> or <response>, each on lines of their own",
    ),
]


@pytest.mark.parametrize(("row", "why"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_left_out_and_told(tmp_path: Path, row: object, why: str) -> None:
    data, out = write(tmp_path / "rows.jsonl", EXACT, row, NO_CALL), tmp_path / "out.jsonl"
    summary, messages = score(data, out)
    assert messages == [f"{data}:2: {why}"]
    assert [kept["id"] for kept in read(out)] == ["1", "2"]
    assert (summary["n"], summary["malformed_rows"]) == (2, 1)
    with pytest.raises(DataError) as error:
        check(summary, ScoreConfig(data=data, fail_under={"total": -9.0}))
    assert str(error.value) == f"{data}: 1 of 3 rows could not be scored; mend or remove them"
    with pytest.raises(DataError) as error:
        score(data, tmp_path / "strict.jsonl", strict=True)
    assert str(error.value) == f"{data}:2: {why}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no rows to score; each line must hold a completion and its target"),
        ("\n \n", "no rows to score; each line must hold a completion and its target"),
        ("{\n\n1\n", "none of the 2 rows could be scored, as told above"),
    ],
)
def test_no_row_to_score(tmp_path: Path, content: str, why: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(content, "utf-8")
    with pytest.raises(DataError, match=why):
        score(data, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"completion": "\xe9"}\n')
    for name, why in (
        ("none.jsonl", "no such file"),
        ("latin.jsonl", "none of the 1 rows could be scored"),
        (".", "is a directory"),
    ):
        with pytest.raises(DataError, match=why):
            score(tmp_path / name)
    data = tmp_path / "mixed.jsonl"
    data.write_bytes(b"\xef\xbb\xbf" + json.dumps(EXACT).encode() + b"\r\n" + b'{"completion": "\xe9"}\n')
    assert score(data)[1] == [f"{data}:2: not UTF-8 text"]


def test_an_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    data, out = write(tmp_path / "rows.jsonl", EXACT), write(tmp_path / "out.jsonl", "precious")
    with pytest.raises(ConfigError, match=r"out\.jsonl: exists; add --overwrite to replace it"):
        score(data, out)
    assert out.read_text("utf-8") == "precious\n"
    score(data, out, overwrite=True)
    assert [row["score"]["total"] for row in read(out)] == [4.0]


def test_the_gates(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, NO_CALL)  # mean (4 - 3) / 2 = 0.5
    for met in ({}, {"total": 0.5}, {"format": 0.5, "exact_rate": 0.5}):
        summary, _ = score(data, fail_under=met)
        assert not summary.get("missed_limits")
        check(summary, ScoreConfig(data=data, fail_under=met))
    for missed, why in (
        ({"total": 0.51}, "total 0.5000 is under 0.51"),
        ({"format": 0.6}, "format 0.5000 is under 0.6"),
    ):
        summary, _ = score(data, fail_under=missed)
        assert summary["missed_limits"] == [f"mean {why}"]
        with pytest.raises(GateFailed) as error:
            check(summary, ScoreConfig(data=data, fail_under=missed))
        assert str(error.value) == f"{data}: mean {why}"
    with pytest.raises(ConfigError, match=r"--fail-under formt: no such part; choose from total, format, .*'format'"):
        score(data, fail_under={"formt": 1.0})
    with pytest.raises(ConfigError, match="--fail-under exact_rate=40: is a share, 1 at most"):
        score(data, fail_under={"exact_rate": 40.0})


def test_every_gate_that_fails_is_told(tmp_path: Path) -> None:
    done = toolrl("score", write(tmp_path / "r.jsonl", NO_CALL), "--fail-under", "1", "--fail-under", "format=1")
    assert done.stderr.endswith("r.jsonl: mean total -3.0000 is under 1; mean format 0.0000 is under 1\n")


def test_half_of_a_surrogate_pair_in_a_call(tmp_path: Path) -> None:
    text = GOLD_TEXT.replace('"a": 1', '"a": "\\ud83d"')
    data, out = write(tmp_path / "rows.jsonl", {**EXACT, "completion": text}), tmp_path / "out.jsonl"
    done = toolrl("score", data, "-o", out, "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert read(out)[0]["score"]["reasons"] == ['call 1 (f): a: "\ud83d" != 1']
    assert '  +   a = "\\ud83d"' in done.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x1f\x8b\x08 ", "is compressed .gzip.; uncompress it first, with zcat"),
        (b"\x28\xb5\x2f\xfd ", "is compressed .Zstandard.; uncompress it first, with zstdcat"),
        (b"PAR1", "is a Parquet file; it must be text"),
        ("{}".encode("utf-16"), "is UTF-16; it must be UTF-8"),
        (b"\n [\n{}]", "holds a JSON array; each line must hold one JSON object"),
    ],
)
def test_files_of_another_format_are_refused_at_once(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=why):
        score(tmp_path / "rows.jsonl")
    command = [sys.executable, "-m", "toolrl_cli", "score", "-", "-o", str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, input=content * 1000, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n"), done.stderr.startswith(b"toolrl: -: ")) == (1, 1, True)
    assert re.search(why, done.stderr.decode())
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_no_total_is_infinite(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, NO_CALL)
    heavy = toolrl("score", data, "--reward", "fine-grained=1e308", "--reward", "length=1e308", "--json")
    assert (heavy.returncode, heavy.stdout) == (2, "")
    assert heavy.stderr == (
        "toolrl: --reward fine-grained=1e308: the weight must be a number up to 1e+09 in size, other than 0\n"
    )
    most = toolrl("score", data, "--reward", "fine-grained=1e9", "--group-by", "prompt", "--json")
    assert (most.returncode, json.loads(most.stdout)["mean"]["total"]) == (0, 5e8)  # (4 - 3) / 2 * 1e9
    (tmp_path / "mine.py").write_text("def big(completions, **columns):\n    return [1e308] * len(completions)\n")
    big = toolrl("score", data, "--reward", f"{tmp_path / 'mine.py'}:big", "--fail-under", "0")
    assert (big.returncode, "must return a list of one number up to 1e+09 in size" in big.stderr) == (1, True)


def test_no_gate_passes_on_nan() -> None:
    tally = Tally(("format",))
    tally.add(Score(math.nan, {"format": 1.0}, Outcome.EXACT))
    assert list(missed_limits(tally, {"total": -9.0})) == ["mean total nan is under -9"]


def test_gates_see_means_as_they_are_and_not_as_they_are_shown() -> None:
    tally = Tally(("format",))
    for number in range(30000):
        exact = number > 0
        tally.add(Score(0.1, {"format": float(exact)}, Outcome.EXACT if exact else Outcome.WRONG))
    assert tally.to_json()["exact_rate"] == 1.0
    assert list(missed_limits(tally, {"exact_rate": 1.0, "format": 1.0, "total": 0.1})) == [
        "mean exact_rate 0.999966667 is under 1",
        "mean format 0.999966667 is under 1",
    ]


def test_robust_and_a_block_that_cannot_be_read(tmp_path: Path) -> None:
    text = "<think> t </think>\n<response> hi </response>\nJUNK\n<tool_call>\nnot json\n</tool_call>"
    target = {"thought": "t", "response": "x", "tool_calls": []}
    data, out = write(tmp_path / "rows.jsonl", {"completion": text, "target": target}), tmp_path / "out.jsonl"
    assert toolrl("score", data, "-o", out, "--reward", "robust").returncode == 0
    assert read(out)[0]["score"] == {
        "total": -3.0,
        "format": 0.0,
        "correctness": -3.0,
        "outcome": "malformed",
        "reasons": ["format: text after </response>", "calls: call is not JSON: 'not json\\n</tool_call>'"],
    }


def test_how_gates_are_written() -> None:
    assert read_gates(["2.5", "format=-1", "exact_rate=0.5"]) == {"total": 2.5, "format": -1.0, "exact_rate": 0.5}
    for text in ("high", "format=", "nan", "total=inf", "", "=3"):
        with pytest.raises(ConfigError, match=f"--fail-under {text}: must be a number, or part=number"):
            read_gates([text])
    with pytest.raises(ConfigError, match="total is given twice"):
        read_gates(["1", "total=-9"])


def test_command_prints_one_json_object(tmp_path: Path) -> None:
    done = toolrl("score", write(tmp_path / "rows.jsonl", *ROWS), "--json")
    assert (done.returncode, untimed(json.loads(done.stdout)), done.stderr) == (0, SUMMARY, "")


def test_command_prints_a_table(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", *ROWS)
    done = toolrl("score", data, "--reward", "length", "--output", tmp_path / "out.jsonl")
    table = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if "│" in line]
    assert (done.returncode, done.stderr) == (0, "")
    assert [[cell.strip() for cell in row[:3]] for row in table] == [
        ["total", "-0.6667", "4.0415"],
        ["format", "0.3333", "0.5774"],
        ["correctness", "-1.0000", "3.4641"],
        ["length", "0.0000", "0.0000"],
    ]
    assert re.search(r"^3 rows, \d+ a second, reward length$", done.stdout, re.MULTILINE)
    assert "exact rate 0.3333; outcomes: exact 1, truncated 1, no_call 1\n" in done.stdout
    assert [row["score"]["length"] for row in read(tmp_path / "out.jsonl")] == [0.0, 0.0, 0.0]


def test_command_in_a_pipe(tmp_path: Path) -> None:
    stdin = "".join(json.dumps(row) + "\n" for row in [EXACT, {"id": "é\ud800\u2028", **NO_CALL}])
    done = toolrl("score", "-", "-o", "-", "--json", stdin=stdin)
    rows = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert [row["score"] for row in rows] == SCORED[:2]
    assert (done.returncode, json.loads(done.stderr)["n"]) == (0, 2)
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
    assert (unknown.returncode, unknown.stderr.endswith("did you mean 'length'?\n")) == (2, True)
    assert toolrl("score", data, "--fail-under", "high").returncode == 2


def many_rows(count: int) -> list[Any]:
    """Rows of every kind, some of them broken."""
    kinds: list[Any] = [
        EXACT,
        NO_CALL,
        CUT,
        {**EXACT, "completion": GOLD_TEXT.replace("1", "2")},
        "broken",
        {"completion": "é"},
    ]
    return [row if isinstance(row := kinds[i % 6], str) else {**row, "n": i} for i in range(count)]


def test_workers_give_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl_cli.scoring.run.CHUNK", 1000)
    data = write(tmp_path / "rows.jsonl", *many_rows(500))
    results = [score(data, tmp_path / f"{n}.jsonl", workers=n, group_by="prompt") for n in (1, 2)]
    assert results[0] == results[1]
    assert results[0][0]["malformed_rows"] == len(results[0][1]) == 166
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert [row["n"] for row in read(tmp_path / "1.jsonl")] == [i for i in range(500) if i % 6 < 4]


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_pieces_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    data = write(tmp_path / "rows.jsonl", *many_rows(40))
    whole = score(data, tmp_path / "whole.jsonl")
    monkeypatch.setattr("toolrl_cli.scoring.run.CHUNK", size)
    assert score(data, tmp_path / "pieces.jsonl") == whole
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "pieces.jsonl").read_bytes()


def test_a_line_keeps_its_bytes(tmp_path: Path) -> None:
    line = '{"x": 1.50,"completion":"no",  "target": {"tool_calls": []}, "n": 1e2, "u": "\\u00e9 é"}'
    out = tmp_path / "out.jsonl"
    score(write(tmp_path / "rows.jsonl", line), out)
    assert out.read_text("utf-8").startswith(line[:-1] + ', "score": {"total":0.0,"format":0.0,')
    # a score that stands in the middle is taken out, and one inside a string is none
    row = {"score": {"total": 9}, "completion": ', "score": {', "target": {"response": None}}
    score(write(tmp_path / "rows.jsonl", row), out, overwrite=True)
    assert [list(kept) for kept in read(out)] == [["completion", "target", "score"]]
    assert read(out)[0]["completion"] == row["completion"]
    for n, text in enumerate(['{"n": NaN, "score": {"total": 9}, %s}', '{%s , "score" : 3 }', '{%s,"sc\\u006fre":[]}']):
        score(
            write(tmp_path / "rows.jsonl", text % '"completion": "", "target": {"response": null}'), out, overwrite=True
        )
        assert [kept["score"]["total"] for kept in read(out)] == [0.0], n
        assert out.read_text("utf-8").count("score") == 1


def test_rows_nested_deeply(tmp_path: Path) -> None:
    deep = '{"completion": "", "target": {"response": null}, "prompt": %s, "score": {}}' % ("[" * 960 + "]" * 960)
    data = write(tmp_path / "rows.jsonl", *([deep] * 3), EXACT)
    for options in ({}, {"group_by": "prompt"}):
        summary, messages = score(data, tmp_path / "out.jsonl", overwrite=True, **options)
        assert summary["n"] + summary["malformed_rows"] == 4
        assert len(messages) == summary["malformed_rows"]


def test_the_step_of_a_row_wins(tmp_path: Path) -> None:
    # two-stage: the exact call earns 1 + 1 before step 30, 0.5 + 3 from then on
    rows = [
        {**EXACT, "id": str(i)} | ({"step": step} if step is not None else {}) for i, step in enumerate([None, 29, 30])
    ]
    out = tmp_path / "out.jsonl"
    score(write(tmp_path / "rows.jsonl", *rows), out, reward="two-stage", step=31)
    assert [row["score"]["total"] for row in read(out)] == [3.5, 2.0, 3.5]


def test_what_grpo_will_see(tmp_path: Path) -> None:
    wrong = {**EXACT, "completion": GOLD_TEXT.replace("1", "2")}  # r_name 1, r_param 1 of 3: 1 - 3 + 6 * 2 / 3 = 2
    rows = [("a", EXACT), ("a", EXACT), ("b", NO_CALL), ("b", NO_CALL), ("c", EXACT), ("c", wrong), ("d", EXACT)]
    data = write(tmp_path / "rows.jsonl", *({**row, "prompt": [{"content": name}]} for name, row in rows))
    groups = score(data, group_by="prompt")[0]["groups"]
    assert groups == {
        "groups": 4,
        "sizes": {"1": 1, "2": 3},
        "zero_variance": 0.75,
        "solved": 0.5,
        "stuck": 0.25,
        "learnable": 0.2857,
        "mean": 2.0,
        "std": 0.3536,
        "pass_at": {"1": 0.625, "2": 0.6667},
    }
    assert score(data, group_by="id")[0]["groups"]["groups"] == 2
    histogram = score(data, group_by="prompt")[0]["histograms"]["format"]
    assert histogram["counts"] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 5]
    done = toolrl("score", data, "--group-by", "prompt")
    assert "4 groups (1 of 1, 3 of 2 completions)" in done.stdout
    missing = toolrl("score", data, "--group-by", "colour", "--strict")
    assert missing.stderr == f'toolrl: {data}:1: no "colour" field to group by\n'


def test_completions_of_other_steps_are_other_groups(tmp_path: Path) -> None:
    rows = [{**EXACT, "step": step} for step in (1, 1, 2, 2)]
    assert score(write(tmp_path / "rows.jsonl", *rows), group_by="prompt")[0]["groups"]["sizes"] == {"2": 2}


def test_a_prompt_that_is_null_is_none(tmp_path: Path) -> None:
    rows = [{**EXACT, "prompt": None, "messages": None, "id": id} for id in "aab"]
    rows += [{**EXACT, "prompt": None, "messages": ["q"], "id": id} for id in "ab"]
    data = write(tmp_path / "rows.jsonl", *rows, {**EXACT, "prompt": None, "id": None})
    summary, messages = score(data, group_by="prompt")
    assert summary["groups"]["sizes"] == {"1": 1, "2": 2}
    assert messages == [f'{data}:6: no "prompt" field to group by, nor "messages" or "id"']


def test_a_field_that_no_row_has(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, CUT)
    done = toolrl("score", data, "--group-by", "colour")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f'{data}:1: no "colour" field to group by',
        f'{data}:2: no "colour" field to group by',
        f"toolrl: {data}: none of the 2 rows could be scored, as told above",
    ]


def test_explain_shows_a_diff(tmp_path: Path) -> None:
    gold = {"tool_calls": [{"name": "f", "arguments": {"a": 1, "b": "x"}}, {"name": "h", "arguments": {}}]}
    calls = '{"name": "f", "parameters": {"a": 1, "b": "y"}}\n{"name": "[red]g", "parameters": 3}'
    text = f"<think> t </think>\n<tool_call>\n{calls}\n</tool_call>"
    data = write(tmp_path / "rows.jsonl", {"id": "7", "completion": text, "target": gold})
    done = toolrl("score", data, "--explain")
    assert done.stdout.splitlines()[:11] == [
        'line 1 "7" partial, total 0.8 (format 1, correctness -0.2)',
        "    f",
        "      a = 1",
        '  -   b = "x"',
        '  +   b = "y"',
        "  - h",
        "  + [red]g",
        "  +   3",
        '  # call 1 (f): b: "y" != "x"',
        "  # missing call h",
        "  # spurious call [red]g",
    ]
    piped = toolrl("score", data, "--explain", "--json")
    assert json.loads(piped.stdout)["n"] == 1
    assert piped.stderr.startswith("line 1")


def test_against_a_baseline(tmp_path: Path) -> None:
    better = [{**EXACT, "id": str(i)} for i in range(20)]
    worse = [{**NO_CALL, "id": str(i)} for i in range(1, 21)]
    score(write(tmp_path / "a.jsonl", *better), tmp_path / "better.jsonl")
    score(write(tmp_path / "b.jsonl", *worse), tmp_path / "worse.jsonl")
    up = toolrl("score", tmp_path / "a.jsonl", "--baseline", tmp_path / "worse.jsonl", "--json")
    assert json.loads(up.stdout)["baseline"] == {
        "file": str(tmp_path / "worse.jsonl"),
        "pairs": 19,
        "only_before": 1,
        "only_now": 1,
        "difference": 7.0,
        "low": 7.0,
        "high": 7.0,
    }
    assert up.returncode == 0
    down = toolrl("score", tmp_path / "b.jsonl", "--baseline", tmp_path / "better.jsonl")
    assert (down.returncode, "lower than in" in down.stderr) == (3, True)
    assert "total -7.0000 [-7.0000, -7.0000] over 19 ids (1 only there, 1 only here)" in down.stdout
    write(tmp_path / "nan.jsonl", '{"id": "1", "score": {"total": NaN}}')
    endless = toolrl("score", tmp_path / "b.jsonl", "--baseline", tmp_path / "nan.jsonl")
    assert (endless.returncode, "nan.jsonl:1: a baseline row needs" in endless.stderr) == (1, True)
    other = toolrl("score", tmp_path / "b.jsonl", "--baseline", tmp_path / "b.jsonl")
    assert (other.returncode, "toolrl score -o writes it" in other.stderr) == (1, True)
    nameless = write(tmp_path / "d.jsonl", {"completion": "x", "target": TARGET}, EXACT)
    assert toolrl("score", nameless, "--baseline", tmp_path / "better.jsonl").stderr.splitlines() == [
        f'{nameless}:1: no "id" field to pair with the baseline',
        f"toolrl: {nameless}: 1 of 2 rows could not be scored; mend or remove them",
    ]
    write(tmp_path / "c.jsonl", {**EXACT, "id": "z"})
    apart = toolrl("score", tmp_path / "c.jsonl", "--baseline", tmp_path / "better.jsonl")
    assert (apart.returncode, "no id in common" in apart.stderr) == (1, True)


def test_a_baseline_of_one_id(tmp_path: Path) -> None:
    score(write(tmp_path / "a.jsonl", EXACT), tmp_path / "better.jsonl")
    data = write(tmp_path / "b.jsonl", {**NO_CALL, "id": "1"})
    done = toolrl("score", data, "--baseline", tmp_path / "better.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "total -7.0000 over 1 id, too few for an interval or a verdict (0 only there, 0 only here)" in done.stdout
    found = json.loads(toolrl("score", data, "--baseline", tmp_path / "better.jsonl", "--json").stdout)["baseline"]
    assert (found["pairs"], found["difference"], found["low"], found["high"]) == (1, -7.0, None, None)


def test_a_baseline_of_another_reward(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", EXACT, NO_CALL)
    score(data, tmp_path / "long.jsonl", reward="length")
    done = toolrl("score", data, "--baseline", tmp_path / "long.jsonl", "--json")
    assert (done.returncode, done.stderr) == (
        0,
        f"{tmp_path / 'long.jsonl'}: was scored by another reward, so that totals differ "
        "(correctness, format, length; here correctness, format)\n",
    )
    twice = toolrl("score", "-", "--baseline", "-", stdin=json.dumps(EXACT))
    assert twice.stderr == "toolrl: --baseline -: the rows come from standard input already; give a file\n"
    assert twice.returncode == 2


def test_a_function_of_the_user_scores_in_workers_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def words(completions, **columns):\n    return [len(c[0]['content'].split()) for c in completions]\n"
    )
    data = write(tmp_path / "rows.jsonl", EXACT, NO_CALL)
    done = toolrl("score", data, "--reward", f"{tmp_path / 'mine.py'}:words", "--workers", "2", "--json")
    assert json.loads(done.stdout)["mean"] == {"total": 5.5, "words": 5.5}  # 10 words and 1
    code = "def words(completions, **columns):\n    return [3 if c[0]['content'][2:] else None for c in completions]\n"
    (tmp_path / "mine.py").write_text(code)
    words = f"{tmp_path / 'mine.py'}:words"
    some = toolrl("score", data, "--reward", words, "--json", "-o", tmp_path / "out.jsonl")
    assert json.loads(some.stdout)["mean"] == {"total": 1.5, "words": 3.0}
    assert [row["score"]["words"] for row in read(tmp_path / "out.jsonl")] == [3, None]
    (tmp_path / "mine.py").write_text("def words(completions, **columns):\n    raise ValueError('bad day')\n")
    failed = toolrl("score", data, "--reward", f"{tmp_path / 'mine.py'}:words", "--workers", "2")
    assert (failed.returncode, failed.stderr.endswith("raises ValueError: bad day\n")) == (1, True)


LIBRARIES = """
from fractions import Fraction

class Array:
    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values

    def __iter__(self):
        return iter(Fraction(value) for value in self.values)

def boolean(completions, **columns):
    return [True for _ in completions]

def scalars(completions, **columns):
    return [Fraction(1, 2) for _ in completions]

def array(completions, **columns):
    return Array([0.5 for _ in completions])

def columns(completions, colour, prompts, id, **columns):
    print(colour, prompts, id, sorted(columns))
    return [float(c == "red") for c in colour]

async def waiting(completions, **columns):
    return [1.0 for _ in completions]
"""


@pytest.mark.parametrize(("name", "number"), [("boolean", "1.0"), ("scalars", "0.5"), ("array", "0.5")])
def test_what_a_function_returns_is_written_as_floats(tmp_path: Path, name: str, number: str) -> None:
    (tmp_path / "mine.py").write_text(LIBRARIES)
    done = toolrl("score", "-", "-o", "-", "--reward", f"{tmp_path}/mine.py:{name}", stdin=json.dumps(EXACT) + "\n")
    assert (done.returncode, f'"score": {{"total":{number},"{name}":{number},' in done.stdout) == (0, True)


@pytest.mark.parametrize("make", ["numpy.ones({}, numpy.float32)", "list(numpy.ones({}))", "numpy.ones({}) > 0"])
def test_numpy_numbers(tmp_path: Path, make: str) -> None:
    pytest.importorskip("numpy")
    code = f"import numpy\ndef ones(completions, **columns):\n    return {make.format('len(completions)')}\n"
    (tmp_path / "mine.py").write_text(code)
    reward = find_reward(f"{tmp_path / 'mine.py'}:ones")
    assert score(write(tmp_path / "rows.jsonl", EXACT, CUT), reward=reward.name)[0]["mean"] == {"total": 1, "ones": 1}


def test_a_function_gets_the_columns_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LIBRARIES)
    data = write(tmp_path / "rows.jsonl", {**EXACT, "colour": "red", "prompt": "p"}, {**NO_CALL, "colour": None}, CUT)
    done = toolrl("score", data, "--reward", f"{tmp_path / 'mine.py'}:columns", "--json")
    given = ["completion_ids", "ground_truth", "log_extra", "log_metric", "step", "target", "tools"]
    given += ["trainer_state", "truncated"]
    assert done.stderr == f"['red', None, None] ['p', [], []] ['1', '2', '3'] {given}\n"
    assert json.loads(done.stdout)["mean"]["total"] == 0.3333


@pytest.mark.parametrize("command", [("score", "rows.jsonl", "--reward"), ("audit",)])
def test_an_async_function_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(LIBRARIES)
    done = toolrl(*command, f"{tmp_path / 'mine.py'}:waiting")
    why = "is an async function; a reward must be one that returns its numbers (def)"
    assert (done.returncode, done.stderr) == (1, f"toolrl: {tmp_path / 'mine.py'}:waiting: {why}\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # VmHWM is the peak of the process itself; ru_maxrss would count the parent that it was forked from.
    code = (
        "import sys; from toolrl_cli.cli import app\n"
        "try: app()\n"
        "finally: print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')), file=sys.stderr)"
    )
    peaks = []
    for megabytes in (20, 300):
        data = tmp_path / "rows.jsonl"
        line = json.dumps({**NO_CALL, "completion": "x" * 1000}) + "\n"
        data.write_text(line * (megabytes * 1_000_000 // len(line)))
        command = [sys.executable, "-c", code, "score", str(data), "-o", str(tmp_path / "out.jsonl"), "--overwrite"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.split("VmHWM:")[1].split()[0]) // 1024)
    assert peaks[1] < min(500, peaks[0] + 50)


def test_a_reader_that_leaves_the_pipe_early(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", *([EXACT] * 5000))
    command = f"{sys.executable} -m toolrl_cli score {data} -o - | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_help_imports_no_engine() -> None:
    code = "import sys; from toolrl_cli.commands import score; print('toolrl_cli.rewards' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
