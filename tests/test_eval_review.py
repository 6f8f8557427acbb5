"""Looking at finished evaluations: comparing, gating, showing, rescoring, JUnit, and the documented JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Cli, InProcess, call, example, read_rows, refusal, snapshot, write_lines

from toolrl_cli.benches.base import Answer, Entry, Verdict
from toolrl_cli.benches.examples import ExamplesBench
from toolrl_cli.benches.samples import Spread
from toolrl_cli.errors import ConfigError, DataError, GateFailed
from toolrl_cli.evaluation import (
    EvalConfig,
    Recorded,
    ReviewConfig,
    evaluate,
    find_exhibits,
    read_gates,
    read_recorded,
    rescore,
    review,
)
from toolrl_cli.evaluation.compare import compare
from toolrl_cli.evaluation.junit import clean
from toolrl_cli.evaluation.show import dialogue_lines
from toolrl_cli.evaluation.summary import Errors
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Completion, Json, ToolCall

OSLO, ROME = ({"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome"))
EVIL = "\x1b[31m<b>&\"]]>\x00\ud800[red] it's"
WORDING = "A template. {% for tool in tools %}{{ tool | json }}{% endfor %}"
SAMPLES = Path(__file__).parents[1] / "data_samples"
CALLS = {"r": [OSLO], "v": [ROME], "n": []}


def evaluation(folder: Path, name: str, answers: str, **options: object) -> Path:
    """An evaluation of examples of two sources, with an answer each: by a letter of `CALLS`, x is hostile, - none."""
    rows = [example(f"e{i}", f"{i}: Oslo?", call("weather", city="Oslo")) for i in range(len(answers))]
    data = write_lines(folder / "ex.jsonl", [row | {"source": f"set{i % 2}"} for i, row in enumerate(rows)])
    written = [
        {"id": f"e{i}", **({"completion": EVIL} if letter == "x" else {"tool_calls": CALLS[letter]})}
        for i, letter in enumerate(answers)
        if letter != "-"
    ]
    predictions = write_lines(folder / f"{name}.jsonl", written)
    config = EvalConfig(bench="examples", data=data, predictions=predictions, output=folder / name)
    evaluate(replace(config, **options))  # type: ignore[arg-type]
    return folder / name


def pair(folder: Path, before: str, now: str) -> tuple[Recorded, Recorded]:
    return read_recorded(evaluation(folder, "before", before)), read_recorded(evaluation(folder, "now", now))


def test_a_comparison_pairs_by_id(tmp_path: Path) -> None:
    before, now = pair(tmp_path, "rrrrvvvvvv", "rrvvrrrrrv")
    found = compare(now, before)
    assert (found.pairs, found.only_before, found.only_now, found.other_prompts) == (10, 0, 0, 0)
    assert found.flips.right_to_wrong == ("e2", "e3")
    assert found.flips.wrong_to_right == ("e4", "e5", "e6", "e7", "e8")
    assert found.flips.p_value == 2 * (1 + 7 + 21) / 2**7
    assert list(found.metrics) == ["exact_rate", "total", "format", "correctness"]
    rate = found.metrics["exact_rate"]
    assert (rate.before, rate.now, round(rate.difference.value, 12)) == (0.4, 0.7, 0.3)
    assert rate.difference.low < 0.3 < rate.difference.high
    assert (rate.difference.n, rate.difference.method, rate.difference.unit) == (10, "bonett-price", "share")
    # A wrong value costs 2 of 4: the gain in total is twice that in exact rate.
    assert round(found.metrics["total"].difference.value, 12) == 0.6
    assert {name: (change.before, change.now) for name, change in found.categories.items()} == {
        "set0": (0.4, 0.8), "set1": (0.4, 0.6)
    }  # fmt: skip
    assert found.notes == ()


def test_only_shared_entries_are_compared(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "before", "rrrrrrrrrr", limit=6)
    now = evaluation(tmp_path, "now", "vvvvvvvvvv", limit=8)
    found = compare(read_recorded(now), read_recorded(before))
    assert (found.pairs, found.only_before, found.only_now) == (6, 0, 2)
    assert len(found.flips.right_to_wrong) == 6


def test_other_prompts_and_other_data_are_told(tmp_path: Path) -> None:
    before, now = pair(tmp_path, "rrrr", "rrrr")
    results = {
        id: replace(result, prompt_hash="0" * 16) if id == "e1" else result for id, result in now.results.items()
    }
    hashes = {**now.manifest.hashes, "reward": "00ff"}
    found = compare(replace(now, results=results, manifest=replace(now.manifest, hashes=hashes)), before)
    reward = before.manifest.hashes["reward"]
    assert found.other_prompts == 1
    assert found.notes == (
        f"1 of 4 entries were asked with another prompt in {before.folder}",
        f"{before.folder} has another reward ({reward}, here 00ff)",
    )


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    before, now = pair(tmp_path, "rr", "rr")
    with pytest.raises(ConfigError, match="before: an evaluation on bfcl, not on examples; give one of the same bench"):
        compare(now, replace(before, summary=replace(before.summary, bench="bfcl")))
    with pytest.raises(DataError, match=r"no id in common with .*now; a comparison pairs entries by id"):
        compare(now, replace(before, results={}))
    with pytest.raises(DataError, match=r"nowhere/manifest\.json: no such file"):
        ReviewConfig(baseline=tmp_path / "nowhere").check("examples")
    with pytest.raises(ConfigError, match="not on bfcl"):
        ReviewConfig(baseline=tmp_path / "before").check("bfcl")


def test_weighted_metrics_are_compared_by_their_weights(tmp_path: Path) -> None:
    before, now = pair(tmp_path, "rrrrvvvvvv", "rrvvrrrrrv")
    metrics = {
        **now.summary.metrics,
        "overall": now.summary.metrics["exact_rate"],
        "gone": now.summary.metrics["total"],
    }
    weights = {"overall": {"set0": 0.25, "set1": 0.75}, "gone": {"set2": 1.0}}
    found = compare(replace(now, summary=replace(now.summary, metrics=metrics, weights=weights)), before)
    assert "gone" not in found.metrics
    overall = found.metrics["overall"]
    assert (overall.before, round(overall.now, 12), overall.difference.n) == (0.4, 0.65, 10)
    assert overall.difference.value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("under", "drop", "message"),
    [
        (["70"], [], None),
        (["exact_rate=70", "total=3.4", "set0=80"], ["0", "set1=0"], None),
        (["70.1"], [], r"exact_rate 70.00% \(95% interval 39.68 to 89.22, n 10\) is under 70.1%"),
        (["total=3.5"], [], r"total 3.4000 \(95% interval [\d.]+ to [\d.]+, n 10\) is under 3.5"),
        (["set1=61"], [], r"set1 60.00% .* is under 61%"),
        (
            [],
            ["set1=0", "set0=1"],
            None,
        ),
        (["99", "total=9"], [], r"exact_rate 70.00% .*; total 3.4000 "),
    ],
)
def test_gates(tmp_path: Path, under: list[str], drop: list[str], message: str | None) -> None:
    before, now = pair(tmp_path, "rrrrvvvvvv", "rrvvrrrrrv")
    limits = {"fail_under": read_gates("--fail-under", under), "max_drop": read_gates("--max-drop", drop)}
    found = review(now, ReviewConfig(baseline=before.folder, **limits))  # type: ignore[arg-type]
    if message is None:
        assert all(gate.passed for gate in found.gates)
        return found.enforce()
    with pytest.raises(GateFailed, match=message):
        found.enforce()
    return None


def test_a_drop_of_just_the_limit_is_allowed(tmp_path: Path) -> None:
    before, now = pair(tmp_path, "rrrvvvvvvv", "rrvvvvvvvv")
    # 0.3 - 0.2 is not 0.1 in binary
    assert review(now, ReviewConfig(baseline=before.folder, max_drop={"": 10.0})).gates[0].passed
    assert not review(now, ReviewConfig(baseline=before.folder, max_drop={"": 9.999})).gates[0].passed


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--fail-under", "high", "--fail-under high: must be a number, or metric=number"),
        ("--fail-under", "=3", "--fail-under =3: must be a number"),
        ("--max-drop", "total=nan", "--max-drop total=nan: must be a number"),
    ],
)
def test_limits_that_are_none(option: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_gates(option, [text])
    with pytest.raises(ConfigError, match="is given twice"):
        read_gates(option, ["a=1", "a=2"])


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    _, now = pair(tmp_path, "rr", "rr")
    known = r"choose from exact_rate, total, format, correctness, set0, set1; did you mean 'exact_rate'\?"
    with pytest.raises(ConfigError, match=f"--fail-under exact: no such metric or category here; {known}"):
        review(now, ReviewConfig(fail_under={"exact": 3.0}))
    with pytest.raises(ConfigError, match="--max-drop compares with an earlier evaluation; give it as --baseline DIR"):
        ReviewConfig(max_drop={"": 1.0})


def test_junit_holds_every_entry(tmp_path: Path) -> None:
    recorded = read_recorded(evaluation(tmp_path, "now", "rvx-n"))
    review(recorded, ReviewConfig(junit=tmp_path / "ci" / "junit.xml"))
    root = ElementTree.parse(tmp_path / "ci" / "junit.xml").getroot()
    counts = ("tests", "failures", "errors")
    assert [root.get(name) for name in counts] == ["5", "3", "1"]
    suites = {suite.get("name"): [suite.get(name) for name in counts] for suite in root}
    assert suites == {"set0": ["3", "2", "0"], "set1": ["2", "1", "1"]}
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert {case.get("classname") for case in cases.values()} == {"examples.set0", "examples.set1"}
    assert {name: [(node.tag, node.get("type")) for node in case] for name, case in cases.items()} == {
        "e0": [], "e1": [("failure", "wrong_value")], "e2": [("failure", "no_call")],
        "e3": [("error", "missing")], "e4": [("failure", "no_call")],
    }  # fmt: skip
    assert cases["e1"][0].get("message") == 'call 1 (weather): city: "Rome" != "Oslo"'
    assert cases["e2"][0].text == "[31m<b>&\"]]>[red] it's"
    assert [path.name for path in (tmp_path / "ci").iterdir()] == ["junit.xml"]


@pytest.mark.parametrize("content", ["id,city\n", "", "<html>", '<?xml version="1.0"?>\n<testsuitable/>'])
def test_junit_replaces_no_other_file(tmp_path: Path, cli: InProcess, content: str) -> None:
    folder = evaluation(tmp_path, "now", "rv")
    mine = tmp_path / "mine"
    mine.write_text(content, "utf-8")
    message = f"--junit {mine}: replaces no file but a JUnit report, which this is not; choose another file"
    assert refusal(cli("eval", folder, "--junit", mine), 2) == message
    new = ["eval", "--bench", "examples", "--data", tmp_path / "ex.jsonl", "--predictions", tmp_path / "now.jsonl"]
    assert refusal(cli(*new, "-o", tmp_path / "new", "--junit", mine), 2) == message
    assert refusal(cli(*new, "-o", tmp_path / "new", "--junit", tmp_path), 2) == (
        f"--junit {tmp_path}: is a folder; give a file"
    )
    own = tmp_path / "new" / "results.jsonl"
    message = f"--junit {own}: a file that the evaluation itself writes; choose another file"
    assert refusal(cli(*new, "-o", tmp_path / "new", "--junit", own), 2) == message
    assert mine.read_text("utf-8") == content and not (tmp_path / "new").exists()


def test_junit_replaces_a_report(tmp_path: Path, cli: InProcess) -> None:
    folder, report = evaluation(tmp_path, "now", "rv"), tmp_path / "report.xml"
    for content in ("<testsuite/>", '\ufeff<?xml version="1.0" encoding="UTF-8"?>\n\n<testsuites name="x">'):
        report.write_text(content, "utf-8")
        for _ in range(2):
            assert cli("eval", folder, "--junit", report).exit_code == 0
        assert ElementTree.parse(report).getroot().get("tests") == "2"


def test_what_xml_cannot_hold_is_removed() -> None:
    assert clean("a\x00\x08\x0b\x1f\ud800\ufffe\uffff\tb\nc\U0001f600é") == "a\tb\nc\U0001f600é"


def test_errored_entries_are_listed_up_to_a_number(tmp_path: Path) -> None:
    summary = read_recorded(evaluation(tmp_path, "now", "r" + "-" * 30)).summary
    assert isinstance(summary.errors, Errors)
    assert (summary.errors.n, len(summary.errors.shown), summary.n) == (30, 20, 31)
    assert summary.metrics["exact_rate"].n == 31
    shown = summary.errors.shown[0]
    assert (shown.id, shown.category, shown.error_type, shown.error) == ("e1", "set1", "missing", "no prediction")


def test_a_bench_that_fails_on_an_answer_costs_that_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grade = ExamplesBench.grade

    def fail(self: ExamplesBench, entry: Entry, answers: list[Answer]) -> Verdict:
        if entry.id == "e1":
            raise ZeroDivisionError("odd\nanswer")
        return grade(self, entry, answers)

    monkeypatch.setattr(ExamplesBench, "grade", fail)
    recorded = read_recorded(evaluation(tmp_path, "now", "rrr"))
    row = recorded.results["e1"]
    assert (row.correct, row.error_type, row.error, row.failure) == (
        False,
        "grading",
        "ZeroDivisionError: odd",
        "error",
    )
    assert [entry.id for entry in recorded.summary.errors.shown] == ["e1"]
    assert recorded.summary.metrics["total"].n == 2


def test_rescoring_alone_changes_nothing(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rvx-n")
    before, seen = snapshot(folder), []
    recorded = rescore(folder, progress=lambda done, total: seen.append((done, total)))
    after = snapshot(folder)
    assert seen == [(i, 5) for i in range(1, 6)]
    assert after["results.jsonl"] == before["results.jsonl"]
    kept = json.loads(before["summary.json"])
    noted = json.loads(after["summary.json"])
    assert noted.pop("notes") == ["rescored by toolrl 0.1.0: 0 of 5 verdicts changed"] and kept.pop("notes") == []
    assert noted == kept
    manifest = read_manifest(folder)
    identity = {name: value for name, value in json.loads(after["manifest.json"]).items() if name != "rescored"}
    assert json.loads(before["manifest.json"]) == identity
    assert manifest.rescored is not None
    assert manifest.rescored["hashes"] == {name: manifest.hashes[name] for name in ("format", "reward")}
    assert read_recorded(folder) == recorded


def test_rescoring_follows_the_reward(tmp_path: Path) -> None:
    reward = tmp_path / "mine.yaml"
    spec = "format: {{low: 0, high: 1}}\ncorrectness: {{low: -3, high: {}}}\n"
    reward.write_text(spec.format(3), "utf-8")
    folder = evaluation(tmp_path, "now", "rv", reward=str(reward))
    assert read_recorded(folder).summary.metrics["total"].value == 3.0
    reward.write_text(spec.format(9), "utf-8")
    recorded = rescore(folder)
    # Exact earns all, 1 + 9; a wrong value two thirds of the way from -3 to 9, and the format.
    assert [(result.score or {})["total"] for result in recorded.results.values()] == [10.0, 6.0]
    assert recorded.summary.metrics["total"].value == 8.0
    now = recorded.manifest
    assert now.rescored is not None and now.rescored["hashes"]["reward"] != now.hashes["reward"]


def test_rescoring_mends_verdicts_and_keeps_what_was_asked(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rrv")
    rows = read_rows(folder / "results.jsonl")
    rows[0] |= {"correct": False, "failure": "other", "prompt_hash": "0" * 16}
    write_lines(folder / "results.jsonl", rows)
    recorded = rescore(folder)
    assert recorded.results["e0"].correct and recorded.results["e0"].prompt_hash == "0" * 16
    assert recorded.summary.notes == (
        "rescored by toolrl 0.1.0: 1 of 3 verdicts changed: e0",
        "1 entries have another prompt now than the one that was answered",
    )


def test_rescoring_keeps_the_note_on_predictions(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "ex.jsonl", [example("a", "Oslo?", call("weather", city="Oslo"))])
    predictions = write_lines(tmp_path / "p.jsonl", [{"id": id, "tool_calls": [OSLO]} for id in "ab"])
    evaluate(EvalConfig(bench="examples", data=data, predictions=predictions, output=tmp_path / "now"))
    notes = rescore(tmp_path / "now").summary.notes
    assert notes == (
        "predictions of entries that are not evaluated here: 1, the first of 'b'",
        "rescored by toolrl 0.1.0: 0 of 1 verdicts changed",
    )


def test_a_lost_result_is_not_rescored_away(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rvrr", limit=3)
    lines = (folder / "results.jsonl").read_text("utf-8").splitlines(keepends=True)
    lost = json.loads(lines[1])["id"]
    (folder / "results.jsonl").write_text(lines[0] + lines[2], "utf-8")
    kept = snapshot(folder)
    message = rf"results.jsonl: 1 results of the evaluation are not there, the first of {lost}; repeat .* --resume"
    with pytest.raises(DataError, match=message):
        rescore(folder)
    assert snapshot(folder) == kept
    config = EvalConfig(
        bench="examples", data=tmp_path / "ex.jsonl", predictions=tmp_path / "now.jsonl", output=folder, limit=3
    )
    assert evaluate(replace(config, resume=True)).n == 3
    assert rescore(folder).summary.n == 3


def test_what_cannot_be_rescored_is_left_alone(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rv")
    kept = snapshot(folder)
    (tmp_path / "ex.jsonl").write_text("", "utf-8")
    with pytest.raises(DataError, match=r"ex\.jsonl: has changed since .*now was evaluated on it; evaluate again"):
        rescore(folder)
    assert snapshot(folder) == kept
    replace(read_manifest(folder), finished=False).write(folder)
    with pytest.raises(DataError, match="now: not finished; run the command that began it again, with --resume"):
        rescore(folder)
    replace(read_manifest(folder), command="sft").write(folder)
    with pytest.raises(DataError, match="now: made by toolrl sft; give the folder of a toolrl eval"):
        read_recorded(folder)


def test_a_summary_of_another_version_names_the_way_out(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rv")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    del summary["metrics"]["total"]["method"]
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    with pytest.raises(
        DataError, match=r"summary\.json: not a summary of this toolrl \(.*`method`.*run: toolrl eval --r"
    ):
        read_recorded(folder)
    rescore(folder)
    assert read_recorded(folder).summary.n == 2


def test_the_template_stays_with_the_evaluation(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(WORDING, "utf-8")
    folder = evaluation(tmp_path, "now", "rv", template=template)
    template.unlink()
    (found,) = find_exhibits(folder)
    assert found.prompt.startswith("[system]\nA template. {") and found.same_prompt
    assert rescore(folder).summary.notes == ("rescored by toolrl 0.1.0: 0 of 2 verdicts changed",)


def test_the_wording_of_training_rows_is_that_of_their_evaluation(tmp_path: Path, toolrl: Cli) -> None:
    lines = (SAMPLES / "train-toolrl.jsonl").read_text("utf-8").split("\n")
    alike = [json.loads(line) for line in lines if line.startswith('{"instruction": "You help a user')]
    rows, template, data = write_lines(tmp_path / "rows.jsonl", alike), tmp_path / "t.jinja", tmp_path / "ex.jsonl"
    assert toolrl("prepare", rows, "--extract-template", template).returncode == 0
    assert toolrl("prepare", rows, "-o", data).returncode == 0
    answers = [{"id": row["id"], "completion": "none"} for row in read_rows(data)]
    predictions = write_lines(tmp_path / "p.jsonl", answers)
    config = EvalConfig(
        bench="examples", data=data, predictions=predictions, output=tmp_path / "now", template=template
    )
    evaluate(config)
    written = {(row["instruction"], row["input"]) for row in alike}
    prompts = [exhibit.prompt for exhibit in find_exhibits(tmp_path / "now", "all")]
    asked = [tuple(prompt.removeprefix("[system]\n").split("\n[user]\n")) for prompt in prompts]
    assert len(asked) == len(answers) and written.issuperset(asked)
    assert len({result.prompt_hash for result in read_recorded(tmp_path / "now").results.values()}) == len(set(asked))


def test_exhibits_are_what_was_asked_wanted_and_answered(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "rvr-x")
    (first, *rest) = find_exhibits(folder)
    assert [first.id, *(found.id for found in rest)] == ["e1", "e3", "e4"]
    assert (first.failure, first.reason) == ("wrong_value", 'call 1 (weather): city: "Rome" != "Oslo"')
    assert first.title() == "e1 (set1): wrong: wrong_value"
    assert "<user> 1: Oslo? </user>" in first.prompt and '"Oslo"' in first.gold and '"Rome"' in first.prediction
    assert (rest[0].prediction, rest[0].reason, rest[0].failure) == ("(none)", "no prediction", "error")
    assert [found.id for found in find_exhibits(folder, "right")] == ["e0", "e2"]
    assert [found.id for found in find_exhibits(folder, "all", categories=("set0",), limit=2)] == ["e0", "e2"]
    with pytest.raises(ConfigError, match="--category set2: no results of it here; choose from set0, set1; did you"):
        find_exhibits(folder, categories=("set2",))


def test_a_long_text_is_cut_for_people_alone(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, "now", "x")
    rows = read_rows(folder / "results.jsonl")
    write_lines(folder / "results.jsonl", [rows[0] | {"completion": "word " * 1_000_000}])
    (found,) = find_exhibits(folder)
    assert len(str(found.to_json()["prediction"])) == 5_000_000
    shown = found.sections()[1]["prediction"].splitlines()
    assert shown == ["word " * 800, "(4992000 characters are left out; --json shows them)", "word " * 800]


def test_the_turns_of_a_dialogue_are_told() -> None:
    made = (ToolCall("f", {}),)
    answers = [Answer(Completion("a"), made), Answer(Completion("b")), Answer(Completion("c"), made)]
    between = [[{"role": "tool", "name": "f", "content": "5"}], [{"role": "user", "content": "Again."}]]
    assert list(dialogue_lines(answers, between, turns=True)) == [
        "[turn 1]", "[answer 1]", "a", "[tool]", "5", '{"name": "f"}', "[answer 2]", "b",
        "[turn 2]", "[user]", "Again.", "[answer 3]", "c",
    ]  # fmt: skip
    plain = ["[answer 1]", "a", "[answer 2]", "b", "[answer 3]", "c"]
    assert list(dialogue_lines(answers, [], turns=False)) == plain


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    words = ["eval", "--show", "all", str(evaluation(tmp_path, "now", "rv"))]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "toolrl_cli", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "toolrl: standard output: No space left on device\n")


def test_a_bench_that_is_there_no_more(tmp_path: Path, cli: InProcess) -> None:
    folder = evaluation(tmp_path, "now", "rv")
    manifest = read_manifest(folder)
    replace(manifest, config=manifest.config | {"bench": "sums"}).write(folder)
    for words in (["--rescore"], ["--show", "all"]):
        assert refusal(cli("eval", folder, *words)).startswith(
            f"{folder}: made by a toolrl that this one cannot follow (unknown bench 'sums'; choose from "
        )


def test_exhibits_in_a_pipe_are_plain_and_harmless(tmp_path: Path, toolrl: Cli) -> None:
    done = toolrl("eval", "--show", "wrong", "--limit", 1, evaluation(tmp_path, "now", "rrx"))
    assert (done.returncode, done.stderr) == (0, "")
    title, _, *lines = done.stdout.splitlines()
    assert title == "== e2 (set0): wrong: no_call"
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "prompt:",
        "gold:",
        "prediction:",
        "reason:",
    ]
    assert "  \\x1b[31m<b>&\"]]>\\x00\\ud800[red] it's" in lines


def test_exhibits_in_a_terminal_stand_beside_each_other(tmp_path: Path) -> None:
    shown = in_terminal("eval", "--show", "wrong", str(evaluation(tmp_path, "now", "rvx")))
    assert re.search(r"gold +.*prediction", shown)
    assert "\\x1b[31m<b>" in shown and "\x00" not in shown


def in_terminal(*words: str) -> str:
    """What a command prints to a terminal of 100 columns, without colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-m", "toolrl_cli", *words], stdout=theirs, env=environment, timeout=60)
    os.close(theirs)
    assert done.returncode == 0
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 65536))
        except OSError:
            break
        if not parts[-1]:
            break
    os.close(ours)
    return b"".join(parts).decode()


def test_the_command_compares_gates_and_reports(tmp_path: Path, toolrl: Cli) -> None:
    before, now = evaluation(tmp_path, "before", "rrrv"), evaluation(tmp_path, "now", "rvvv")
    kept = snapshot(now)
    done = toolrl("eval", now, "--baseline", before, "--max-drop", 1, "--junit", tmp_path / "j.xml")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert re.match(r"toolrl: .*now: exact_rate went from 75.00 to 25.00, by -50.00 points \(95%", done.stderr)
    assert re.search(r"right to wrong │ +2 │ +e1, e2 │", done.stdout)
    assert "2 entries lost and 0 won since the baseline: p = 0.5 (McNemar, exact, two-sided)\n" in done.stdout
    assert (tmp_path / "j.xml").exists() and snapshot(now) == kept
    assert toolrl("eval", now, "--fail-under", 25).returncode == 0


def test_a_new_evaluation_is_gated_too(tmp_path: Path, toolrl: Cli) -> None:
    before = evaluation(tmp_path, "before", "rrrv")
    asked = ["eval", "--bench", "examples", "--data", tmp_path / "ex.jsonl", "--predictions", tmp_path / "before.jsonl"]
    done = toolrl(*asked, "-o", tmp_path / "new", "--baseline", before, "--fail-under", 76, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    printed = json.loads(done.stdout)
    assert printed["comparison"]["flips"]["right_to_wrong"] == []
    assert [(gate["option"], gate["name"], gate["passed"]) for gate in printed["gates"]] == [
        ("--fail-under", "exact_rate", False)
    ]
    refused = toolrl(*asked, "-o", tmp_path / "other", "--baseline", tmp_path / "nowhere")
    assert refusal(refused).endswith("manifest.json: no such file") and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["d", "--bench", "bfcl"], "--bench does nothing with a finished evaluation; leave it out"),
        (["d", "--model", "m"], "--model does nothing with a finished evaluation; leave it out"),
        (["d", "--resume"], "--resume does nothing with a finished evaluation; leave it out"),
        (["d", "--seed", "0", "--rescore"], "--seed does nothing with a finished evaluation; leave it out"),
        (["d", "--limit", "3"], "--limit does nothing with a finished evaluation; leave it out"),
        (["d", "--bfcl-wheel", "w"], "--bfcl-wheel does nothing with a finished evaluation; leave it out"),
        (["d", "--dry-run"], "--dry-run does nothing with a finished evaluation; leave it out"),
        (
            ["d", "--category", "parallel", "--fail-under", "40"],
            "--category does nothing with a finished evaluation; leave it out; a gate names its category, as in",
        ),
        (["--show", "wrong", "--bench", "bfcl", "-o", "o"], "give --bench and -o to evaluate, or the DIR"),
        (["--rescore"], "give --bench and -o to evaluate, or the DIR"),
        (["d", "--rescore", "--show", "all"], "--rescore does nothing with --show; leave it out"),
        (["d", "--show", "wrong", "--fail-under", "99"], "--fail-under does nothing with --show; leave it out"),
        (["d", "--show", "wrong", "--junit", "k.xml"], "--junit does nothing with --show; leave it out"),
    ],
)
def test_the_command_refuses_what_contradicts(cli: InProcess, words: list[str], error: str) -> None:
    done = cli("eval", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert error in done.stderr


INTERVAL = {"value", "low", "high", "n", "method", "unit"}
NAMED = {"metrics": "NAME", "weights": "NAME", "categories": "CATEGORY", "outcomes": "OUTCOME", "failures": "KIND"}
NAMED |= {"groups": "GROUP", "groups_of_what_ran": "GROUP"}


def schema(value: object, path: str = "", key: str = "") -> Iterator[str]:
    """The paths of every field, with the names of metrics and the like left open; an interval is one field."""
    if isinstance(value, dict) and value.keys() == INTERVAL:
        yield path
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            shown = NAMED.get(key, "CATEGORY" if path == "weights.NAME" else name)
            yield from schema(item, f"{path}.{shown}".lstrip("."), name)
    elif isinstance(value, list) and value:
        for item in value:
            yield from schema(item, f"{path}[]")
    else:
        yield path


def documented(heading: str) -> set[str]:
    """The fields that a section of the documentation lists in its tables."""
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text("utf-8")
    section = page.split(f"\n### {heading}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`([^`]+)`", row)}


def full_json(folder: Path) -> Json:
    """Everything that `--json` can hold for two evaluations; what only bfcl has is put in by hand."""
    before, now = pair(folder, "rrrvvx-", "rvrvr-x")
    limits = {"fail_under": {"": 10.0}, "max_drop": {"": 99.0}}
    official = {"version": "1", "overall": 0.1, "groups": {"live": 0.1}, "overall_of_what_ran": 0.1}
    summary = replace(
        now.summary,
        samples=Spread((0.5, 0.5), 0.5, 0.0),
        weights={"exact_rate": {"set0": 0.5, "set1": 0.5}},
        official={**official, "groups_of_what_ran": {"live": 0.1}},
        notes=("a note",),
    )
    other = replace(now, results={id: replace(r, prompt_hash="0") for id, r in now.results.items()}, summary=summary)
    found: Json = json.loads(json.dumps(review(other, ReviewConfig(baseline=before.folder, **limits)).to_json()))  # type: ignore[arg-type]
    return found


def test_the_json_has_the_documented_fields(tmp_path: Path) -> None:
    found = set(schema(full_json(tmp_path)))
    assert {field for field in found if not field.startswith(("comparison", "gates"))} == documented("summary.json")
    assert {field for field in found if field.startswith(("comparison", "gates"))} == documented("--json")
    assert documented("An interval") == INTERVAL


def test_the_shown_entries_have_the_documented_fields(tmp_path: Path, toolrl: Cli) -> None:
    done = toolrl("eval", "--show", "all", evaluation(tmp_path, "now", "rv"), "--json")
    assert set(schema(json.loads(done.stdout))) == documented("--show --json")


def test_results_have_the_documented_fields(tmp_path: Path) -> None:
    rows = read_rows(evaluation(tmp_path, "now", "rv-") / "results.jsonl")
    assert {name for row in rows for name in row} | {"steps", "sample", "unset"} == documented("results.jsonl")
