"""Examples that hold what a benchmark asks: n-grams that the user texts, or the gold calls, have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from toolrl_cli.benches.bfcl.bench import find_package
from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import read_lines
from toolrl_cli.reading import find_files, read_chunks
from toolrl_cli.records import Example, Json, ToolCall
from toolrl_cli.sources.registry import SOURCES, recognise

N = 10
SHORTEST = 6
"""A benchmark's question of fewer than `N` words counts as a whole, one of fewer than these not at all."""
WORD = re.compile(r"\w+")
NO_QUESTION = {"system", "tools", "functions", "function", "instruction", "api_info"}
HUB_SETS = {
    "api-bank": (Path("hf://liminghao1630/API-Bank"), "test"),
    "bamboogle": (Path("hf://chiayewken/bamboogle"), "test"),
}
BENCHMARKS = ("bfcl", *HUB_SETS)
"""Names that stand for no file."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What an example shares with an entry of a benchmark; `where` is `user` or `calls`."""

    benchmark: str
    entry: str
    where: str
    words: str


@dataclass(frozen=True)
class Grams:
    """Word sequences of one kind of text, each with the entry it is from, and the lengths that occur."""

    entries: dict[int, tuple[str, str]] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)

    def add(self, text: str, benchmark: str, entry: str, *, question: bool) -> None:
        """Add the n-grams of a text, or the whole of a short one that is a question, not a phrase in a dialogue."""
        words = WORD.findall(text.lower())
        if len(words) < (SHORTEST if question else N):
            return
        length = min(N, len(words))
        self.lengths.add(length)
        for gram in grams(words, length):
            self.entries.setdefault(hash(gram), (benchmark, entry))

    def find(self, text: str) -> tuple[str, str, str] | None:
        """Benchmark, entry and words of the first sequence that a text shares."""
        words = WORD.findall(text.lower())
        for length in sorted(self.lengths, reverse=True):
            for gram in grams(words, length):
                if found := self.entries.get(hash(gram)):
                    return *found, " ".join(gram)
        return None


def grams(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words."""
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))


@dataclass(frozen=True)
class Benchmarks:
    """What several benchmarks ask, and the calls they want."""

    users: Grams = field(default_factory=Grams)
    calls: Grams = field(default_factory=Grams)

    def find(self, example: Example) -> Overlap | None:
        """The first overlap of an example with a benchmark."""
        users = (m["content"] for m in example.messages if m["role"] == "user" and m.get("content"))
        texts = chain((("user", self.users, text) for text in users), call_texts(example, self.calls))
        for where, known, text in texts:
            if found := known.find(text):
                return Overlap(found[0], found[1], where, found[2])
        return None


def call_texts(example: Example, calls: Grams) -> Iterator[tuple[str, Grams, str]]:
    """The text of the gold calls, with what it is to be compared with."""
    if example.target.tool_calls:
        yield "calls", calls, spell_calls(example.target.tool_calls)


def spell_calls(calls: Iterable[ToolCall]) -> str:
    """Calls as words: names and arguments in their order."""
    return " ".join(f"{call.name} {call.arguments}" for call in calls)


def read_benchmarks(names: Sequence[str]) -> Benchmarks:
    """The benchmarks of these names, or in these files.

    Args:
        names: `bfcl` (from the official package), `api-bank` and `bamboogle` (from the Hub), or files
            of examples, of any source, or of other rows, whose strings count.

    Raises:
        DataError: a file is missing or cannot be read.
        SetupError: the package or the Hub cannot be reached.
    """
    benchmarks = Benchmarks()
    for name in names:
        rows = read_bfcl() if name == "bfcl" else read_rows(*HUB_SETS.get(name, (Path(name), "train")))
        count = 0
        for entry, users, calls in rows:
            count += 1
            for place, text in enumerate(users):
                benchmarks.users.add(text, name, entry, question=place == 0)
            benchmarks.calls.add(calls, name, entry, question=False)
        if not count:
            raise DataError(f"{name}: holds no entries to compare with")
    return benchmarks


Document = tuple[str, list[str], str]
"""The id of an entry, its user texts, and its gold calls as text."""


def read_bfcl() -> Iterator[Document]:
    """Every entry of the leaderboard, with the first of the values that its possible answers allow."""
    folder = find_package(None) / "bfcl_eval" / "data"
    for path in sorted(folder.glob("BFCL_*.json")):
        answers = folder / "possible_answer" / path.name
        gold = {row["id"]: row.get("ground_truth") for row in read_objects(answers)} if answers.exists() else {}
        for row in read_objects(path):
            yield row["id"], user_texts(row.get("question")), " ".join(map(spell_answer, gold.get(row["id"]) or []))


def read_objects(path: Path) -> Iterator[Json]:
    """The objects of a file of lines; a file of the official package that only lists ids has none."""
    for line in read_lines(path):
        if isinstance(line.value, dict):
            yield line.value


def user_texts(question: Any) -> list[str]:
    """What users say in the turns of an entry."""
    turns = question if isinstance(question, list) else []
    messages = [message for turn in turns for message in (turn if isinstance(turn, list) else [turn])]
    return [str(m.get("content")) for m in messages if isinstance(m, dict) and m.get("role") == "user"]


def spell_answer(answer: Any) -> str:
    """A gold call as `spell_calls` spells it: of each argument the first allowed value."""
    if not isinstance(answer, dict):
        return ""
    return spell_calls(
        ToolCall(name, {k: v[0] if isinstance(v, list) and v else v for k, v in arguments.items()})
        for name, arguments in answer.items()
        if isinstance(arguments, dict)
    )


def read_rows(path: Path, split: str) -> Iterator[Document]:
    """The rows of files or of a set on the Hub: read by their source where one knows them, else every string counts."""
    for file in find_files([path]):
        for chunk in read_chunks(file, split):
            for line in chunk.lines():
                if line.error:
                    raise DataError(f"{file}:{line.number}: {line.error}")
                yield from documents_of(line.value, f"{file.name}:{line.number}")


def documents_of(row: Any, entry: str) -> Iterator[Document]:
    """The entries of a row."""
    names = recognise(row) if isinstance(row, dict) else []
    examples: list[Example] = []
    if len(names) == 1 and not SOURCES[names[0]].whole_file:
        try:
            examples = [e for part in SOURCES[names[0]].split(row) for e in SOURCES[names[0]].convert(part, entry)]
        except DataError:
            examples = []
    for example in examples:
        users = [m["content"] for m in example.messages if m["role"] == "user" and m.get("content")]
        yield entry, users, spell_calls(example.target.tool_calls)
    if not examples:
        yield entry, list(strings_of(row)), ""


def strings_of(value: object) -> Iterator[str]:
    """Every string in a row but what describes tools or the task."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.lower() not in NO_QUESTION:
                yield from strings_of(item)
