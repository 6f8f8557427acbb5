"""API-Bank (arXiv 2304.08244): the next call of a dialogue, scored as ToolRL's released evaluation does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from toolrl_cli.benches.api_bank_rows import read_step
from toolrl_cli.benches.base import (
    Answer,
    BenchConfig,
    BenchKind,
    Entry,
    Findings,
    Result,
    SingleTurn,
    Verdict,
    data_of,
)
from toolrl_cli.benches.failures import compare_calls
from toolrl_cli.benches.stats import Unit, wilson
from toolrl_cli.errors import ConfigError, DataError, UsageError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.jsonl import Line, dump_json, load_json
from toolrl_cli.reading import data_stem, find_files, is_hub, read_chunks
from toolrl_cli.records import Outcome, ToolCall
from toolrl_cli.sources.api_bank import CATALOGUE, ApiBankSource

LEVEL = re.compile(r"level-\d+")


class ApiBankBench(SingleTurn):
    """Asks for one call at a time; right is any call that equals the gold.

    Args:
        data: a file of rows or a dialogue, a folder of such files with a level in their names, or `hf://ID`.
        text_format: what the model writes calls in.
        own_prompt: show the prompts of processed rows as they are.

    Raises:
        ConfigError: those prompts ask for another format than this one.
    """

    name = "api-bank"

    def __init__(self, data: Path, text_format: TextFormat, *, own_prompt: bool = False) -> None:
        if own_prompt and text_format.name != ToolrlFormat.name:
            raise UsageError(f"--own-prompt asks for answers in the toolrl format, not {text_format.name}")
        self._data, self._own_prompt = data, own_prompt
        self._released = text_format.name == ToolrlFormat.name

    def entries(self) -> list[Entry]:
        """The steps with a gold call, one category for each level.

        Raises:
            DataError: a row is no API-Bank, an id occurs twice, or there is none.
            SetupError: a data set of the Hub cannot be reached.
        """
        entries = list(chain.from_iterable(self._read(path) for path in find_levels(self._data)))
        repeated = {entry.id for entry in entries}
        if not entries or len(repeated) < len(entries):
            raise DataError(f"{self._data}: {'ids occur twice' if entries else 'no gold calls'}; give other files")
        return entries

    def _read(self, path: Path) -> Iterator[Entry]:
        lines = [line for chunk in read_chunks(path, split="test") for line in chunk.lines()]
        for line in lines:
            if line.error:
                raise DataError(f"{path}:{line.number}: {line.error}")
        if lines and isinstance(lines[0].value, dict) and ApiBankSource().recognises(lines[0].value):
            if self._own_prompt:
                raise ConfigError(f"{path}: only processed rows have a prompt of their own; leave out --own-prompt")
            return read_dialogue(path, lines)
        return read_rows(path, lines, own_prompt=self._own_prompt)

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """Soft match decides, exact match (the gold and no other call) stands in the score."""
        (answer,) = answers
        gold: ToolCall = entry.payload
        calls = released_calls(answer.completion.text, gold) if self._released else answer.calls
        soft = gold in calls
        exact = soft and answer.calls == (gold,)
        score = {"soft_match": float(soft), "exact_match": float(exact)}
        if answer.error:
            outcome = Outcome.TRUNCATED if answer.completion.truncated else Outcome.MALFORMED
            return Verdict(soft, outcome, "parse", answer.error, score)
        if soft:
            return Verdict(True, Outcome.EXACT if exact else Outcome.PARTIAL, score=score)
        named = [call for call in answer.calls if call.name == gold.name]
        failure = compare_calls([gold], named[:1]) if named else None
        return Verdict(False, *explain_wrong(answer, gold), score, failure)

    def gold(self, entry: Entry) -> str:
        """The gold call as JSON."""
        return dump_json(entry.payload.to_json())

    def foresee(self, categories: Sequence[str]) -> dict[str, Unit]:
        """Soft and exact match."""
        return {"soft_match": "share", "exact_match": "share"}

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """The share of soft and of exact matches."""
        soft = sum(result.correct for result in results)
        exact = sum((result.score or {}).get("exact_match") == 1.0 for result in results)
        return Findings({"soft_match": wilson(soft, len(results)), "exact_match": wilson(exact, len(results))})


def explain_wrong(answer: Answer, gold: ToolCall) -> tuple[Outcome, str, str]:
    """What is wrong with calls of which none is the gold."""
    if not answer.calls:
        outcome = Outcome.TRUNCATED if answer.completion.truncated else Outcome.NO_CALL
        return outcome, "no_call", f"no call; {gold.name} is wanted"
    given = next((call.arguments for call in answer.calls if call.name == gold.name), None)
    if given is None:
        return Outcome.WRONG, "wrong_tool", f"{answer.calls[0].name[:80]} is called; {gold.name} is wanted"
    names = [name for name in {**gold.arguments, **given} if given.get(name, ...) != gold.arguments.get(name, ...)]
    return Outcome.PARTIAL, "wrong_arguments", f"{gold.name}: {', '.join(map(repr, names))[:200]}"


def released_calls(text: str, gold: ToolCall) -> list[ToolCall]:
    """The calls of a completion as ToolRL's released evaluation reads them.

    It takes what follows the last opening tag up to the next closing one, either of which may be missing. Each line
    that is JSON is a call, other lines are nothing; an object without name or parameters stands for the arguments of
    the gold's tool. Where a line is a number, a text or null, that code stops at an error of its own.
    """
    block = text.split("<tool_call>")[-1].split("</tool_call>")[0]
    calls = []
    for line in filter(str.strip, block.split("\n")):
        try:
            value = load_json(line.strip())
        except ValueError:
            continue
        if not isinstance(value, dict | list):
            break
        if isinstance(value, dict):
            whole = "name" in value and "parameters" in value
            calls.append(ToolCall(value["name"], value["parameters"]) if whole else ToolCall(gold.name, value))
    return calls


def find_levels(data: Path) -> list[Path]:
    """The files of a folder that name a level, themselves or by their own folder; any file that is given itself."""
    if is_hub(data) or not data.is_dir():
        return [data]
    files = [path for path in find_files([data], lambda file: file.name == CATALOGUE) if level_of(path)]
    if not files:
        raise DataError(f"{data}: no API-Bank in this folder; its files or folders are named level-1-..., level-2-...")
    return files


def level_of(path: Path) -> str | None:
    """The level that a file is of, by the name of its folder, else by its own."""
    found = [LEVEL.search(name) for name in (path.parent.name, path.name)]
    return next((match[0] for match in found if match), None)


def read_dialogue(path: Path, lines: Sequence[Line]) -> Iterator[Entry]:
    """The calls of a raw dialogue, each with the history up to it."""
    level = level_of(path) or "api-bank"
    source = ApiBankSource().open(path, None)
    for example in source.convert({"lines": [line.value for line in lines]}, f"{level}-{data_stem(path)}"):
        if example.target.tool_calls:
            (gold,) = example.target.tool_calls
            yield Entry(example.id, level, example.tools, example.messages, payload=gold)


def read_rows(path: Path, lines: Sequence[Line], *, own_prompt: bool) -> Iterator[Entry]:
    """Rows that hold a step each; those of API-Bank's own files that ask for a response are left out."""
    level = level_of(path) or "api-bank"
    for index, line in enumerate(lines):
        try:
            step = read_step(line.value)
        except DataError as error:
            raise DataError(f"{path}:{line.number}: {error}") from error
        if own_prompt and step is not None and step.prompt is None:
            raise ConfigError(f"{path}: only processed rows have a prompt of their own; leave out --own-prompt")
        if step is not None:
            prompt = step.prompt if own_prompt else None
            yield Entry(f"{level}-{index}", level, step.tools, step.messages, step.gold, prompt)


def open_api_bank(config: BenchConfig, text_format: TextFormat) -> nullcontext[ApiBankBench]:
    """The bench of a file or a folder; raise `ConfigError` as the bench does."""
    return nullcontext(ApiBankBench(data_of(config), text_format, own_prompt=config.own_prompt))


KIND = BenchKind("api-bank", open_api_bank, options=frozenset({"data", "own_prompt"}))
