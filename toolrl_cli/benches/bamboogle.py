"""Bamboogle (arXiv 2210.03350) with a search tool: questions of two hops, answered in a few rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from toolrl_cli.benches.base import Answer, BenchConfig, BenchKind, Entry, Findings, Result, Turn, Verdict, data_of
from toolrl_cli.benches.judges import Judge, contains, matches, open_judge, token_f1
from toolrl_cli.benches.search import Search, check_search, open_search
from toolrl_cli.benches.stats import Unit, bootstrap_mean, wilson
from toolrl_cli.errors import DataError, FormatError, ToolrlError, UsageError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.manifest import hash_file
from toolrl_cli.reading import read_chunks
from toolrl_cli.records import Json, Outcome, ToolCall, expect

ROUNDS = 4
"""Completions for one question at most."""
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Searches for a query and returns the best results.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to search for."}},
            "required": ["query"],
        },
    },
}
REQUEST = "Answer in a few words, without a sentence around them."
SEARCH_REQUEST = f"Search, one fact at a time, for what you are not sure of. {REQUEST}"
MEASURES: dict[str, Unit] = {
    "exact_match": "share", "f1": "mean", "contains": "share", "tool_calls": "mean", "rounds": "mean"
}  # fmt: skip
ONE_AT_A_TIME = "Not run: one search at a time."
RESPONSE = re.compile(r"<response>(.*?)(?:</response>|\Z)", re.DOTALL)
CALLS = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)


class Question(NamedTuple):
    """A question and its answer."""

    text: str
    answer: str


class BamboogleBench:
    """Runs the searches that a model asks for, and judges the answer it ends with.

    Args:
        data: rows of `Question` and `Answer`.
        search: the tool; without one the model is given none.
        judge: decides whether an answer is right.
        text_format: how the model writes a response.
    """

    name = "bamboogle"

    def __init__(self, data: Path, search: Search | None, judge: Judge, text_format: TextFormat) -> None:
        self._data, self._search, self._judge, self._text_format = data, search, judge, text_format
        self._failed: dict[str, str] = {}

    def entries(self) -> list[Entry]:
        """The questions in their order, all of one category.

        Raises:
            DataError: a row is no question, or there is none.
            SetupError: a data set of the Hub cannot be reached.
        """
        tools = () if self._search is None else (TOOL,)
        request = REQUEST if self._search is None else SEARCH_REQUEST
        entries: list[Entry] = []
        for line in (line for chunk in read_chunks(self._data, split="test") for line in chunk.lines()):
            try:
                question = read_question(line.value)
            except DataError as error:
                raise DataError(f"{self._data}:{line.number}: {line.error or error}") from error
            message = {"role": "user", "content": f"{question.text}\n{request}"}
            id, turns = f"bamboogle-{len(entries)}", 0 if self._search is None else 1
            entries.append(Entry(id, self.name, tools, (message,), payload=question, turns=turns))
        if not entries:
            raise DataError(f"{self._data}: no questions; each row must hold Question and Answer")
        return entries

    def follow(self, entry: Entry, answers: Sequence[Answer]) -> Turn | None:
        """The results of the first call, as long as there are calls and rounds; a failed search ends the entry."""
        calls = answers[-1].calls
        if self._search is None or not calls or len(answers) == ROUNDS:
            return None
        try:
            results = run_call(self._search, calls[0])
        except ToolrlError as error:
            self._failed[entry.id] = str(error)
            return None
        texts = [results, *[ONE_AT_A_TIME] * (len(calls) - 1)]
        named = zip(calls, texts, strict=True)
        return Turn(tuple({"role": "tool", "name": call.name, "content": text} for call, text in named))

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """The judge's verdict on the last response; exact match and F1 of it stand in the score."""
        question, last = entry.payload, answers[-1]
        answer = "" if last.calls else read_response(self._text_format, last.completion.text)
        score = {
            "exact_match": float(matches(question.answer, answer)),
            "f1": token_f1(question.answer, answer),
            "contains": float(contains(question.answer, answer)),
            "tool_calls": float(sum(bool(step.calls) for step in answers)),
            "rounds": float(len(answers)),
        }
        if failed := self._failed.pop(entry.id, None):  # another sample of the entry may fare better
            return Verdict(False, Outcome.WRONG, "search", failed, score)
        if not answer:
            error = f"still searching after {len(answers)} rounds" if last.calls else "no response"
            return Verdict(False, explain_silence(last), "parse" if last.error else "no_answer", error, score)
        try:
            correct = self._judge(question.text, question.answer, answer)
        except ToolrlError as error:
            return Verdict(False, Outcome.WRONG, "judge", str(error), score)
        outcome, error_type = (Outcome.EXACT, None) if correct else (Outcome.WRONG, "wrong_answer")
        wrong = None if correct else f"{answer[:80]!r} is not {question.answer!r}"
        return Verdict(correct, outcome, "parse" if last.error else error_type, last.error or wrong, score)

    def gold(self, entry: Entry) -> str:
        """The answer."""
        answer: str = entry.payload.answer
        return answer

    def foresee(self, categories: Sequence[str]) -> dict[str, Unit]:
        """Accuracy, and the measures of the score."""
        return {"accuracy": "share", **MEASURES}

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """Accuracy, and the means of the score."""
        metrics = {"accuracy": wilson(sum(result.correct for result in results), len(results))}
        scores = [result.score or {} for result in results]
        for name, unit in MEASURES.items():
            values = [score.get(name, 0.0) for score in scores]
            share = unit == "share"
            metrics[name] = wilson(round(sum(values)), len(values)) if share else bootstrap_mean(values, seed=seed)
        failed = [result.id for result in results if result.error_type in ("search", "judge")]
        notes = (f"counted wrong because the search or the judge failed: {', '.join(failed)}",) if failed else ()
        return Findings(metrics, notes=notes)


def read_question(raw: object) -> Question:
    """A row; raise `DataError` when it is none."""
    row = expect(raw, dict, "row")
    return Question(expect(row.get("Question"), str, "Question"), expect(row.get("Answer"), str, "Answer"))


def run_call(search: Search, call: ToolCall) -> str:
    """The results of a call, or what is wrong with it; raise `ToolrlError` when the search fails."""
    query = call.arguments.get("query")
    if call.name != TOOL["function"]["name"]:
        return f"There is no tool {call.name[:80]}; use search."
    if not isinstance(query, str) or not query.strip():
        return "search needs a query."
    return search(query.strip())


def read_response(text_format: TextFormat, text: str) -> str:
    """What a completion answers: its response; without one, its text behind the thought and outside of calls."""
    try:
        response = text_format.parse_target(text).response
    except FormatError:
        response = None
    blocks = RESPONSE.findall(text)
    return (response or (blocks[-1] if blocks else CALLS.sub("", text.rpartition("</think>")[2]))).strip()


def explain_silence(last: Answer) -> Outcome:
    """What became of a dialogue that ends without an answer."""
    if last.calls:
        return Outcome.WRONG
    if last.completion.truncated:
        return Outcome.TRUNCATED
    return Outcome.MALFORMED if last.error else Outcome.WRONG


def check(config: BenchConfig) -> None:
    """Raise `UsageError` unless search, judge and record fit together."""
    check_search(config.search)
    open_judge(config.judge)
    kind = (config.search or "").partition(":")[0]
    if config.record is not None and kind in ("recorded", "none"):
        raise UsageError(f"--record keeps what an engine answers, and --search {kind} asks none; leave one out")


def open_bamboogle(config: BenchConfig, text_format: TextFormat) -> nullcontext[BamboogleBench]:
    """The bench with its search engine and its judge; raise as `open_search` and `open_judge`."""
    search, judge = open_search(config.search, config.record), open_judge(config.judge)
    return nullcontext(BamboogleBench(data_of(config), search, judge, text_format))


def hash_files(config: BenchConfig) -> dict[str, str]:
    """The hash of the corpus or the recording that is searched; raise `DataError` when it is missing."""
    file = (config.search or "").partition(":")[2]
    return {"search": hash_file(Path(file))} if file else {}


KIND = BenchKind(
    "bamboogle",
    open_bamboogle,
    options=frozenset({"data", "search", "record", "judge"}),
    check=check,
    hashes=hash_files,
)
