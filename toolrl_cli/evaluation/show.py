"""Single entries of a finished evaluation, for a person: what was asked, wanted, answered, and why it is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from toolrl_cli.benches.base import Answer, Bench, Entry, Replays, Result, ShowsGold, read_answer
from toolrl_cli.errors import UsageError, nearest
from toolrl_cli.evaluation.planning import hash_prompt, to_prompt
from toolrl_cli.evaluation.recorded import read_finished, read_graded, reopen
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Prompt
from toolrl_cli.jsonl import dump_json
from toolrl_cli.records import Completion, Json

Wanted = Literal["wrong", "right", "all"]
LONGEST = 8000
"""The most characters of a text that a person is shown."""


@dataclass(frozen=True)
class Exhibit:
    """An entry with its answer, as text; `same_prompt` says whether the model was asked just what `prompt` holds."""

    id: str
    category: str
    correct: bool
    failure: str | None
    error_type: str | None
    prompt: str
    same_prompt: bool
    gold: str
    prediction: str
    reason: str

    def to_json(self) -> Json:
        """The record as JSON values."""
        return asdict(self)

    def title(self) -> str:
        """The entry and its verdict in a line."""
        kinds = [kind for kind in (self.failure, self.error_type) if kind]
        return f"{self.id} ({self.category}): {'right' if self.correct else 'wrong: ' + ', '.join(kinds)}"

    def sections(self) -> list[Mapping[str, str]]:
        """What is shown below each other, and in each of these beside each other."""
        prompt = "prompt" if self.same_prompt else "prompt (as it is now; another one was answered)"
        shown: list[Mapping[str, str]] = [{prompt: self.prompt}, {"gold": self.gold, "prediction": self.prediction}]
        shown += [{"reason": self.reason}] if self.reason else []
        return [{name: shorten(text) for name, text in row.items()} for row in shown]


def find_exhibits(
    folder: Path,
    wanted: Wanted = "wrong",
    *,
    categories: tuple[str, ...] = (),
    limit: int | None = None,
    bfcl_wheel: Path | None = None,
) -> list[Exhibit]:
    """The first entries that are wanted, in the bench's order.

    Args:
        folder: a finished evaluation.
        wanted: those answered wrong, right, or all.
        categories: only these, all for none.
        limit: the most to show.
        bfcl_wheel: a local wheel of bfcl-eval.

    Raises:
        UsageError: a category has no results here.
        DataError: the folder holds no finished evaluation, or its data have changed.
        SetupError: the wheel cannot be had.
    """
    manifest, results = read_finished(folder), read_graded(folder)
    refuse_unknown(categories, results)
    with reopen(folder, manifest, bfcl_wheel=bfcl_wheel) as opened:
        chosen = (
            (entry, results[id])
            for id, entry in opened.entries.items()
            if id in results
            and wanted in ("all", "right" if results[id].correct else "wrong")
            and (not categories or results[id].category in categories)
        )
        return [exhibit(opened.bench, entry, opened.text_format, result) for entry, result in islice(chosen, limit)]


def refuse_unknown(categories: tuple[str, ...], results: Mapping[str, Result]) -> None:
    """Raise `UsageError` for a category that has no results."""
    known = sorted({result.category for result in results.values()})
    for category in categories:
        if category not in known:
            choices = f"{', '.join(known)}{nearest(category, known)}"
            raise UsageError(f"--category {category}: no results of it here; choose from {choices}")


def exhibit(bench: Bench, entry: Entry, text_format: TextFormat, result: Result) -> Exhibit:
    """One entry with its answer."""
    prompt = to_prompt(entry, text_format)
    return Exhibit(
        id=result.id,
        category=result.category,
        correct=result.correct,
        failure=result.failure,
        error_type=result.error_type,
        prompt="\n".join(prompt_lines(prompt)),
        same_prompt=hash_prompt(prompt) == result.prompt_hash,
        gold=bench.gold(entry) if isinstance(bench, ShowsGold) else "(this bench shows none)",
        prediction=prediction_of(result, bench, entry, text_format),
        reason=result.reason,
    )


def prompt_lines(prompt: Prompt) -> Iterator[str]:
    """The tools, where they are apart from the messages, and the messages, each under its role."""
    if prompt.tools is not None:
        yield "[tools]"
        yield from map(dump_json, prompt.tools)
    yield from message_lines(prompt.messages)


def message_lines(messages: Iterable[Json]) -> Iterator[str]:
    """Messages, each under its role."""
    for message in messages:
        rest = {key: value for key, value in message.items() if key not in ("role", "content") and value}
        yield f"[{message.get('role')}]"
        yield str(message.get("content") or "")
        if rest:
            yield dump_json(rest)


def prediction_of(result: Result, bench: Bench, entry: Entry, text_format: TextFormat) -> str:
    """The completion of an entry; of a dialogue all of them, in their turns and between what they answer."""
    last = "(none)" if result.completion is None else result.completion
    cut = "\n(cut off at the token limit)" if result.truncated else ""
    if not result.steps:
        return last + cut
    answers = [read_answer(text_format, Completion(text)) for text in (*result.steps[:-1], last)]
    between = bench.replay(entry, answers) if isinstance(bench, Replays) else []
    return "\n".join(dialogue_lines(answers, between, turns=entry.turns > 1)) + cut


def dialogue_lines(answers: Sequence[Answer], between: Sequence[Sequence[Json]], *, turns: bool) -> Iterator[str]:
    """The answers of a dialogue, each under its number, and before it the messages that came `between`, if known.

    With `turns` a line says where one begins: an answer without calls that can be read ends its turn.
    """
    turn, opens = 0, True
    for number, answer in enumerate(answers, start=1):
        if turns and opens:
            turn += 1
            yield f"[turn {turn}]"
        yield from message_lines(between[number - 2] if number > 1 and between else ())
        yield f"[answer {number}]"
        yield answer.completion.text
        opens = not answer.calls


def shorten(text: str) -> str:
    """The beginning and the end of a long text, and between them a line that says how much is left out."""
    left, half = len(text) - LONGEST, LONGEST // 2
    if left <= 0:
        return text
    return f"{text[:half]}\n({left} characters are left out; --json shows them)\n{text[-half:]}"
