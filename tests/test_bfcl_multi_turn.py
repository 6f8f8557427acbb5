"""BFCL's dialogues with the official packages, for real: the gold, bad rollouts, hostile calls, both editions' sums."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bfcl_gold import gold_dialogues, gold_rows

from toolrl_cli.benches.base import Answer, Entry, Turn, Verdict
from toolrl_cli.benches.bfcl import process
from toolrl_cli.benches.bfcl.bench import BfclBench, find_mpmath, find_package, open_bfcl
from toolrl_cli.benches.bfcl.calls import find_danger
from toolrl_cli.benches.bfcl.editions import EDITIONS, V3, V4, Edition
from toolrl_cli.benches.bfcl.process import Checker
from toolrl_cli.evaluation import EvalConfig, evaluate
from toolrl_cli.formats import find_format
from toolrl_cli.inference.base import Prompt
from toolrl_cli.inference.predictions import RecordedEngine, read_predictions
from toolrl_cli.records import Completion, Json, Outcome, ToolCall

pytestmark = pytest.mark.slow

CATEGORIES = tuple(V4.multi_turn)
END = Answer(Completion(""))


class Rollouts:
    """An edition's dialogues, and their gold as answers."""

    def __init__(self, bench: BfclBench, edition: Edition) -> None:
        package = find_package(None, edition.wheel)
        self.bench = bench
        self.entries = {entry.id: entry for entry in bench.entries()}
        self.gold = {row["id"]: row["turns"] for name in edition.multi_turn for row in gold_dialogues(package, name)}

    def answers(self, id: str) -> list[Answer]:
        """The gold, each turn's calls in one step."""
        return to_answers(self.gold[id])

    def play(self, id: str, answers: Sequence[Answer]) -> tuple[Verdict, list[Turn]]:
        """Go through a dialogue as an evaluation does."""
        entry, given, turns = self.entries[id], list[Answer](), list[Turn]()
        for answer in answers:
            given.append(answer)
            turn = self.bench.follow(entry, given)
            if turn is None:
                break
            turns.append(turn)
        return self.bench.grade(entry, given), turns


def to_answers(turns: list[list[Json]]) -> list[Answer]:
    """Turns of predictions as answers, each turn ended by one without calls."""
    answers = []
    for turn in turns:
        answers += [step(*map(ToolCall.from_json, given["tool_calls"])) for given in turn] + [END]
    return answers


def step(*calls: ToolCall) -> Answer:
    return Answer(Completion("text"), calls)


@pytest.fixture(scope="module")
def rollouts() -> Iterator[Rollouts]:
    with open_bfcl(categories=CATEGORIES) as bench:
        yield Rollouts(bench, V4)


@pytest.fixture(scope="module")
def rollouts_v3() -> Iterator[Rollouts]:
    with open_bfcl(categories=CATEGORIES, edition=V3) as bench:
        yield Rollouts(bench, V3)


@pytest.mark.parametrize("fixture", ["rollouts", "rollouts_v3"])
def test_gold_passes_right_after_a_bad_rollout(fixture: str, request: pytest.FixtureRequest) -> None:
    rollouts: Rollouts = request.getfixturevalue(fixture)
    spoilt = failed = 0
    for id, entry in rollouts.entries.items():
        spoilt += not rollouts.bench.grade(entry, spoil(entry, rollouts.answers(id))).correct
        failed += not rollouts.bench.grade(entry, rollouts.answers(id)).correct
    assert (len(rollouts.entries), failed) == (800, 0)
    assert spoilt > 700, "the rest only asks and changes nothing"


def spoil(entry: Entry, answers: list[Answer]) -> list[Answer]:
    """Each turn's calls backwards and twice, then every tool with nonsense for arguments."""
    chance = random.Random(entry.id)
    nonsense = []
    for tool in entry.tools:
        values = {name: chance.choice(["x", "workspace", -1, 7.5, True, ["x"]]) for name in properties(tool)}
        nonsense.append(ToolCall(tool["function"]["name"], values))
    return [step(*(answer.calls[::-1] * 2), *nonsense) if answer.calls else answer for answer in answers]


def properties(tool: Json) -> list[str]:
    return list(tool["function"]["parameters"]["properties"])


def test_the_simulator_answers_and_the_next_turn_comes(rollouts: Rollouts) -> None:
    id = "multi_turn_base_0"
    verdict, turns = rollouts.play(id, rollouts.answers(id))
    assert verdict == Verdict(True, Outcome.EXACT)
    results, question = turns[0].messages, turns[1].messages
    assert [(message["role"], message["name"]) for message in results] == [
        ("tool", "cd"), ("tool", "mkdir"), ("tool", "mv")
    ]  # fmt: skip
    assert json.loads(results[0]["content"]) == {"current_working_directory": "document"}
    assert question[0]["role"] == "user" and question[0]["content"].startswith("Perform a detailed search")
    assert {turn.tools for turn in turns} == {None}


def test_no_dialogue_leaves_a_trace_in_another(rollouts: Rollouts) -> None:
    login = ToolCall("authenticate_twitter", {"username": "analyst_pro", "password": "Kj8#mP9$vL2"})
    tweet = ToolCall("post_tweet", {"content": "Hello"})
    mention = ToolCall("mention", {"tweet_id": 3, "mentioned_usernames": ["@you"]})
    for id in ("multi_turn_base_0", "multi_turn_long_context_0"):
        _, turns = rollouts.play(id, [step(login, tweet, mention, tweet), END])
        _, first, _, second = (json.loads(message["content"]) for message in turns[0].messages)
        assert first["mentions"] == []
        assert second["mentions"] == ["@you"], "officially, both tweets have the one list that is the default"


def test_a_held_out_function_comes_with_its_turn(rollouts: Rollouts) -> None:
    id = "multi_turn_miss_func_0"
    verdict, turns = rollouts.play(id, rollouts.answers(id))
    assert verdict.correct
    names = [tool["function"]["name"] for tool in rollouts.entries[id].tools]
    assert "sort" not in names
    (brought,) = [turn for turn in turns if turn.tools is not None]
    assert [tool["function"]["name"] for tool in brought.tools or ()] == [*names, "sort"]
    assert brought.messages == (
        {"role": "user", "content": "I have updated some more functions you can choose from. What about now?"},
    )


def test_a_step_that_ends_its_turn_early_is_wrong(rollouts: Rollouts) -> None:
    id = "multi_turn_base_0"
    silent, _ = rollouts.play(id, [END] * 10)
    assert (silent.outcome, silent.error_type) == (Outcome.NO_CALL, "multi_turn:empty_turn_model_response")
    other, _ = rollouts.play(id, [step(ToolCall("ls", {})), *rollouts.answers(id)[1:]])
    assert (other.outcome, other.error_type) == (Outcome.WRONG, "multi_turn:instance_state_mismatch")


def test_a_step_that_cannot_be_read_ends_its_turn_and_is_a_parse_failure(rollouts: Rollouts) -> None:
    broken = Answer(Completion("<tool_call>"), error="call is not JSON")
    wrong, _ = rollouts.play("multi_turn_base_0", [broken, *rollouts.answers("multi_turn_base_0")[2:]])
    assert (wrong.correct, wrong.outcome, wrong.error_type) == (False, Outcome.MALFORMED, "parse")
    assert wrong.error is not None and wrong.error.startswith("call is not JSON; Model response list is empty")
    gold = rollouts.answers("multi_turn_base_0")
    right, _ = rollouts.play("multi_turn_base_0", [gold[0], broken, *gold[2:]])
    assert right == Verdict(True, Outcome.EXACT, "parse", "call is not JSON")


def test_a_turn_of_over_twenty_steps_ends_the_dialogue(rollouts: Rollouts) -> None:
    id = "multi_turn_base_0"
    look, gold = step(ToolCall("pwd", {})), rollouts.answers(id)
    allowed, _ = rollouts.play(id, [*[look] * 19, *gold])
    assert allowed.correct
    forced, turns = rollouts.play(id, [*[look] * 20, *gold])
    assert len(turns) == 20
    ended = "turn 1 of 4 took more than 20 steps"
    assert forced == Verdict(False, Outcome.WRONG, "multi_turn:force_terminated", ended)
    last, turns = rollouts.play(id, [*gold[:-2], *[look] * 20, *gold[-2:]])
    assert last.correct, "the official checker judges a last turn that went over the limit"
    assert len(turns) == len(gold) - 2 + 20


HOSTILE = [
    ToolCall("__import__('os').system", {"command": "touch {marker}"}),
    ToolCall("open", {"file": "{marker}", "mode": "w"}),
    ToolCall("eval", {"source": "open('{marker}', 'w')"}),
    ToolCall("ｏｐｅｎ", {"file": "{marker}", "mode": "w"}),
    ToolCall("open('{marker}', 'w').write", {}),
    ToolCall("ls.__globals__.get", {}),
    ToolCall("__builtins__", {}),
    ToolCall("ls(a=open('{marker}', 'w')) or ls", {}),
    ToolCall("ls", {"a=open('{marker}', 'w'), b": 1}),
    ToolCall("ls", {"**{'a': open('{marker}', 'w')}, b": 1}),
    ToolCall("ls", {"a b": 1}),
    ToolCall("ls", {"__class__": 1}),
    ToolCall("", {}),
]


def aim(call: ToolCall, marker: Path) -> ToolCall:
    return ToolCall.from_json(json.loads(json.dumps(call.to_json()).replace("{marker}", str(marker))))


@pytest.mark.parametrize("call", HOSTILE, ids=lambda call: call.name)
def test_a_hostile_call_is_wrong_and_never_run(rollouts: Rollouts, tmp_path: Path, call: ToolCall) -> None:
    id, marker = "multi_turn_base_0", tmp_path / "marker"
    hostile = step(aim(call, marker))
    for answers in ([hostile, *rollouts.answers(id)], [*rollouts.answers(id)[:-1], hostile, END]):
        verdict, _ = rollouts.play(id, answers)
        assert (verdict.correct, verdict.error_type) == (False, "unsafe_call")
    assert rollouts.play(id, rollouts.answers(id))[0].correct
    assert not marker.exists()


@pytest.mark.parametrize("call", HOSTILE, ids=lambda call: call.name)
def test_the_worker_runs_nothing_but_tools_by_itself(rollouts: Rollouts, tmp_path: Path, call: ToolCall) -> None:
    marker = tmp_path / "marker"
    turns = [[[aim(call, marker).to_json(), ToolCall("pwd", {}).to_json()]]]
    reply = rollouts.bench._checker.ask("play", category="multi_turn_base", id="multi_turn_base_0", turns=turns)
    error, pwd = reply["results"]
    assert error.startswith("Error during execution: ") and json.loads(pwd)
    assert not marker.exists()


@pytest.mark.parametrize("fixture", ["rollouts", "rollouts_v3"])
def test_no_official_tool_is_a_danger(fixture: str, request: pytest.FixtureRequest) -> None:
    rollouts: Rollouts = request.getfixturevalue(fixture)
    brought = [tools for entry in rollouts.entries.values() for tools in (entry.tools, *entry.payload.added.values())]
    calls = {
        tool["function"]["name"]: ToolCall(tool["function"]["name"], dict.fromkeys(properties(tool)))
        for tools in brought
        for tool in tools
    }
    assert len(calls) > 120
    assert {find_danger(call) for call in calls.values()} == {None}


def test_a_tool_that_does_not_exist_is_answered_as_officially(rollouts: Rollouts) -> None:
    id = "multi_turn_base_0"
    verdict, turns = rollouts.play(id, [step(ToolCall("tidy_up", {"folder": "x"}), ToolCall("cat", {})), END])
    assert not verdict.correct
    unknown, missing = (message["content"] for message in turns[0].messages)
    assert unknown == "Error during execution: name 'tidy_up' is not defined"
    assert "missing 1 required positional argument" in missing


def test_attacks_in_values_stay_texts(rollouts: Rollouts, tmp_path: Path) -> None:
    attack = f"') or open('{tmp_path / 'marker'}', 'w') or('"  # officially, "or (" would lose its space
    _, turns = rollouts.play("multi_turn_base_0", [step(ToolCall("echo", {"content": attack})), END])
    assert json.loads(turns[0].messages[0]["content"]) == {"terminal_output": attack}
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hurried() -> Iterator[BfclBench]:
    packages = find_package(None), find_mpmath(None)
    with Checker(*packages, time_limit=3, memory_limit=1 << 30) as checker:
        yield BfclBench(checker, CATEGORIES)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall("power", {"base": 7, "exponent": 10**9}), "the checker stopped or took over 3 s"),
        (ToolCall("square_root", {"number": 2, "precision": 10**15}), "Exhausted: the call needs too much memory"),
        (
            ToolCall("add", {"a": "a" * 600_000, "b": "b" * 600_000}),
            "Exhausted: the call answers with 1200014 characters",
        ),
    ],
    ids=["endless", "huge", "long"],
)
def test_a_call_without_end_costs_its_entry_only(
    hurried: BfclBench, rollouts: Rollouts, call: ToolCall, error: str
) -> None:
    entry = next(entry for entry in rollouts.entries.values() if "power" in json.dumps(entry.tools))
    answers = [step(call)]
    assert hurried.follow(entry, answers) is None
    assert hurried.grade(entry, answers) == Verdict(False, Outcome.WRONG, "checker", error)
    assert hurried.grade(entry, rollouts.answers(entry.id)).correct


class WatchedEngine(RecordedEngine):
    """Recorded answers, and the prompts that asked for them."""

    def __init__(self, completions: dict[tuple[str, int], list[Completion]]) -> None:
        super().__init__(completions)
        self.prompts: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        self.prompts += prompts
        return super().generate(prompts)


def test_the_model_sees_what_came_before(tmp_path: Path) -> None:
    line = '<think> t </think>\n<tool_call>\n{"name": "cd", "parameters": {"folder": "document"}}\n</tool_call>'
    engine = WatchedEngine(
        {("multi_turn_base_0", 0): [Completion(line), Completion("<think> t </think>\n<response> ok </response>")]}
    )
    config = EvalConfig(bench="bfcl", output=tmp_path / "out", model="m", ids=("multi_turn_base_0",))
    summary = evaluate(config, engine=engine)
    assert [len(prompt.messages) for prompt in engine.prompts] == [2, 2, 2]
    first, second, third = (prompt.messages[1]["content"] for prompt in engine.prompts)
    assert second == f'{first}\n\n{line}\n<obs> {{"current_working_directory": "document"}} </obs>'
    assert third.startswith(f"{second}\n\n<think> t </think>\n<response> ok </response>\n\n<user> Perform a detailed")
    assert summary.categories["multi_turn_base"].no_prediction == 1


class InterruptedEngine(RecordedEngine):
    """Recorded answers until Ctrl-C."""

    def __init__(self, completions: dict[tuple[str, int], list[Completion]], limit: int) -> None:
        super().__init__(completions)
        self.limit = limit

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        for answered in super().generate(prompts):
            self.limit -= 1
            if self.limit < 0:
                raise KeyboardInterrupt
            yield answered


def test_an_interrupted_run_resumes_to_the_same_summary(tmp_path: Path, rollouts: Rollouts) -> None:
    ids = tuple(f"multi_turn_base_{i}" for i in range(6))
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": id, "turns": rollouts.gold[id]}) + "\n" for id in ids), "utf-8")
    completions = read_predictions(path, find_format("toolrl"))
    whole = EvalConfig(bench="bfcl", output=tmp_path / "whole", model="m", ids=ids)
    broken = replace(whole, output=tmp_path / "broken")
    expected = evaluate(whole, engine=RecordedEngine(completions))
    with pytest.raises(KeyboardInterrupt):
        evaluate(broken, engine=InterruptedEngine(completions, 40))
    finished = (tmp_path / "broken" / "results.jsonl").read_text("utf-8").count("\n")
    assert 0 < finished < 6
    assert evaluate(replace(broken, resume=True), engine=RecordedEngine(completions)) == expected
    assert expected.metrics["accuracy"].value == 1.0


def test_recorded_dialogues_are_graded_on_the_command_line(tmp_path: Path, rollouts: Rollouts) -> None:
    ids = ["multi_turn_base_0", "multi_turn_base_1", "multi_turn_miss_func_0", "multi_turn_miss_param_3"]
    rows: list[Json] = [{"id": id, "turns": rollouts.gold[id]} for id in ids]
    rows[1]["turns"] = rows[1]["turns"][:1]
    predictions, chosen = tmp_path / "p.jsonl", tmp_path / "ids.txt"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    chosen.write_text("\n".join([*ids, "multi_turn_long_context_0"]), "utf-8")
    words = ["eval", "--bench", "bfcl", "--predictions", predictions, "--ids", chosen, "-o", tmp_path / "out", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "toolrl_cli", *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {name: (tally["n"], tally["correct"]) for name, tally in summary["categories"].items()} == {
        "multi_turn_base": (2, 1),
        "multi_turn_miss_func": (1, 1),
        "multi_turn_miss_param": (1, 1),
        "multi_turn_long_context": (1, 0),
    }
    results = {row["id"]: row for row in map(json.loads, (tmp_path / "out" / "results.jsonl").open(encoding="utf-8"))}
    assert results["multi_turn_base_1"]["error_type"] == "missing"
    assert len(results["multi_turn_base_0"]["steps"]) == len(rollouts.answers("multi_turn_base_0"))


def test_the_gold_of_v3_passes_but_for_six(tmp_path: Path) -> None:
    package = find_package(None, V3.wheel)
    with open_bfcl(edition=V3) as bench:
        entries = bench.entries()
    assert Counter(entry.category for entry in entries) == V3.counts
    (java,) = [entry for entry in entries if entry.id == "java_6"]
    assert java.tools[0]["function"]["description"].endswith("Note that the provided function is in Java 8 SDK syntax.")
    first = {e.id: e.tools[0]["function"]["name"] if e.tools else "" for e in entries if e.category in V3.relevance}
    predictions = tmp_path / "p.jsonl"
    rows = gold_rows(package, V3, first)
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    summary = evaluate(EvalConfig(bench="bfcl-v3", output=tmp_path / "out", predictions=predictions))
    wrong = {"java": 2, "live_simple": 2, "live_multiple": 2}
    assert {name: (tally.n, tally.correct) for name, tally in summary.categories.items()} == {
        name: (n, n - wrong.get(name, 0)) for name, n in V3.counts.items()
    }
    assert summary.official is not None
    assert round(100 * summary.official["overall"], 2) == 99.90
    assert summary.notes == (f"ceiling: {V3.ceiling}",)


def ask_officials(job: str, given: object, edition: Edition, folder: Path) -> Any:
    """What the official package itself makes of it."""
    packages = find_package(None, edition.wheel), find_mpmath(None)
    words = [sys.executable, str(Path(__file__).with_name("bfcl_official.py")), job, process.ROOT, *packages]
    environment = {"BFCL_PROJECT_ROOT": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        list(map(str, words)), input=json.dumps(given), cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("fixture", ["rollouts", "rollouts_v3"])
def test_dialogues_go_as_in_the_official_runner(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    rollouts: Rollouts = request.getfixturevalue(fixture)
    edition = {"rollouts": V4, "rollouts_v3": V3}[fixture]
    chosen = random.Random(0).sample(sorted(rollouts.entries), 12)
    asked = []
    for id in chosen:
        entry, gold = rollouts.entries[id], rollouts.answers(id)
        asked += [(entry, gold), (entry, spoil(entry, gold)), (entry, wander(entry, gold))]
    rows = [{"id": entry.id, "category": entry.category, "answers": calls_of(answers)} for entry, answers in asked]
    theirs = ask_officials("dialogues", rows, edition, tmp_path)
    for (entry, answers), official in zip(asked, theirs, strict=True):
        verdict, turns = rollouts.play(entry.id, answers)
        messages = [*entry.messages, *(message for turn in turns for message in turn.messages)]
        tools = [entry.tools, *(turn.tools for turn in turns if turn.tools is not None)]
        # The official runner also runs the step beyond the limit, whose results nobody sees.
        assert messages == official["messages"][: len(messages)]
        assert [[tool["function"]["name"] for tool in given] for given in tools] == official["tools"]
        assert verdict.correct == official["correct"]


def wander(entry: Entry, answers: list[Answer]) -> list[Answer]:
    """One call a step; some steps come again and again, and some calls are of no tool or no Python."""
    chance = random.Random(entry.id)
    steps: list[Answer] = []
    for answer in answers:
        steps += [step(call) for call in answer.calls] or [answer]
        if answer.calls and chance.random() < 0.2:
            steps += [steps[-1]] * chance.randint(1, 22)
        if chance.random() < 0.2:
            steps.append(step(ToolCall("no_such_tool", {"x": 1}), ToolCall("ls", {"from": "x"})))
    return steps


def calls_of(answers: list[Answer]) -> list[list[Json]]:
    return [[call.to_json() for call in answer.calls] for answer in answers]


def first_number(row: Json) -> float:
    """The overall accuracy of a table, whose column has another name in each edition."""
    return next(value for value in row.values() if isinstance(value, (int, float)))


@pytest.mark.parametrize("name", EDITIONS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_sums_are_the_official_ones(name: str, share: float, tmp_path: Path) -> None:
    edition, chance = EDITIONS[name], random.Random(name)
    chosen = [category for category in edition.counts if chance.random() <= share]
    accuracy = {category: chance.random() for category in chosen}
    scores = {name: (share, edition.counts[name]) for name, share in accuracy.items()}
    ours, theirs = edition.aggregate(accuracy), ask_officials("sums", scores, edition, tmp_path)
    assert ours["overall"] == pytest.approx(theirs["data_overall"]["Overall Acc"], abs=1e-9)
    groups = {group: first_number(theirs[f"data_{group}"]) for group in ("non_live", "live", "multi_turn")}
    if edition is V4:
        groups |= {"irrelevance": theirs["data_overall"]["Irrelevance Detection"], "agentic": 0.0}
    assert ours["groups"] == pytest.approx(groups, abs=1e-9)
