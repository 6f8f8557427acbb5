"""`toolrl eval`: the examples bench, recorded predictions, resuming, refusals; whole results compared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from toolrl_cli.benches.base import Entry
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.evaluation import EvalConfig, evaluate, pick, plan, read_ids, rescore, sample, summary_tables
from toolrl_cli.formats import find_format
from toolrl_cli.inference.base import Prompt
from toolrl_cli.inference.predictions import read_predictions
from toolrl_cli.manifest import Manifest, read_manifest, sole_writer
from toolrl_cli.records import Completion, Json, Target
from toolrl_cli.training.config import FormatName

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
RIGHT = '<think> look it up </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
WRONG = RIGHT.replace("Oslo", "Rome")
BROKEN = RIGHT.replace("}}", "")
REPLY = "<think> no tool fits </think>\n<response> I cannot cook. </response>"
ATTACK = "__import__('os').system('touch pwned')"


def example(id: str, source: str = "set", *, call: bool = True) -> Json:
    target: Json = {"thought": None, "tool_calls": [], "response": "Sorry."}
    if call:
        target = {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}
    messages = [{"role": "user", "content": f"{id}: how is Oslo?"}]
    return {"id": id, "source": source, "tools": [TOOL], "messages": messages, "target": target}


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def configure(folder: Path, examples: Sequence[Json], predictions: Sequence[object]) -> EvalConfig:
    data = write_lines(folder / "examples.jsonl", examples)
    recorded = write_lines(folder / "predictions.jsonl", predictions)
    return EvalConfig(bench="examples", output=folder / "out", data=data, predictions=recorded)


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolrl_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class ScriptedEngine:
    """Yields the scripted texts in reverse order of the prompts, and stops hard after `limit` of them."""

    def __init__(self, texts: dict[str, str], *, limit: int | None = None) -> None:
        self.texts, self.limit = texts, limit
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        for count, prompt in enumerate(reversed(prompts)):
            if count == self.limit:
                raise KeyboardInterrupt
            self.asked.append(prompt.id)
            yield prompt, Completion(self.texts[prompt.id])


def test_every_kind_of_answer_has_its_result(tmp_path: Path) -> None:
    examples = [example("a"), example("b"), example("c"), example("d"), example("e", "other", call=False)]
    predictions = [
        {"id": "a", "completion": RIGHT},
        {"id": "b", "completion": WRONG},
        {"id": "c", "completion": BROKEN, "truncated": True},
        {"id": "e", "completion": REPLY},
    ]
    summary = evaluate(configure(tmp_path, examples, predictions))

    rows = {row["id"]: row for row in read_rows(tmp_path / "out" / "results.jsonl")}
    kept = ("category", "correct", "outcome", "error_type", "truncated", "completion", "tool_calls")
    oslo, rome = ([{"name": "weather", "arguments": {"city": city}}] for city in ("Oslo", "Rome"))
    assert {id: tuple(row[name] for name in kept) for id, row in rows.items()} == {
        "a": ("set", True, "exact", None, False, RIGHT, oslo),
        "b": ("set", False, "partial", None, False, WRONG, rome),
        "c": ("set", False, "truncated", "parse", True, BROKEN, []),
        "d": ("set", False, None, "missing", False, None, []),
        "e": ("other", True, "abstained", None, False, REPLY, []),
    }
    assert rows["d"]["error"] == "no prediction"
    assert rows["a"]["score"] == {
        "total": 4.0, "format": 1.0, "correctness": 3.0, "outcome": "exact", "reasons": []
    }  # fmt: skip
    assert len({row["prompt_hash"] for row in rows.values()}) == 5

    shown = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert shown == json.loads(json.dumps(summary.to_json()))
    assert (shown["bench"], shown["n"], shown["official"]) == ("examples", 5, None)
    # correctness: 3 exact, 1 for the right tool and argument name, -3 broken, -3 missing, 0 without gold calls
    assert {name: round(metric["value"], 4) for name, metric in shown["metrics"].items()} == {
        "exact_rate": 0.4,
        "total": 0.4,
        "format": 0.8,
        "correctness": -0.4,
    }
    assert shown["outcomes"] == {"abstained": 1, "exact": 1, "no_prediction": 1, "partial": 1, "truncated": 1}
    counts = {"n": 4, "correct": 1, "parse_failures": 1, "truncated": 1, "no_prediction": 1}
    assert shown["categories"]["set"] | counts == shown["categories"]["set"]
    assert all(metric["low"] <= metric["value"] <= metric["high"] for metric in shown["metrics"].values())
    assert {row["id"]: row["failure"] for row in rows.values()} == {
        "a": None, "b": "wrong_value", "c": "truncated", "d": "error", "e": None
    }  # fmt: skip
    assert shown["categories"]["set"]["failures"] == {"error": 1, "truncated": 1, "wrong_value": 1}
    missing = {"id": "d", "category": "set", "error_type": "missing", "error": "no prediction", "sample": None}
    assert shown["errors"] == {"n": 1, "shown": [missing]}


@pytest.mark.parametrize(
    ("completion", "correct", "outcome", "error_type"),
    [
        (REPLY, True, "abstained", None),
        ("", False, "abstained", "no_response"),
        ("<think> hm </think>\n<response>  </response>", False, "abstained", "no_response"),
        (RIGHT, False, "spurious_call", None),
    ],
)
def test_without_a_gold_call_a_response_is_wanted(
    tmp_path: Path, completion: str, correct: bool, outcome: str, error_type: str | None
) -> None:
    evaluate(configure(tmp_path, [example("a", call=False)], [{"id": "a", "completion": completion}]))
    (row,) = read_rows(tmp_path / "out" / "results.jsonl")
    assert (row["correct"], row["outcome"], row["error_type"]) == (correct, outcome, error_type)


def call_line(name: object, parameters: object) -> str:
    call = json.dumps({"name": name, "parameters": parameters})
    return f"<think> x </think>\n<tool_call>\n{call}\n</tool_call>"


@pytest.mark.parametrize(
    ("completion", "error_type"),
    [
        (call_line(ATTACK, {}), None),
        (call_line("weather", {"city": ATTACK}), None),
        (call_line("weather", {ATTACK: ATTACK}), None),
        (call_line("weather", {"city": float("nan")}), None),
        (call_line("weather", {"city": "\ud800\x00[red]"}), None),
        (call_line([ATTACK], {}), "parse"),
        (call_line("weather", [ATTACK]), "parse"),
        (call_line("weather", None), "parse"),
        (f"<tool_call>\n{ATTACK}\n</tool_call>", "parse"),
        (call_line("weather", {}).replace("{}", '{"city": ' + "[" * 70 + "]" * 70 + "}"), "parse"),
        (call_line("weather", {}).replace("{}", "[" * 100_000), "parse"),
    ],
)
def test_hostile_completions_are_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, completion: str, error_type: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = evaluate(configure(tmp_path, [example("a")], [{"id": "a", "completion": completion}]))
    (row,) = read_rows(tmp_path / "out" / "results.jsonl")
    assert (row["correct"], row["error_type"]) == (False, error_type)
    assert summary.categories["set"].parse_failures == (error_type == "parse")
    assert not (tmp_path / "pwned").exists()


def test_recorded_tool_calls_count_as_written_in_the_format(tmp_path: Path) -> None:
    oslo = [{"name": "weather", "arguments": {"city": "Oslo"}}]
    examples = [example("a"), example("b", call=False)]
    predictions = [{"id": "a", "tool_calls": oslo}, {"id": "b", "tool_calls": [], "response": "I cannot."}]
    summary = evaluate(configure(tmp_path, examples, predictions))
    assert summary.metrics["exact_rate"].value == 1.0
    assert summary.metrics["format"].value == 1.0


CALL_STEP = {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}


@pytest.mark.parametrize("name", ["toolrl", "hermes", "llama3"])
def test_recorded_turns_end_with_an_answer_without_calls(tmp_path: Path, name: FormatName) -> None:
    text_format = find_format(name)
    turns = [[CALL_STEP, CALL_STEP], [], [CALL_STEP, {"completion": "done"}], [{"completion": "no"}]]
    path = write_lines(tmp_path / "p.jsonl", [{"id": "a", "turns": turns}])
    call = text_format.render_target(Target.from_json(CALL_STEP))
    texts = [completion.text for completion in read_predictions(path, text_format)["a", 0]]
    assert texts == [call, call, "", "", call, "done", "no"]
    assert [bool(text_format.parse_tool_calls(text)) for text in texts] == [text == call for text in texts]


def test_a_turn_whose_calls_cannot_be_read_has_ended(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"id": "a", "turns": [[CALL_STEP, {"completion": BROKEN}]]}])
    assert read_predictions(path, find_format("toolrl"))["a", 0][1:] == [Completion(BROKEN)]


def test_unknown_predictions_are_named(tmp_path: Path) -> None:
    predictions = [{"id": id, "completion": RIGHT} for id in ("a", "x1", "x2", "x3", "x4")]
    summary = evaluate(configure(tmp_path, [example("a")], predictions))
    assert summary.notes == ("predictions of entries that are not evaluated here: 4, the first of 'x1'",)


def test_a_prediction_left_out_by_the_limit_is_not_unknown(tmp_path: Path) -> None:
    config = configure(tmp_path, [example("a"), example("b")], [{"id": id, "completion": RIGHT} for id in "ab"])
    summary = evaluate(replace(config, limit=1))
    assert (summary.n, summary.notes) == (1, ())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "completion": "x"}\n{"id": "a", "completion": "y"}\n', ":2: id 'a' occurs twice"),
        ('{"id": "a"}\n', ':1: a prediction needs either "completion" or "tool_calls"'),
        ('{"id": "a", "completion": "x", "tool_calls": []}\n', ':1: a prediction needs either "completion"'),
        ('{"completion": "x"}\n', ":1: id must be a string, not null"),
        ('{"id": "a", "completion": 7}\n', ":1: completion must be a string, not a number"),
        ('{"id": "a", "tool_calls": [{"name": "f", "arguments": "{}"}]}\n', ":1: tool call arguments must be"),
        ('{"id": "a", "completion": "x"}\n{"id": "b", "compl', ":2: not JSON"),
        ('{"id": "a", "turns": [], "completion": "x"}\n', ':1: a prediction needs either "completion" or "tool_calls"'),
        ('{"id": "a", "turns": {}}\n', ":1: turns must be a list, not an object"),
        ('{"id": "a", "turns": [{}]}\n', ":1: turns[0] must be a list, not an object"),
        ('{"id": "a", "turns": [[], ["x"]]}\n', ":1: turns[1][0] must be an object, not a string"),
        ('{"id": "a", "turns": [[{}]]}\n', ':1: a prediction needs either "completion" or "tool_calls"'),
        (
            '{"id": "a", "turns": [[{"completion": "x"}, {"completion": "y"}]]}\n',
            ":1: turns[0][0] has no readable call, which ends the turn; it must be the last",
        ),
        ("[1]\n", ":1: prediction must be an object, not a list"),
        ("", ": no predictions; each line must hold an id and a completion"),
    ],
)
def test_bad_predictions_are_refused_with_their_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(lines, "utf-8")
    with pytest.raises(DataError) as raised:
        read_predictions(path, find_format("toolrl"))
    assert str(raised.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no examples"),
        ([example("a"), example("a")], ":2: id 'a' occurs twice"),
        ([{"id": "a"}], ':1: no "tools" field; run toolrl prepare first'),
        ([example("a") | {"tools": [{"name": "f"}]}], r":1: tools\[0\]\.function must be an object, not null"),
        ([example("a") | {"messages": [{"content": "hi"}]}], r":1: messages\[0\]\.role must be a string, not null"),
        (
            [example("a") | {"messages": [{"role": "assistant", "tool_calls": [{}]}]}],
            "a: its tools or messages cannot be rendered",
        ),
    ],
)
def test_bad_examples_are_refused_and_leave_no_output(tmp_path: Path, rows: list[Json], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(configure(tmp_path, rows, [{"id": "a", "completion": RIGHT}]))
    assert not (tmp_path / "out").exists()


TEXTS = {"a": RIGHT, "b": WRONG, "c": BROKEN, "d": RIGHT, "e": REPLY}
FIVE = [example("a"), example("b", "other"), example("c"), example("d", "other"), example("e", call=False)]


def model_config(folder: Path, output: str = "out") -> EvalConfig:
    data = write_lines(folder / "examples.jsonl", FIVE)
    return EvalConfig(bench="examples", output=folder / output, data=data, model="scripted")


def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path) -> None:
    whole = evaluate(model_config(tmp_path, "whole"), engine=ScriptedEngine(TEXTS))
    config = model_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, engine=ScriptedEngine(TEXTS, limit=2))
    results = config.output / "results.jsonl"
    assert [row["id"] for row in read_rows(results)] == ["e", "d"]
    assert not read_manifest(config.output).finished
    with results.open("ab") as stream:
        stream.write(b'{"id": "c", "category": "set", "corr')  # as a kill in the middle of a write leaves it

    engine, seen = ScriptedEngine(TEXTS), []
    resumed = evaluate(
        replace(config, resume=True), engine=engine, progress=lambda done, total: seen.append((done, total))
    )
    assert engine.asked == ["c", "b", "a"]
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert resumed == whole
    assert (config.output / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert [row["id"] for row in read_rows(results)] == ["e", "d", "c", "b", "a"]
    assert read_manifest(config.output).finished


def test_a_finished_run_resumes_without_an_engine(tmp_path: Path) -> None:
    config = model_config(tmp_path)
    first = evaluate(config, engine=ScriptedEngine(TEXTS))
    assert evaluate(replace(config, resume=True)) == first


def test_a_killed_process_keeps_what_it_finished(tmp_path: Path) -> None:
    config = configure(tmp_path, FIVE, [{"id": id, "completion": text} for id, text in TEXTS.items()])
    script = f"""
import os, signal
from pathlib import Path
from toolrl_cli.evaluation import EvalConfig, evaluate
config = EvalConfig(bench="examples", output=Path({str(config.output)!r}), data=Path({str(config.data)!r}),
                    predictions=Path({str(config.predictions)!r}))
evaluate(config, progress=lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""
    killed = subprocess.run([sys.executable, "-c", script], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [row["id"] for row in read_rows(config.output / "results.jsonl")] == ["a", "b", "c"]
    resumed = evaluate(replace(config, resume=True))
    whole = evaluate(replace(config, output=tmp_path / "whole"))
    assert resumed == whole


def test_results_of_something_else_are_refused(tmp_path: Path) -> None:
    config = model_config(tmp_path)
    evaluate(config, engine=ScriptedEngine(TEXTS))
    (config.output / "results.jsonl").write_text('{"id": "a", "correct": true}\n', "utf-8")
    with pytest.raises(DataError, match=r"results\.jsonl:1: not a result of toolrl eval"):
        evaluate(replace(config, resume=True), engine=ScriptedEngine(TEXTS))


def test_an_output_is_neither_replaced_nor_mixed_unasked(tmp_path: Path) -> None:
    config = model_config(tmp_path)
    evaluate(config, engine=ScriptedEngine(TEXTS))
    with pytest.raises(ConfigError, match="not empty; add --resume"):
        evaluate(config, engine=ScriptedEngine(TEXTS))
    with pytest.raises(ConfigError, match="cannot resume with another seed"):
        evaluate(replace(config, seed=1, resume=True), engine=ScriptedEngine(TEXTS))
    again = evaluate(replace(config, seed=1, overwrite=True), engine=ScriptedEngine(TEXTS))
    assert (again.n, len(read_rows(config.output / "results.jsonl"))) == (5, 5)


def test_two_processes_do_not_write_one_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    config = model_config(tmp_path)
    told = rf"{config.output}: another process is writing to it; wait for it, or end it"

    def look(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match=told), sole_writer(config.output):
            pass

    evaluate(config, engine=ScriptedEngine(TEXTS), progress=look)
    evaluate(replace(config, overwrite=True), engine=ScriptedEngine(TEXTS), progress=look)
    with sole_writer(config.output), pytest.raises(ConfigError, match=told):
        evaluate(replace(config, resume=True), engine=ScriptedEngine(TEXTS))


def test_the_manifest_says_what_was_evaluated(tmp_path: Path) -> None:
    config = model_config(tmp_path)
    evaluate(config, engine=ScriptedEngine(TEXTS))
    manifest = read_manifest(config.output)
    assert (manifest.command, manifest.parent, manifest.format) == ("eval", "scripted", "toolrl")
    assert manifest.hashes.keys() == {"format", "data", "reward"}
    assert manifest.hashes["format"] == find_format("toolrl").digest
    assert manifest.config == {
        "bench": "examples",
        "model": "scripted",
        "served_model": None,
        "predictions": None,
        "data": str(config.data),
        "reward": "fine-grained",
        "ids": [],
        "limit": None,
        "max_new_tokens": 256,
        "batch_size": 8,
        "engine": "transformers",
        "tools": "text",
        "temperature": 0.0,
        "samples": 1,
        "format": None,
        "template": None,
        "allow_mismatch": False,
    }


def test_another_prompt_format_than_the_trainings_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    began = Manifest.create("sft", {}, seed=0, format="toolrl", hashes={"format": "0123456789abcdef"})
    replace(began, finished=True).write(run)
    config = replace(model_config(tmp_path), model=str(run))
    with pytest.raises(ConfigError, match="trained with prompt format 0123456789abcdef, evaluated with"):
        plan(config)
    allowed = replace(config, allow_mismatch=True, output=tmp_path / "allowed")
    digest = find_format("toolrl").digest
    mismatch = f"{run}: trained with prompt format 0123456789abcdef, evaluated with {digest}"
    note = f"another prompt than in training: {mismatch}"
    assert (plan(allowed)["parent"], plan(allowed)["notes"]) == (str(run), [note])
    assert evaluate(allowed, engine=ScriptedEngine(TEXTS)).notes == (note,)
    assert rescore(allowed.output).summary.notes[0] == note
    replace(began, hashes={"format": find_format("toolrl").digest}, finished=True).write(run)
    assert plan(config)["parent"] == str(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bench": "mmlu"}, "unknown bench 'mmlu'; choose from api-bank, bamboogle, bfcl, bfcl-v3, examples"),
        ({"model": None}, "give either --model or --endpoint or --predictions"),
        ({"predictions": Path("p")}, "give either --model or --endpoint or --predictions"),
        ({"data": None}, "--data FILE is what --bench examples evaluates on"),
        ({"bench": "bfcl"}, "--data FILE belongs to --bench api-bank and bamboogle and examples; leave it out"),
        ({"categories": ("parallel",)}, "--category belongs to --bench bfcl and bfcl-v3; leave it out"),
        ({"bfcl_wheel": Path("w")}, "--bfcl-wheel belongs to --bench bfcl and bfcl-v3; leave it out"),
        ({"own_prompt": True}, "--own-prompt belongs to --bench api-bank; leave it out"),
        ({"bench": "api-bank", "reward": "coarse"}, "--reward belongs to --bench examples; leave it out"),
        ({"bench": "bamboogle"}, "the search tool needs a corpus; give --search bm25:CORPUS.jsonl, or another of"),
        ({"bench": "bamboogle", "search": "google"}, "--search 'google' is no engine; choose from bm25:CORPUS.jsonl"),
        ({"bench": "bamboogle", "search": "recorded"}, "--search 'recorded' is no engine"),
        ({"bench": "bamboogle", "search": "serper:key"}, "serper takes no file; write --search serper"),
        (
            {"bench": "bamboogle", "search": "none", "judge": "gpt"},
            "--judge 'gpt' is no judge; write exact, or endpoint",
        ),
        ({"bench": "bamboogle", "search": "none", "record": Path("r")}, "--search none asks none; leave one out"),
        ({"bench": "bfcl", "data": None, "categories": ("memory_kv",)}, "category 'memory_kv' is not supported"),
    ],
)
def test_contradicting_options_are_refused(options: Json, message: str) -> None:
    known: Json = {"bench": "examples", "output": Path("o"), "data": Path("d"), "model": "m"}
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**(known | options))


def entries_of(**sizes: int) -> list[Entry]:
    return [Entry(f"{name}{i}", name, (), ()) for name, size in sizes.items() for i in range(size)]


def test_a_sample_keeps_the_shares_and_every_category() -> None:
    entries = entries_of(a=800, b=190, c=10)
    chosen = sample(entries, 100, seed=0)
    assert Counter(entry.category for entry in chosen) == {"a": 80, "b": 19, "c": 1}
    assert chosen == sorted(chosen, key=entries.index)
    assert Counter(entry.category for entry in sample(entries, 3, seed=0)) == {"a": 1, "b": 1, "c": 1}


def test_a_sample_follows_its_seed_and_nests() -> None:
    entries = entries_of(a=50, b=50)
    assert sample(entries, 20, seed=1) == sample(entries, 20, seed=1) != sample(entries, 20, seed=2)
    assert {e.id for e in sample(entries, 20, seed=1)} < {e.id for e in sample(entries, 40, seed=1)}
    assert sample(entries, None, seed=1) == sample(entries, 1000, seed=1) == entries


def test_ids_choose_entries_before_the_limit(tmp_path: Path) -> None:
    config = configure(tmp_path, [example(id) for id in "abcd"], [{"id": id, "completion": RIGHT} for id in "abcd"])
    evaluate(replace(config, ids=("d", "b")))
    assert [row["id"] for row in read_rows(config.output / "results.jsonl")] == ["b", "d"]
    assert evaluate(replace(config, ids=("d", "b"), limit=1, overwrite=True)).n == 1
    with pytest.raises(ConfigError, match="no entry has the id 'abd'; did you mean 'abc'"):
        pick([*entries_of(ab=1), Entry("abc", "c", (), ())], ["abd"])


def test_ids_come_from_a_file_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("a\n\n b_1 \na\n", "utf-8")
    assert read_ids([str(path)]) == ("a", "b_1")
    assert read_ids(["a, b_1,a"]) == ("a", "b_1")
    assert read_ids(["a"]) == ("a",)
    with pytest.raises(ConfigError, match="--ids , ,: no ids; give ids with commas between"):
        read_ids([", ,"])


def test_tables_show_the_numbers(tmp_path: Path) -> None:
    config = configure(tmp_path, [example("a")], [{"id": "a", "completion": RIGHT}])
    categories, metrics = summary_tables(evaluate(config))
    assert categories.rows == [["set", "1", "100.0 (20.7-100.0)", "0", "0", "0"]]
    assert metrics.rows == [
        ["exact_rate", "100.00%", "20.65% .. 100.00%", "1", "wilson"],
        ["total", "4.0000", "4.0000 .. 4.0000", "1", "bootstrap"],
        ["format", "1.0000", "1.0000 .. 1.0000", "1", "bootstrap"],
        ["correctness", "3.0000", "3.0000 .. 3.0000", "1", "bootstrap"],
    ]


def test_an_interrupt_ends_with_130_and_keeps_results(tmp_path: Path) -> None:
    config = configure(tmp_path, FIVE, [{"id": id, "completion": text} for id, text in TEXTS.items()])
    script = f"""
import os, signal, sys
from toolrl_cli.cli import app
from toolrl_cli.jsonl import RecordLog
append = RecordLog.append
def interrupt(log, record):
    append(log, record)
    os.kill(os.getpid(), signal.SIGINT)
RecordLog.append = interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
app(["eval", "--bench", "examples", "--data", {str(config.data)!r}, "--predictions", {str(config.predictions)!r},
     "-o", {str(config.output)!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; finished work is kept\n"
    assert [row["id"] for row in read_rows(config.output / "results.jsonl")] == ["a"]


def test_the_library_needs_no_torch() -> None:
    script = "import sys, toolrl_cli.evaluation; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'typer')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    config = configure(tmp_path, [example("a")], [{"id": "a", "completion": RIGHT}])
    asked = ["eval", "--bench", "examples", "--data", config.data, "--predictions", config.predictions]
    plain = run_cli(*asked, "-o", tmp_path / "one")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "exact_rate" in plain.stdout
    as_json = run_cli(*asked, "-o", tmp_path / "two", "--json")
    assert json.loads(as_json.stdout) == json.loads((tmp_path / "two" / "summary.json").read_text("utf-8"))


def test_the_command_plans_without_writing(tmp_path: Path) -> None:
    config = configure(tmp_path, [example("a")], [{"id": "a", "completion": RIGHT}])
    asked = ["eval", "--bench", "examples", "--data", config.data, "--predictions", config.predictions]
    planned = run_cli(*asked, "-o", tmp_path / "one", "--dry-run", "--json")
    assert json.loads(planned.stdout)["config"]["predictions"] == str(config.predictions)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bench", "examples", "--model", "m"], 2, "toolrl: --data FILE is what --bench examples evaluates on"),
        (["--bench", "bfcl"], 2, "toolrl: completions need one source"),
        (["--bench", "bfcl", "--model", "m", "--category", "web_search_base"], 2, "toolrl: category 'web_search_base'"),
        (["--bench", "other", "--model", "m"], 2, "toolrl: unknown bench 'other'; choose from"),
        (["--bench", "examples", "--model", "m", "--data", "missing.jsonl"], 1, "toolrl: missing.jsonl: No such file"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    done = run_cli("eval", *arguments, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
