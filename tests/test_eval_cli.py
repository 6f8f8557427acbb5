"""The command line of `toolrl eval`: what is refused before a run begins, plans, predictions from a pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, InProcess, read_rows, refusal, snapshot, write_lines
from test_eval_review import evaluation

from toolrl_cli.benches.base import Answer, Entry, ForeseesMetrics, Result, explain_missing
from toolrl_cli.benches.bfcl.bench import BfclBench
from toolrl_cli.benches.bfcl.editions import V3, V4, Edition
from toolrl_cli.benches.bfcl.process import Checker
from toolrl_cli.benches.registry import find_bench
from toolrl_cli.benches.stats import Interval
from toolrl_cli.errors import DataError, UsageError
from toolrl_cli.evaluation import EvalConfig, ReviewConfig, pick, read_recorded, review
from toolrl_cli.evaluation.summary import spell
from toolrl_cli.formats import find_format
from toolrl_cli.inference.predictions import read_predictions
from toolrl_cli.manifest import Manifest
from toolrl_cli.records import Completion, ToolCall

FORMAT = find_format("toolrl")
GOLD = [{"id": row["id"], "tool_calls": row["target"]["tool_calls"]} for row in EXAMPLES]


@pytest.fixture
def asked(tmp_path: Path) -> list[object]:
    """The words that evaluate gold predictions, all but the output and the predictions."""
    data = write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    write_lines(tmp_path / "p.jsonl", GOLD)
    return ["eval", "--bench", "examples", "--data", data]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "completions need one source; give either --model or --endpoint or --predictions"),
        ("--predictions p.jsonl --model m", "completions need one source"),
        ("--predictions p.jsonl --category parallel", "--category belongs to --bench bfcl and bfcl-v3; leave it out"),
        ("--predictions p.jsonl --ids eg", "--ids: no entry has the id 'eg'; did you mean 'egg'?"),
        (
            "--predictions p.jsonl --resume --overwrite",
            "--resume continues what --overwrite would delete",
        ),
        ("--predictions p.jsonl --reward coarze", "unknown reward 'coarze'; choose from"),
        ("--predictions p.jsonl --fail-under abc", "--fail-under abc: must be a number, or metric=number"),
        ("--predictions p.jsonl --fail-under 150", "--fail-under 150: exact_rate is a share of entries, in percent"),
        ("--predictions p.jsonl --fail-under test=-1", "--fail-under -1: test is a share of entries, in percent"),
        (
            "--predictions p.jsonl --fail-under exactrate=40",
            "--fail-under exactrate: no such metric or category here; choose from exact_rate, total, format, "
            "correctness, test; did you mean 'exact_rate'?",
        ),
        ("--predictions p.jsonl --max-drop 1", "--max-drop compares with an earlier evaluation"),
        ("--predictions p.jsonl --baseline before --max-drop=-5", "--max-drop -5: exact_rate is a share of entries"),
        ("--predictions p.jsonl --baseline before --max-drop total=-5", "--max-drop -5: total may fall by 0 or more"),
        ("--predictions p.jsonl --baseline before --max-drop pass@1=5", "--max-drop pass@1: no such metric"),
    ],
)
def test_a_wrong_option_ends_with_2_before_a_run(
    words: str, line: str, asked: list[object], cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation(tmp_path, "before", "rv")
    write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    kept = snapshot(tmp_path)
    assert refusal(cli(*asked, "-o", "out", *words.split()), 2).startswith(line)
    assert snapshot(tmp_path) == kept


def test_a_limit_on_pass_at_k_is_in_percent(asked: list[object], cli: InProcess, tmp_path: Path) -> None:
    rows = [row | {"sample": number} for row in GOLD for number in range(2)]
    words = [*asked, "--predictions", write_lines(tmp_path / "p.jsonl", rows), "--samples", 2]
    done = cli(*words, "-o", tmp_path / "out", "--fail-under", "pass@2=99.5", "--json")
    assert (done.exit_code, json.loads(done.stdout)["gates"][0]["value"]) == (3, pytest.approx(500 / 6))
    refused = refusal(cli(*words, "-o", tmp_path / "two", "--fail-under", "pass@4=1"), 2)
    assert refused.startswith("--fail-under pass@4: no such metric or category here; choose from exact_rate, total")


def result(category: str, score: dict[str, float] | None = None) -> Result:
    return Result("a", category, True, "exact", None, None, False, "", "", [], score)


def test_every_bench_foresees_its_metrics(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    given: list[tuple[dict[str, Any], dict[str, float]]] = [
        ({"bench": "examples"}, {"total": 1.0, "format": 1.0, "correctness": 0.0}),
        ({"bench": "api-bank"}, {"exact_match": 1.0}),
        ({"bench": "bamboogle", "search": "none"}, {"exact_match": 1.0}),
    ]
    for options, score in given:
        config = EvalConfig(output=tmp_path / "out", model="m", data=data, **options)
        with find_bench(config.bench).open(config, FORMAT) as bench:
            assert isinstance(bench, ForeseesMetrics)
            found = bench.summarize([result("c", score)], seed=0).metrics
            assert [(name, figure.unit) for name, figure in found.items()] == [*bench.foresee(["c"]).items()]


@pytest.mark.parametrize("edition", [V4, V3], ids=lambda edition: edition.name)
@pytest.mark.parametrize("categories", [("irrelevance",), ("live_relevance",), ("parallel", "live_simple"), ()])
def test_bfcl_foresees_its_metrics(edition: Edition, categories: tuple[str, ...]) -> None:
    chosen = edition.choose_categories(categories)
    with Checker() as unasked:
        bench = BfclBench(unasked, chosen, edition)
    found = bench.summarize([result(category) for category in chosen], seed=0).metrics
    assert [(name, figure.unit) for name, figure in found.items()] == [*bench.foresee(chosen).items()]


def test_a_limit_of_just_the_value_is_met(tmp_path: Path) -> None:
    recorded = read_recorded(evaluation(tmp_path, "now", "rvv"))
    value = 100 * recorded.summary.metrics["exact_rate"].value
    assert value == 33.33333333333333
    assert review(recorded, ReviewConfig(fail_under={"": 33.333333333333336})).gates[0].passed
    assert not review(recorded, ReviewConfig(fail_under={"": 33.3334})).gates[0].passed


def test_nothing_is_never_minus_nothing() -> None:
    share, mean = (Interval(0.0, 0.0, 0.0, 1, "m", unit) for unit in ("share", "mean"))
    assert [spell(value, share, sign="+") for value in (-0.0, -0.004, -0.006)] == ["+0.00", "+0.00", "-0.01"]
    assert [spell(value, mean) for value in (-0.0, -0.00004, -0.00006)] == ["0.0000", "0.0000", "-0.0001"]


def test_a_plan_counts_the_entries_and_names_the_engine(
    asked: list[object], cli: InProcess, tiny_model: Path, tmp_path: Path
) -> None:
    planned = cli(*asked, "--model", tiny_model, "--limit", 4, "-o", tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(planned.stdout)
    assert (plan["engine"], plan["format"], plan["parent"]) == ("transformers", "toolrl", str(tiny_model))
    assert plan["entries"] == {"n": 4, "categories": {"test": 4}}
    shown = cli(*asked, "--predictions", tmp_path / "p.jsonl", "-o", tmp_path / "out", "--dry-run")
    assert shown.exit_code == 0 and "entries.categories.test" in shown.stdout
    served = ["--endpoint", "http://localhost:1", "--served-model", "m"]
    planned = cli(*asked, *served, "-o", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(planned.stdout)["engine"] == "endpoint http://localhost:1"
    assert not (tmp_path / "out").exists()


def test_a_plan_finds_what_would_stop_the_run(
    asked: list[object], cli: InProcess, tiny_model: Path, tmp_path: Path
) -> None:
    words = [*asked, "--dry-run", "-o", tmp_path / "out"]
    assert refusal(cli(*words, "--model", "nosuch")).startswith("nosuch: no such model; give a folder")
    assert refusal(cli(*words, "--model", tmp_path)) == (
        f"{tmp_path}: holds no model (no config.json and no adapter_config.json)"
    )
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "oslo"}\n')
    assert refusal(cli(*words, "--predictions", broken)).startswith(f"{broken}:1: a prediction needs either")
    assert refusal(cli(*words, "--predictions", tmp_path / "none")).endswith("none: no such file")
    assert refusal(cli(*words, "--model", tiny_model, "--fail-under", "nope=1"), 2).startswith("--fail-under nope: no")
    taken = [*words[:-1], evaluation(tmp_path, "taken", "r"), "--model", tiny_model]
    write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    assert refusal(cli(*taken)).endswith("taken: not empty; add --resume to continue it or --overwrite to replace it")


def test_predictions_and_ids_come_from_pipes(asked: list[object], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolrl_cli", *map(str, asked), "--predictions", "-", "-o", str(tmp_path / "out")]
    reader, writer = os.pipe()
    os.write(writer, b"oslo\negg\n")
    os.close(writer)
    command += ["--ids", f"/dev/fd/{reader}", "--json"]
    text = (tmp_path / "p.jsonl").read_text()
    done = subprocess.run(command, input=text, capture_output=True, text=True, pass_fds=[reader], timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["n"], summary["source"], summary["metrics"]["exact_rate"]["value"]) == (2, "-", 1.0)
    resumed = [*command[: command.index("--ids")], "--ids", "oslo,egg", "--resume", "--json"]
    again = subprocess.run(resumed, input=text, capture_output=True, text=True, timeout=60)
    assert (json.loads(again.stdout), again.stderr) == (summary, "")
    other = subprocess.run(resumed, input=text + "\n", capture_output=True, text=True, timeout=60)
    assert (other.returncode, "cannot resume with another hashes.predictions" in other.stderr) == (1, True)


def test_ids_are_a_list_in_yaml(asked: list[object], cli: InProcess, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("ids: [egg, 'oslo,tea']\n")
    words = [*asked, "--predictions", tmp_path / "p.jsonl", "-o", tmp_path / "out", "--config", tmp_path / "run.yaml"]
    assert cli(*words).exit_code == 0
    assert [row["id"] for row in read_rows(tmp_path / "out" / "results.jsonl")] == ["oslo", "tea", "egg"]


def test_ids_of_other_categories_are_told_apart() -> None:
    with pytest.raises(UsageError, match="--ids: no entry of --category parallel, multiple has the id 'simple_1'"):
        pick([Entry("parallel_1", "parallel", (), ())], ["simple_1"], ["parallel", "multiple"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"turns": []', 'the entry ends with one answer; give "completion" or "tool_calls" instead of "turns"'),
        ('"turns": [[], [], []]', "turns holds 3, and the dialogue has 2"),
        ('"completion": "x", "sample": -1', "sample counts from 0; it cannot be -1"),
        ('"completion": "x", "sample": true', "sample counts from 0; it cannot be true"),
        ('"completion": "x", "sample": "1"', 'sample counts from 0; it cannot be "1"'),
        ('"completion": "x", "sample": 5', "sample 5 counts from 0, and --samples is 2; give --samples 6"),
    ],
)
def test_predictions_that_fit_no_entry_are_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    id = "long" if "turns holds" in message else "short"
    path.write_text(f'{{"id": "other", "turns": [[], [], []]}}\n{{"id": "{id}", {line}}}\n', "utf-8")
    with pytest.raises(DataError) as raised:
        read_predictions(path, FORMAT, turns={"short": 0, "long": 2}, samples=2)
    assert str(raised.value) == f"{path}:2: {message}"


def test_unused_predictions_are_noted(asked: list[object], cli: InProcess, tmp_path: Path) -> None:
    rows = [*GOLD, {"id": "x2", "completion": ""}, {"id": "x1", "completion": ""}, GOLD[1] | {"sample": 3}]
    done = cli(*asked, "--predictions", write_lines(tmp_path / "p.jsonl", rows), "-o", tmp_path / "out")
    assert [line for line in done.stdout.splitlines() if line.startswith("note:")] == [
        "note: predictions of entries that are not evaluated here: 2, the first of 'x2'",
        "note: predictions of further samples, not used: 1, the first 3 of 'tea'",
    ]


def test_what_a_dialogue_lacks_is_told() -> None:
    entry = Entry("a", "c", (), (), turns=4)
    call, end = Answer(Completion("f"), (ToolCall("f", {}),)), Answer(Completion("no"))
    wants = 'a dialogue needs "turns", one for each'
    assert explain_missing(entry, []) == "no prediction"
    assert explain_missing(entry, [call]) == f"the prediction ends after 1 answer, in turn 1 of 4; {wants}"
    assert explain_missing(entry, [call, end]) == f"the prediction ends after 2 answers, before turn 2 of 4; {wants}"


def test_a_second_result_of_an_entry_is_told(asked: list[object], cli: InProcess, tmp_path: Path) -> None:
    words = [*asked, "--predictions", tmp_path / "p.jsonl", "-o", tmp_path / "out"]
    assert cli(*words).exit_code == 0
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join([*lines, lines[-1]]))
    told = f"{results}:7: a second result of 'lima'; remove one of the two lines"
    assert refusal(cli("eval", tmp_path / "out")) == told
    assert refusal(cli(*words, "--resume")) == told
    results.write_text("".join(lines))
    assert cli("eval", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("words", ["", "--show all", "--json", "--fail-under 99"])
def test_a_reader_that_stops_early_changes_nothing(words: str, tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rv")
    command = [sys.executable, "-m", "toolrl_cli", "eval", str(folder), *words.split()]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    gated = "under" in words
    assert (done.returncode, done.stderr.count("\n")) == ((3, 1) if gated else (0, 0))


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        (("--temperature", 0.7), "--model and --endpoint"),
        (("--max-new-tokens", 9), "--model and --endpoint"),
        (("--concurrency", 2), "--endpoint"),
        (("--retries", 2), "--endpoint"),
        (("--timeout", 2), "--endpoint"),
        (("--batch-size", 2), "--model"),
        (("--allow-mismatch",), "--model"),
    ],
)
def test_options_of_generating_are_not_for_predictions(
    tmp_path: Path, cli: InProcess, words: tuple[object, ...], owner: str
) -> None:
    asked = ["--bench", "examples", "--data", tmp_path / "d", "--predictions", tmp_path / "p", "-o", tmp_path / "o"]
    assert refusal(cli("eval", *asked, *words), 2) == f"{words[0]} belongs to {owner}; leave it out"


def test_a_prompt_that_is_not_the_trainings_is_told_on_stderr(tmp_path: Path, cli: InProcess, tiny_model: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_model, run)
    began = Manifest.create("sft", {}, seed=0, format="toolrl", hashes={"format": "0123456789abcdef"})
    replace(began, finished=True).write(run)
    data = write_lines(tmp_path / "ex.jsonl", EXAMPLES[:1])
    words = ["--bench", "examples", "--data", data, "--model", run, "--max-new-tokens", 1, "--allow-mismatch"]
    done = cli("eval", *words, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    (note,) = json.loads(done.stdout)["notes"]
    assert f"note: {note}" in done.stderr.splitlines()
    assert note.startswith(f"another prompt than in training: {run}: trained with prompt format 0123456789abcdef, ")


def test_tool_calls_that_are_no_list_are_named_as_the_line_has_them(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"id": "a", "tool_calls": {}}])
    with pytest.raises(DataError, match=r"p\.jsonl:1: tool_calls must be a list, not an object"):
        read_predictions(path, find_format("toolrl"))
