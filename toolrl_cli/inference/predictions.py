"""Recorded predictions as an engine: what another program generated, one line an entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Prompt
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Completion, Json, Target, expect

Key = tuple[str, int]


class RecordedEngine:
    """Answers from recorded completions, one after the other; a prompt without one left gets no completion."""

    def __init__(self, completions: Mapping[Key, Sequence[Completion]]) -> None:
        self._left = {key: iter(steps) for key, steps in completions.items()}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        """Yield each prompt whose completion is recorded."""
        for prompt in prompts:
            completion = next(self._left.get(prompt.key, iter(())), None)
            if completion is not None:
                yield prompt, completion


def read_predictions(path: Path, text_format: TextFormat) -> dict[Key, list[Completion]]:
    """The completions of a JSONL file by the id of their entry and the number of the sample, 0 where a line has none.

    A line holds `id` and either `completion` (the model's text, with `truncated` if known) or
    `tool_calls` (`[{"name", "arguments"}]`, with `response` if any), which are put into the text
    format as a model would have written them.

    Raises:
        DataError: a line is no prediction, an id occurs twice with the same sample, or there is none.
    """
    completions: dict[Key, list[Completion]] = {}

    def add(raw: object) -> None:
        record = expect(raw, dict, "prediction")
        entry = expect(record.get("id"), str, "id")
        key = entry, expect(record.get("sample", 0), int, "sample")
        if key in completions:
            raise DataError(f"id {entry!r} occurs twice" + (f" with sample {key[1]}" if "sample" in record else ""))
        completions[key] = [read_completion(record, text_format)]

    for _ in read_records(path, add):
        pass
    if not completions:
        raise DataError(f"{path}: no predictions; each line must hold an id and a completion")
    return completions


def read_completion(record: Json, text_format: TextFormat) -> Completion:
    """The completion of one line; raise `DataError` when it has none or two, or none the format can express."""
    if ("completion" in record) == ("tool_calls" in record):
        raise DataError('a prediction needs either "completion" or "tool_calls"')
    if "tool_calls" in record:
        try:
            return Completion(text_format.render_target(Target.from_json(record)))
        except FormatError as error:
            raise DataError(str(error)) from error
    truncated = expect(record.get("truncated", False), bool, "truncated")
    return Completion(expect(record["completion"], str, "completion"), truncated)
