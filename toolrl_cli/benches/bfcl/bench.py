"""BFCL as a benchmark: single-turn questions, and dialogues with the official simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from toolrl_cli.benches.base import Answer, Entry, Findings, Result, Turn, Verdict
from toolrl_cli.benches.bfcl import multi_turn
from toolrl_cli.benches.bfcl.editions import V4, Edition
from toolrl_cli.benches.bfcl.multi_turn import Course
from toolrl_cli.benches.bfcl.process import Checker
from toolrl_cli.benches.bfcl.tools import to_tool
from toolrl_cli.benches.bfcl.weights import weigh_categories
from toolrl_cli.benches.failures import nearest_failure
from toolrl_cli.benches.stats import Unit, weighted_sum, wilson
from toolrl_cli.downloads import Wheel, check_hash, unpack_wheel
from toolrl_cli.errors import SetupError
from toolrl_cli.jsonl import dump_json
from toolrl_cli.records import Json, Outcome

MPMATH = Wheel("mpmath", "1.3.0", "a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c")
"""What the simulator calculates with, in the version that both editions require."""


class BfclBench:
    """Asks the official code for entries and verdicts; relevance is judged here, by the official rule.

    Args:
        checker: the official code's process.
        categories: those to ask about, all when there are none.
        edition: the version of the leaderboard.
        openai: whether functions are described as the official handler does for OpenAI's models.
    """

    def __init__(
        self, checker: Checker, categories: Sequence[str] = (), edition: Edition = V4, *, openai: bool = False
    ) -> None:
        self.name = edition.name
        self._checker = checker
        self._edition = edition
        self._openai = openai
        self._categories = edition.choose_categories(categories)
        self._tools: dict[str, Json] = {}
        self._failures: dict[str, str] = {}

    def entries(self) -> list[Entry]:
        """The entries of the chosen categories.

        Raises:
            SetupError: the official code cannot load them.
        """
        return [entry for category in self._categories for entry in self._load(category)]

    def _load(self, category: str) -> list[Entry]:
        rows = number_repeats(self._request("load", category=category, openai=self._openai)["entries"])
        if category in self._edition.multi_turn:
            return [multi_turn.to_entry(category, raw, self._rules, self._share_tool) for raw in rows]
        return [to_entry(category, raw) for raw in rows]

    @cached_property
    def _rules(self) -> Json:
        return self._request("rules")

    def _request(self, job: str, **arguments: object) -> Json:
        reply = self._checker.ask(job, **arguments)
        if "failure" in reply:
            what = f"{job} {arguments.get('category', '')}".strip()
            raise SetupError(f"BFCL cannot {what}: {reply['failure']}; run again, or on another Python")
        return reply

    def _share_tool(self, function: Json) -> Json:
        """The tool of a function, the same object for the hundreds of entries that have it."""
        key = dump_json(function)
        if key not in self._tools:
            self._tools[key] = to_tool(function)
        return self._tools[key]

    def follow(self, entry: Entry, answers: Sequence[Answer]) -> Turn | None:
        """In a dialogue, the results of the calls, or behind an answer without calls the next turn."""
        course = entry.payload
        if not isinstance(course, Course) or multi_turn.is_over(course, answers):
            return None
        turns = multi_turn.divide(answers)
        calls = answers[-1].calls
        if not calls:
            return multi_turn.next_turn(entry, len(turns))
        reply = self._checker.ask("play", category=entry.category, id=entry.id, turns=multi_turn.to_json(turns))
        if "failure" in reply:
            self._failures[entry.id] = reply["failure"]
            return None
        return Turn(multi_turn.tool_messages(calls, reply["results"]))

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """The official verdict; a completion whose calls cannot be read made no call, as the leaderboard has it."""
        if isinstance(entry.payload, Course):
            return multi_turn.with_parse_errors(self._judge(entry, entry.payload, answers), answers)
        (answer,) = answers
        if entry.category in self._edition.relevance:
            return judge_relevance(answer, call_wanted="irrelevance" not in entry.category)
        if answer.error:
            return Verdict(False, Outcome.MALFORMED, "parse", answer.error)
        calls = [{call.name: call.arguments} for call in answer.calls]
        reply = self._checker.ask("check", category=entry.category, id=entry.id, calls=calls)
        return read_verdict(reply, explain_wrong(answer))

    def gold(self, entry: Entry) -> str:
        """The possible answers, a line each: what each parameter may be ("" also allows none), or a turn's calls."""
        if entry.category in self._edition.relevance:
            return "no call" if "irrelevance" in entry.category else "a call"
        reply = self._checker.ask("gold", category=entry.category, id=entry.id)
        return reply["failure"] if "failure" in reply else "\n".join(map(dump_json, reply["answers"]))

    def replay(self, entry: Entry, answers: Sequence[Answer]) -> list[tuple[Json, ...]]:
        """The results of the calls from the simulator, and what the user said next."""
        followed = (self.follow(entry, answers[:count]) for count in range(1, len(answers)))
        return [() if turn is None else turn.messages for turn in followed]

    def _judge(self, entry: Entry, course: Course, answers: Sequence[Answer]) -> Verdict:
        failure = self._failures.pop(entry.id, None)
        if failure is not None:
            return Verdict(False, Outcome.WRONG, "checker", failure)
        verdict = multi_turn.early_verdict(course, answers)
        if verdict is not None:
            return verdict
        turns = multi_turn.to_json(multi_turn.divide(answers))
        reply = self._checker.ask("judge", category=entry.category, id=entry.id, turns=turns)
        return read_verdict(reply, multi_turn.explain_wrong(answers))

    def foresee(self, categories: Sequence[str]) -> dict[str, Unit]:
        """The accuracy, and every number of the aggregation in which one of the categories counts."""
        return dict.fromkeys(["accuracy", *weigh_categories(self._edition.aggregate, categories)], "share")

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """The share of correct entries, and the leaderboard's own aggregation."""
        total, correct = Counter(r.category for r in results), Counter(r.category for r in results if r.correct)
        official = self._edition.aggregate({category: correct[category] / n for category, n in total.items()})
        weights = weigh_categories(self._edition.aggregate, tuple(total))
        accuracies = {category: wilson(correct[category], n) for category, n in total.items()}
        metrics = {
            "accuracy": wilson(correct.total(), total.total()),
            **{name: weighted_sum(accuracies, parts) for name, parts in weights.items()},
        }
        notes = tuple(describe(self._edition, total, results))
        return Findings(metrics, {"version": self._edition.wheel.requirement, **official}, notes, weights)


@contextmanager
def open_bfcl(
    wheel: Path | None = None, categories: Sequence[str] = (), edition: Edition = V4, *, openai: bool = False
) -> Iterator[BfclBench]:
    """The bench with its checker's process, from a local wheel or the one in the cache or on PyPI.

    Raises:
        SetupError: a wheel cannot be had or is not the pinned one.
    """
    packages = [find_package(wheel, edition.wheel)]
    if not edition.multi_turn.keys().isdisjoint(edition.choose_categories(categories)):
        packages.append(find_mpmath(wheel))
    with Checker(*packages) as checker:
        yield BfclBench(checker, categories, edition, openai=openai)


def find_package(wheel: Path | None, pinned: Wheel = V4.wheel) -> Path:
    """The folder of an unpacked official package; a local wheel is checked also when the cache has it already.

    Raises:
        SetupError: the wheel cannot be had or is not the pinned one.
    """
    if wheel is None:
        try:
            return unpack_wheel(pinned)
        except SetupError as error:
            raise SetupError(f"{error}; or pass --bfcl-wheel FILE") from error
    if not wheel.is_file():
        raise SetupError(f"{wheel}: no such wheel; run: python -m pip download --no-deps {pinned.requirement}")
    check_hash(wheel, pinned)
    return unpack_wheel(pinned, wheel)


def find_mpmath(wheel: Path | None) -> Path:
    """The folder of the unpacked mpmath, from beside a local wheel where it lies there.

    Raises:
        SetupError: it cannot be had or is not the pinned one.
    """
    beside = wheel and next(wheel.parent.glob(f"mpmath-{MPMATH.version}-*.whl"), None)
    try:
        return unpack_wheel(MPMATH, beside)
    except SetupError as error:
        raise SetupError(f"{error}; or put its wheel beside that of --bfcl-wheel FILE") from error


def read_verdict(reply: Json, wrong: Outcome) -> Verdict:
    """The checker's reply as a verdict, with an outcome for wrong answers."""
    if "failure" in reply:
        return Verdict(False, Outcome.WRONG, "checker", reply["failure"])
    if reply["valid"]:
        return Verdict(True, Outcome.EXACT)
    failure = nearest_failure(reply["mismatches"]) if reply.get("mismatches") else None
    return Verdict(False, wrong, reply["error_type"], reply["error"], failure=failure)


def number_repeats(rows: Sequence[Json]) -> list[Json]:
    """The rows with ids of their own: v3 has two questions with the id `live_relevance_3-3-0`."""
    seen: Counter[str] = Counter()
    numbered = []
    for row in rows:
        seen[row["id"]] += 1
        numbered.append(row if seen[row["id"]] == 1 else {**row, "id": f"{row['id']}:{seen[row['id']]}"})
    return numbered


def to_entry(category: str, raw: Json) -> Entry:
    """A single-turn entry as the official loader gives it: its only turn, its functions as tools."""
    (turn,) = raw["question"]
    return Entry(raw["id"], category, tuple(to_tool(function) for function in raw["function"]), tuple(turn))


def judge_relevance(answer: Answer, *, call_wanted: bool) -> Verdict:
    """Correct is at least one readable call where one is wanted, none where none is; error types are the official."""
    called = bool(answer.calls)
    if called:
        outcome = Outcome.EXACT if call_wanted else Outcome.SPURIOUS_CALL
    elif answer.error:
        outcome = Outcome.MALFORMED
    elif answer.completion.truncated:
        outcome = Outcome.TRUNCATED
    else:
        outcome = Outcome.NO_CALL if call_wanted else Outcome.ABSTAINED
    if called == call_wanted or answer.error:
        return Verdict(called == call_wanted, outcome, "parse" if answer.error else None, answer.error)
    if called:
        error = f"{answer.calls[0].name[:80]} is called, where no call is wanted"
        return Verdict(False, outcome, "irrelevance_error:decoder_success", error)
    return Verdict(False, outcome, "relevance_error:decoder_failed", "no call, where one is wanted")


def explain_wrong(answer: Answer) -> Outcome:
    """What became of readable calls that the checker refused."""
    if answer.calls:
        return Outcome.WRONG
    return Outcome.TRUNCATED if answer.completion.truncated else Outcome.NO_CALL


def describe(edition: Edition, total: Counter[str], results: Sequence[Result]) -> Iterator[str]:
    """What a reader must know before comparing the numbers with the leaderboard's."""
    yield from edition.absent
    absent = [name for name in edition.counts if name not in total]
    if absent:
        yield f"not run, counted as 0 in overall: {', '.join(absent)}"
    cut = [f"{name} {n} of {edition.counts[name]}" for name, n in total.items() if n < edition.counts[name]]
    if cut:
        yield f"a sample of the entries: {', '.join(cut)}"
    yield f"ceiling: {edition.ceiling}"
    failed = sum(result.error_type == "checker" for result in results)
    if failed:
        yield f"counted wrong because the official checker failed on them: {failed}"
    unsafe = sum(result.error_type == "unsafe_call" for result in results)
    if unsafe:
        yield f"counted wrong because a call was no plain call of a tool, and not run: {unsafe}"
