"""Looking at an evaluation on BFCL with the official package itself: gold, kinds of failure, weights, rescoring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import snapshot, write_lines

from toolrl_cli.benches.stats import weigh
from toolrl_cli.evaluation import EvalConfig, evaluate, find_exhibits, read_recorded, rescore
from toolrl_cli.records import Json

pytestmark = pytest.mark.slow
SWIFT = {"artist": "Taylor Swift", "duration": 20}
MAROON = {"artist": "Maroon 5", "duration": 15}


def calls(*arguments: Json, name: str = "spotify.play") -> Json:
    return {"tool_calls": [{"name": name, "arguments": given} for given in arguments]}


ANSWERS = {
    "all right": (calls(MAROON, SWIFT), None),
    "one missing": (calls(MAROON), "wrong_count"),
    "nothing": ({"completion": "I would play them."}, "no_call"),
    "another tool": (calls(MAROON, SWIFT, name="spotify"), "wrong_tool"),
    "no duration": (calls(MAROON, {"artist": "Taylor Swift"}), "missing_argument"),
    "a volume": (calls({**SWIFT, "volume": 11}, MAROON), "unknown_argument"),
    "too long": (calls(MAROON, {**SWIFT, "duration": 21}), "wrong_value"),
    "cut off": ({"completion": "<tool_call>\n{", "truncated": True}, "truncated"),
    "no JSON": ({"completion": "<tool_call>\nplay()\n</tool_call>"}, "malformed"),
}


@pytest.mark.parametrize(("answer", "kind"), ANSWERS.values(), ids=ANSWERS)
def test_parallel_calls_fail_in_kinds(tmp_path: Path, answer: Json, kind: str | None) -> None:
    folder = run(tmp_path, [{"id": "parallel_0", **answer}], "parallel")
    assert read_recorded(folder).results["parallel_0"].failure == kind


def run(folder: Path, answers: list[Json], *categories: str) -> Path:
    predictions = write_lines(folder / "predictions.jsonl", answers)
    evaluate(EvalConfig(bench="bfcl", output=folder / "out", predictions=predictions, categories=categories))
    return folder / "out"


def test_the_gold_is_the_possible_answers(tmp_path: Path) -> None:
    folder = run(tmp_path, [{"id": "parallel_0", **calls(SWIFT)}], "parallel", "irrelevance", "live_relevance")
    found = {exhibit.id: exhibit for exhibit in find_exhibits(folder, "all")}
    assert [json.loads(line) for line in found["parallel_0"].gold.splitlines()] == [
        {"spotify.play": {"artist": ["Taylor Swift"], "duration": [20]}},
        {"spotify.play": {"artist": ["Maroon 5"], "duration": [15]}},
    ]
    assert found["parallel_0"].reason == "Wrong number of functions."
    assert found["irrelevance_0"].gold == "no call"
    assert found["live_relevance_0-0-0"].gold == "a call"
    assert found["parallel_0"].same_prompt and "Name: spotify.play" in found["parallel_0"].prompt


def test_the_weighted_metrics_are_the_official_numbers(tmp_path: Path) -> None:
    right = [
        {"id": f"{category}_{i}", **calls({"x": 1})} for category in ("multiple", "irrelevance") for i in range(50)
    ]
    folder = run(tmp_path, right, "multiple", "irrelevance", "simple_java")
    summary = read_recorded(folder).summary
    assert summary.official is not None
    numbers = {**summary.official, **summary.official["groups_of_what_ran"]}
    accuracy = {name: tally.accuracy.value for name, tally in summary.categories.items()}
    for name, weights in summary.weights.items():
        assert summary.metrics[name].value == pytest.approx(numbers[name], abs=1e-12)
        assert weigh(accuracy, weights) == pytest.approx(numbers[name], abs=1e-12)
    assert summary.metrics["overall"].n == 540


def test_rescoring_asks_the_checker_again(tmp_path: Path) -> None:
    folder = run(tmp_path, [{"id": "parallel_0", **calls(MAROON, SWIFT)}], "parallel")
    before = snapshot(folder)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]
    forged = [row | {"correct": not row["correct"]} for row in rows]
    write_lines(folder / "results.jsonl", forged)
    assert rescore(folder).summary.notes[0].startswith("rescored by toolrl 0.1.0: 200 of 200 verdicts changed")
    assert snapshot(folder)["results.jsonl"] == before["results.jsonl"]


def test_a_dialogue_is_shown_with_the_results_of_its_calls(tmp_path: Path) -> None:
    turns = [[{"tool_calls": [{"name": "ls", "arguments": {"a": True}}]}, {"completion": "Listed."}], []]
    folder = run(tmp_path, [{"id": "multi_turn_base_0", "turns": turns}], "multi_turn_base")
    (found,) = find_exhibits(folder, "all", limit=1)
    lines = found.prediction.splitlines()
    marks = [line for line in lines if line.startswith("[")]
    assert marks == [
        "[turn 1]", "[answer 1]", "[tool]", "[answer 2]", "[turn 2]", "[user]", "[answer 3]",
        "[turn 3]", "[user]", "[answer 4]",
    ]  # fmt: skip
    assert lines[-1] == "(none)" and found.error_type == "missing"
    assert lines[lines.index("[tool]") + 1].startswith('{"current_directory_content": [')
