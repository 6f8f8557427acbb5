"""The single-turn part of BFCL v4 as a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolrl_cli.benches.base import Answer, BenchConfig, BenchKind, Entry, Findings, Result, SingleTurn, Verdict
from toolrl_cli.benches.bfcl.categories import AST_COUNTS, COUNTS, aggregate, choose_categories
from toolrl_cli.benches.bfcl.process import Checker
from toolrl_cli.benches.bfcl.tools import to_tool
from toolrl_cli.benches.bfcl.weights import weigh_categories
from toolrl_cli.benches.failures import nearest_failure
from toolrl_cli.benches.stats import bootstrap_weighted, wilson
from toolrl_cli.downloads import Wheel, check_hash, unpack_wheel
from toolrl_cli.errors import SetupError
from toolrl_cli.jsonl import dump_json
from toolrl_cli.records import Json, Outcome

WHEEL = Wheel("bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")


class BfclBench(SingleTurn):
    """Asks the official code for entries and verdicts; relevance is judged here, by the official rule."""

    name = "bfcl"

    def __init__(self, checker: Checker, categories: Sequence[str] = ()) -> None:
        self._checker = checker
        self._categories = choose_categories(categories)

    def entries(self) -> list[Entry]:
        """The entries of the chosen categories.

        Raises:
            SetupError: the official code cannot load them.
        """
        return [entry for category in self._categories for entry in self._load(category)]

    def _load(self, category: str) -> list[Entry]:
        reply = self._checker.ask("load", category=category)
        if "failure" in reply:
            raise SetupError(f"BFCL cannot load {category}: {reply['failure']}; run again, or on another Python")
        return [to_entry(category, raw) for raw in reply["entries"]]

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """The official verdict; a completion whose calls cannot be read made no call, as the leaderboard has it."""
        (answer,) = answers
        if entry.category not in AST_COUNTS:
            return judge_relevance(answer, call_wanted="irrelevance" not in entry.category)
        if answer.error:
            return Verdict(False, Outcome.MALFORMED, "parse", answer.error)
        calls = [{call.name: call.arguments} for call in answer.calls]
        reply = self._checker.ask("check", category=entry.category, id=entry.id, calls=calls)
        if "failure" in reply:
            return Verdict(False, Outcome.WRONG, "checker", reply["failure"])
        if reply["valid"]:
            return Verdict(True, Outcome.EXACT)
        failure = nearest_failure(reply["mismatches"]) if reply.get("mismatches") else None
        return Verdict(False, explain_wrong(answer), reply["error_type"], reply["error"], failure=failure)

    def gold(self, entry: Entry) -> str:
        """The possible answers, a call a line: what each parameter may be, where an empty text also allows none."""
        if entry.category not in AST_COUNTS:
            return "no call" if "irrelevance" in entry.category else "a call"
        reply = self._checker.ask("gold", category=entry.category, id=entry.id)
        return reply["failure"] if "failure" in reply else "\n".join(map(dump_json, reply["answers"]))

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """The share of correct entries, and the leaderboard's own aggregation."""
        total, correct = Counter(r.category for r in results), Counter(r.category for r in results if r.correct)
        official = aggregate({category: correct[category] / n for category, n in total.items()})
        weights = weigh_categories(aggregate, tuple(total))
        hits = {c: [1.0] * correct[c] + [0.0] * (n - correct[c]) for c, n in total.items()}
        metrics = {
            "accuracy": wilson(correct.total(), total.total()),
            **bootstrap_weighted(hits, weights, seed=seed),
        }
        notes = tuple(describe(total, results))
        return Findings(metrics, {"version": WHEEL.requirement, **official}, notes, weights)


@contextmanager
def open_bfcl(wheel: Path | None = None, categories: Sequence[str] = ()) -> Iterator[BfclBench]:
    """The bench with its checker's process, from a local wheel or the one in the cache or on PyPI.

    Raises:
        SetupError: the wheel cannot be had or is not the pinned one.
    """
    with Checker(find_package(wheel)) as checker:
        yield BfclBench(checker, categories)


def find_package(wheel: Path | None) -> Path:
    """The folder of the unpacked official package; a local wheel is checked also when the cache has it already.

    Raises:
        SetupError: the wheel cannot be had or is not the pinned one.
    """
    if wheel is None:
        try:
            return unpack_wheel(WHEEL)
        except SetupError as error:
            raise SetupError(f"{error}; or pass --bfcl-wheel FILE") from error
    if not wheel.is_file():
        raise SetupError(f"{wheel}: no such wheel; run: python -m pip download --no-deps {WHEEL.requirement}")
    check_hash(wheel, WHEEL)
    return unpack_wheel(WHEEL, wheel)


def to_entry(category: str, raw: Json) -> Entry:
    """A single-turn entry as the official loader gives it: its only turn, its functions as tools."""
    (turn,) = raw["question"]
    return Entry(raw["id"], category, tuple(to_tool(function) for function in raw["function"]), tuple(turn))


def judge_relevance(answer: Answer, *, call_wanted: bool) -> Verdict:
    """Correct is at least one readable call where one is wanted, none where none is."""
    called = bool(answer.calls)
    if called:
        outcome = Outcome.EXACT if call_wanted else Outcome.SPURIOUS_CALL
    elif answer.error:
        outcome = Outcome.MALFORMED
    elif answer.completion.truncated:
        outcome = Outcome.TRUNCATED
    else:
        outcome = Outcome.NO_CALL if call_wanted else Outcome.ABSTAINED
    return Verdict(called == call_wanted, outcome, "parse" if answer.error else None, answer.error)


def explain_wrong(answer: Answer) -> Outcome:
    """What became of readable calls that the checker refused."""
    if answer.calls:
        return Outcome.WRONG
    return Outcome.TRUNCATED if answer.completion.truncated else Outcome.NO_CALL


def describe(total: Counter[str], results: Sequence[Result]) -> Iterator[str]:
    """What a reader must know before comparing the numbers with the leaderboard's."""
    yield "overall is partial: multi-turn (30%) and agentic (40%) did not run and count as 0, so 30 of 100 is the most"
    absent = [name for name in COUNTS if name not in total]
    if absent:
        yield f"not run, counted as 0 in overall: {', '.join(absent)}"
    cut = [f"{name} {n} of {COUNTS[name]}" for name, n in total.items() if n < COUNTS[name]]
    if cut:
        yield f"a sample of the entries: {', '.join(cut)}"
    yield "ceiling: the official gold answers themselves pass 2495 of the 2501 AST entries"
    failed = sum(result.error_type == "checker" for result in results)
    if failed:
        yield f"counted wrong because the official checker failed on them: {failed}"


def check(config: BenchConfig) -> None:
    """Raise `ConfigError` for a category that is none."""
    choose_categories(config.categories)


KIND = BenchKind(
    "bfcl",
    lambda config, text_format: open_bfcl(config.bfcl_wheel, config.categories),
    options=frozenset({"categories", "bfcl_wheel"}),
    check=check,
    hashes=lambda config: {"bfcl_wheel": WHEEL.sha256},
)
