"""BFCL without its wheel: a stand-in package has the shape of the official modules, and worse manners."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolrl_cli.benches.base import Answer, Entry, Findings, Result, Verdict
from toolrl_cli.benches.bfcl.bench import BfclBench, find_mpmath, find_package, judge_relevance, number_repeats
from toolrl_cli.benches.bfcl.calls import find_danger
from toolrl_cli.benches.bfcl.editions import EDITIONS, V3, V4
from toolrl_cli.benches.bfcl.multi_turn import divide
from toolrl_cli.benches.bfcl.process import Checker
from toolrl_cli.benches.bfcl.tools import to_tool
from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.records import Completion, Json, Outcome, ToolCall

UTILS = """
import os, sys
from filelock import FileLock
print("noise on stdout while importing")
def load_dataset_entry(category, include_language_specific_hint):
    if category == "multiple":
        raise FileNotFoundError("no such category file")
    hint = " Hint." if include_language_specific_hint else ""
    names = sorted(set(os.environ) - {"LC_CTYPE"})
    seen = [names, os.getcwd() == os.path.realpath(os.environ["BFCL_PROJECT_ROOT"]), sys.flags.isolated]
    function = {"name": "a.f", "description": str(seen) + hint, "parameters": {"type": "dict", "properties": {}}}
    return [{"id": category + "_0", "question": [[{"role": "user", "content": "?"}]], "function": [function]}]
def load_file(path):
    category = path.name.removeprefix("BFCL_t_").removesuffix(".json")
    return [{"id": category + "_0", "ground_truth": [{"a.f": {"x": [1]}}]}]
def is_function_calling_format_output(calls):
    return all(len(call) == 1 for call in calls)
"""
AST_CHECKER = """
import os
from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING
def ast_checker(functions, calls, truth, language, category, model):
    assert "Hint" not in functions[0]["description"] and not MODEL_CONFIG_MAPPING[model].underscore_to_dot
    print("noise on stdout while checking")
    action = calls[0].get("a.f", {}).get("action") if calls else None
    if action == "hang":
        while True: pass
    if action == "exit": os._exit(1)
    if action == "raise": raise KeyError("broken checker")
    valid = calls == [{"a.f": {"x": 1}}]
    return {"valid": valid, "error": [] if valid else [language.value, category], "error_type": "simple:wrong"}
"""
ENUMS = """
from enum import Enum
class Language(str, Enum):
    PYTHON, JAVA, JAVASCRIPT = "python", "java", "javascript"
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    sources = {
        "utils.py": UTILS,
        "constants/enums.py": ENUMS,
        "constants/eval_config.py": "from pathlib import Path\nPOSSIBLE_ANSWER_PATH = Path('answers')\n",
        "constants/category_mapping.py": "VERSION_PREFIX = 'BFCL_t'\n",
        "constants/model_config.py": "raise ImportError('this module loads every vendor')\n",
        "eval_checker/ast_eval/ast_checker.py": AST_CHECKER,
    }
    for name, source in sources.items():
        path = tmp_path / "wheel" / "bfcl_eval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return tmp_path / "wheel"


@pytest.fixture
def checker(package: Path) -> Iterator[Checker]:
    with Checker(package, time_limit=2) as opened:
        yield opened


def answer(*calls: ToolCall) -> Answer:
    return Answer(Completion("text"), calls)


def entry(category: str = "simple_python") -> Entry:
    return Entry(f"{category}_0", category, (), ())


def test_entries_come_hinted_from_an_isolated_process(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    (loaded,) = BfclBench(checker, ["simple_python"]).entries()
    assert (loaded.id, loaded.category) == ("simple_python_0", "simple_python")
    assert loaded.messages == ({"role": "user", "content": "?"},)
    function = loaded.tools[0]["function"]
    assert function == {
        "name": "a.f",
        "description": "[['BFCL_PROJECT_ROOT'], True, 1] Hint.",
        "parameters": {"type": "object", "properties": {}},
    }


def test_the_working_folder_is_removed(package: Path) -> None:
    with Checker(package) as opened:
        opened.ask("load", category="simple_python")
        folder = Path(opened._folder.name)
        assert folder.is_dir()
    assert not folder.exists()


def test_verdicts_are_the_checkers(checker: Checker) -> None:
    bench = BfclBench(checker)
    assert bench.grade(entry(), [answer(ToolCall("a.f", {"x": 1}))]) == Verdict(True, Outcome.EXACT)
    wrong = Verdict(False, Outcome.WRONG, "simple:wrong", "python; simple_python")
    assert bench.grade(entry(), [answer(ToolCall("a.f", {"x": 2}))]) == wrong
    assert bench.grade(entry(), [answer()]) == Verdict(False, Outcome.NO_CALL, *vars_of(wrong))
    cut = Answer(Completion("text", truncated=True))
    assert bench.grade(entry(), [cut]).outcome is Outcome.TRUNCATED
    java = bench.grade(entry("simple_java"), [answer(ToolCall("a.f", {"x": 2}))])
    assert java.error == "java; simple_java"
    assert bench.grade(entry("simple_javascript"), [answer()]).error == "javascript; simple_javascript"


def vars_of(verdict: Verdict) -> tuple[str | None, str | None]:
    return verdict.error_type, verdict.error


def test_calls_that_cannot_be_read_are_malformed(checker: Checker) -> None:
    broken = Answer(Completion("text"), error="call is not JSON")
    expected = Verdict(False, Outcome.MALFORMED, "parse", "call is not JSON")
    assert BfclBench(checker).grade(entry(), [broken]) == expected


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("hang", "the checker stopped or took over 2 s"),
        ("exit", "the checker stopped or took over 2 s"),
        ("raise", "KeyError: 'broken checker'"),
    ],
)
def test_a_failing_checker_costs_its_entry_only(checker: Checker, action: str, error: str) -> None:
    bench = BfclBench(checker)
    failed = bench.grade(entry(), [answer(ToolCall("a.f", {"action": action}))])
    assert failed == Verdict(False, Outcome.WRONG, "checker", error)
    assert bench.grade(entry(), [answer(ToolCall("a.f", {"x": 1}))]).correct


def test_entries_that_cannot_be_loaded_are_one_line(checker: Checker) -> None:
    with pytest.raises(SetupError, match="BFCL cannot load multiple: FileNotFoundError: no such category file"):
        BfclBench(checker, ["multiple"]).entries()


def test_hostile_values_reach_the_checker_as_data(checker: Checker, tmp_path: Path) -> None:
    attack = f"__import__('os').system('touch {tmp_path}/pwned')"
    hostile = answer(ToolCall(attack, {attack: [attack, "\ud800\n\x00", float("inf"), 10**400]}))
    verdict = BfclBench(checker).grade(entry(), [hostile])
    assert (verdict.correct, verdict.error_type) == (False, "simple:wrong")
    assert not (tmp_path / "pwned").exists()


ESCAPES = """
import sys
from toolrl_cli.benches.bfcl import guard
guard.lock_down(2 << 30)
import os, socket, subprocess, urllib.request
for attempt in (
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.getaddrinfo("localhost", 80),
    lambda: urllib.request.urlopen("http://127.0.0.1:9"),
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
    lambda: os.fork(),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: open("file", "w"),
    lambda: os.open("file", os.O_CREAT),
    lambda: os.remove("kept"),
    lambda: os.rename("kept", "moved"),
):
    try:
        attempt()
    except PermissionError as error:
        assert str(error).endswith("is forbidden here"), error
    else:
        sys.exit("it ran")
assert open("kept").read() == "kept"
"""


def test_the_workers_process_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    done = subprocess.run([sys.executable, "-c", ESCAPES], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("call", "danger"),
    [
        (ToolCall("cd", {"folder": "__import__('os')"}), None),
        (ToolCall("no_such_tool", {"from": 1}), None),
        (ToolCall("_f", {"_x": {"any key": "()"}}), None),
        (ToolCall("open", {}), "'open' is a function of Python and no tool"),
        (ToolCall("ｏｐｅｎ", {}), "'ｏｐｅｎ' is no plain name of a tool"),
        (ToolCall("math.sqrt", {}), "'math.sqrt' is no plain name of a tool"),
        (ToolCall("__import__", {}), "'__import__' is no plain name of a tool"),
        (ToolCall("f()", {}), "'f()' is no plain name of a tool"),
        (ToolCall("", {}), "'' is no plain name of a tool"),
        (ToolCall("f", {"a": 1, "b c": 1}), "'b c' is no plain name of an argument"),
        (ToolCall("f", {"__class__": 1}), "'__class__' is no plain name of an argument"),
        (ToolCall("f", {"x" * 200 + ")": 1}), f"'{'x' * 80}' is no plain name of an argument"),
    ],
)
def test_only_plain_calls_may_go_to_the_simulator(call: ToolCall, danger: str | None) -> None:
    assert find_danger(call) == danger


def test_an_answer_without_calls_ends_a_turn() -> None:
    look, move = answer(ToolCall("ls", {})), answer(ToolCall("cd", {}), ToolCall("ls", {}))
    assert divide([look]) == [[look.calls]]
    assert divide([look, move, SILENT]) == [[look.calls, move.calls]]
    assert divide([SILENT, BABBLE, move]) == [[], [], [move.calls]]


CALLED = answer(ToolCall("f", {}))
SILENT = answer()
BABBLE = Answer(Completion("text"), error="call is not JSON")
CUT = Answer(Completion("text", truncated=True))
UNCALLED = ("relevance_error:decoder_failed", "no call, where one is wanted")
SPURIOUS = ("irrelevance_error:decoder_success", "f is called, where no call is wanted")


@pytest.mark.parametrize(
    ("given", "call_wanted", "expected"),
    [
        (CALLED, True, Verdict(True, Outcome.EXACT)),
        (SILENT, True, Verdict(False, Outcome.NO_CALL, *UNCALLED)),
        (BABBLE, True, Verdict(False, Outcome.MALFORMED, "parse", "call is not JSON")),
        (CUT, True, Verdict(False, Outcome.TRUNCATED, *UNCALLED)),
        (CALLED, False, Verdict(False, Outcome.SPURIOUS_CALL, *SPURIOUS)),
        (SILENT, False, Verdict(True, Outcome.ABSTAINED)),
        (BABBLE, False, Verdict(True, Outcome.MALFORMED, "parse", "call is not JSON")),
        (CUT, False, Verdict(True, Outcome.TRUNCATED)),
    ],
)
def test_relevance_follows_the_official_rule(given: Answer, call_wanted: bool, expected: Verdict) -> None:
    assert judge_relevance(given, call_wanted=call_wanted) == expected


def test_function_documents_become_openai_tools() -> None:
    document = {
        "name": "math.hypot",
        "description": "Length.",
        "parameters": {
            "type": "dict",
            "required": ["point"],
            "properties": {
                "point": {"type": "tuple", "items": {"type": "float"}, "description": "x, y"},
                "type": {"type": "any", "default": None},
                "table": {"type": "HashMap", "properties": {"id": {"type": "long"}, "ok": {"type": "Boolean"}}},
                "odd": {"type": ""},
                "kind": {"type": "string", "enum": ["dict", "float"]},
            },
        },
    }
    before = json.dumps(document)
    assert to_tool(document) == {
        "type": "function",
        "function": {
            "name": "math.hypot",
            "description": "Length.",
            "parameters": {
                "type": "object",
                "required": ["point"],
                "properties": {
                    "point": {"type": "array", "items": {"type": "number"}, "description": "x, y"},
                    "type": {"default": None},
                    "table": {"type": "object", "properties": {"id": {"type": "integer"}, "ok": {"type": "boolean"}}},
                    "odd": {},
                    "kind": {"type": "string", "enum": ["dict", "float"]},
                },
            },
        },
    }
    assert json.dumps(document) == before


def test_categories_keep_the_leaderboards_order() -> None:
    assert V4.choose_categories(["live_simple", "parallel", "parallel"]) == ("parallel", "live_simple")
    assert V4.choose_categories([]) == tuple(V4.counts)
    assert V3.choose_categories(["javascript", "simple"]) == ("simple", "javascript")
    with pytest.raises(ConfigError, match=r"'memory_kv' is not supported; choose from simple_python, .*"):
        V4.choose_categories(["memory_kv"])
    with pytest.raises(ConfigError, match=r"'simple_python' is not supported; choose from simple, java, .*"):
        V3.choose_categories(["simple_python"])


def test_the_editions_have_the_official_sizes() -> None:
    sizes = {name: (sum(e.ast.values()), sum(e.relevance.values()), len(e.counts)) for name, e in EDITIONS.items()}
    assert sizes == {"bfcl": (2501, 1140, 17), "bfcl-v3": (2501, 1140, 17)}
    assert sum(V4.multi_turn.values()) == sum(V3.multi_turn.values()) == 800


def test_a_perfect_model_without_agents_scores_sixty() -> None:
    groups = {"non_live": 1.0, "live": 1.0, "irrelevance": 1.0, "multi_turn": 1.0}
    assert V4.aggregate(dict.fromkeys(V4.counts, 1.0)) == {
        "overall": pytest.approx(0.6),
        "groups": {**groups, "agentic": 0.0},
        "overall_of_what_ran": 1.0,
        "groups_of_what_ran": {**groups, "agentic": None},
    }


def test_a_perfect_model_scores_hundred_on_v3() -> None:
    groups = {"non_live": 1.0, "live": 1.0, "multi_turn": 1.0}
    official = V3.aggregate(dict.fromkeys(V3.counts, 1.0))
    assert official == {
        "overall": 1.0, "groups": groups, "overall_of_what_ran": 1.0, "groups_of_what_ran": groups
    }  # fmt: skip


def test_the_aggregation_weighs_as_the_leaderboard_does() -> None:
    accuracy = {
        "simple_python": 0.9, "simple_java": 0.6, "simple_javascript": 0.3, "multiple": 0.8, "parallel": 0.4,
        "live_simple": 0.5, "live_multiple": 0.25, "irrelevance": 0.7, "live_relevance": 1.0,
        "multi_turn_base": 0.2, "multi_turn_miss_func": 0.1,
    }  # fmt: skip
    official = V4.aggregate(accuracy)
    live = (0.5 * 258 + 0.25 * 1053) / 1351
    assert official["groups"] == pytest.approx(
        {"non_live": (0.6 + 0.8 + 0.4) / 4, "live": live, "irrelevance": 0.35, "multi_turn": 0.075, "agentic": 0.0}
    )
    assert official["overall"] == pytest.approx((0.45 + live + 0.35 + 3 * 0.075) / 10)
    ran = official["groups_of_what_ran"]
    assert (ran["multi_turn"], ran["agentic"]) == (pytest.approx(0.15), None)
    assert ran["non_live"] == pytest.approx(0.6)
    assert ran["live"] == pytest.approx((0.5 * 258 + 0.25 * 1053) / 1311)
    assert official["overall_of_what_ran"] == pytest.approx((0.6 + ran["live"] + 0.7 + 3 * 0.15) / 6)


def result(category: str, *, correct: bool, error_type: str | None = None) -> Result:
    return Result("id", category, correct, None, error_type, None, False, "hash", None, [])


def test_the_summary_says_that_it_is_partial(checker: Checker) -> None:
    results = [result("parallel", correct=True), result("parallel", correct=False, error_type="checker")]
    findings: Findings = BfclBench(checker).summarize(results, seed=0)
    assert findings.metrics["accuracy"].value == 0.5
    assert findings.official is not None and findings.official["overall"] == pytest.approx(0.5 / 4 / 10)
    assert findings.official["overall_of_what_ran"] == 0.5
    assert [note.split(":")[0] for note in findings.notes] == [
        "overall is partial",
        "not run, counted as 0 in overall",
        "a sample of the entries",
        "ceiling",
        "counted wrong because the official checker failed on them",
    ]


def test_an_id_that_occurs_twice_gets_a_number() -> None:
    rows: list[Json] = [{"id": "a", "n": 1}, {"id": "b"}, {"id": "a", "n": 2}]
    assert number_repeats(rows) == [{"id": "a", "n": 1}, {"id": "b"}, {"id": "a:2", "n": 2}]


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "bfcl_eval-1.whl"
    with pytest.raises(
        SetupError, match=r"no such wheel; run: python -m pip download --no-deps bfcl-eval==2026\.3\.23"
    ):
        find_package(wheel)
    wheel.write_bytes(b"something else")
    with pytest.raises(SetupError, match=r"not the pinned bfcl-eval==2026\.3\.23"):
        find_package(wheel)
    assert not list((tmp_path / "cache").rglob("*.py"))


def test_without_a_wheel_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SetupError, match=r"python -m pip download --no-deps bfcl-eval.*; or pass --bfcl-wheel FILE"):
        find_package(None)


def test_mpmath_is_taken_from_beside_a_local_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SetupError, match=r"download --no-deps mpmath==1\.3\.0; or put its wheel beside that of --bfcl"):
        find_mpmath(tmp_path / "bfcl_eval.whl")
    (tmp_path / "mpmath-1.3.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(SetupError, match=r"mpmath-1\.3\.0-py3-none-any\.whl: not the pinned mpmath==1\.3\.0"):
        find_mpmath(tmp_path / "bfcl_eval.whl")
