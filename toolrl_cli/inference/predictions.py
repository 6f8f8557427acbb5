"""Recorded predictions as an engine: what another program generated, one line an entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Prompt
from toolrl_cli.jsonl import dump_json, read_records
from toolrl_cli.records import Completion, Json, Target, expect, expect_each

KINDS = 'either "completion" or "tool_calls", or else "turns" of them'

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


def read_predictions(
    path: Path,
    text_format: TextFormat,
    *,
    turns: Mapping[str, int] | None = None,
    samples: int = 1,
    content: bytes | None = None,
) -> dict[Key, list[Completion]]:
    """The completions of a JSONL file by the id of their entry and the number of the sample, 0 where a line has none.

    A line holds `id` and either `completion` (the model's text, with `truncated` if known) or
    `tool_calls` (`[{"name", "arguments"}]`, with `response` if any), which are put into the text
    format as a model would have written them; or, for a dialogue of several turns, `turns`: a list of
    turns, each a list of steps that hold one of the two.

    Args:
        path: the file, `-` for standard input.
        text_format: what calls are written in.
        turns: the most turns that the line of an id may have, 0 where `turns` are out of place.
        samples: how many samples of an entry are asked for; with several a line's must be one of them.
        content: what was read of a file that can be read only once.

    Raises:
        DataError: a line is no prediction, an id occurs twice with the same sample, or there is none.
    """
    completions: dict[Key, list[Completion]] = {}

    def add(raw: object) -> None:
        record = expect(raw, dict, "prediction")
        entry = expect(record.get("id"), str, "id")
        key = entry, read_sample(record, samples)
        most = (turns or {}).get(entry)
        if "turns" in record and most is not None:
            refuse_turns(record["turns"], most)
        if key in completions:
            raise DataError(f"id {entry!r} occurs twice" + (f" with sample {key[1]}" if "sample" in record else ""))
        completions[key] = read_steps(record, text_format)

    for _ in read_records(path, add, content):
        pass
    if not completions:
        raise DataError(f"{path}: no predictions; each line must hold an id and a completion")
    return completions


def read_sample(record: Json, samples: int) -> int:
    """The number of a line's sample; raise `DataError` when it counts none, or one too many of several."""
    sample = record.get("sample", 0)
    if type(sample) is not int or sample < 0:
        raise DataError(f"sample counts from 0; it cannot be {dump_json(sample)[:40]}")
    if samples > 1 and sample >= samples:
        raise DataError(f"sample {sample} counts from 0, and --samples is {samples}; give --samples {sample + 1}")
    return sample


def refuse_turns(turns: object, most: int) -> None:
    """Raise `DataError` when an entry has fewer turns than a line gives it, or ends with its first answer."""
    if not most:
        raise DataError('the entry ends with one answer; give "completion" or "tool_calls" instead of "turns"')
    if isinstance(turns, list) and len(turns) > most:
        raise DataError(f"turns holds {len(turns)}, and the dialogue has {most}")


def read_steps(record: Json, text_format: TextFormat) -> list[Completion]:
    """The completions of one line in their order; raise `DataError` as `read_completion` and `read_turn`."""
    if "turns" not in record:
        return [read_completion(record, text_format)]
    if "completion" in record or "tool_calls" in record:
        raise DataError(f"a prediction needs {KINDS}")
    turns = expect_each(record["turns"], list, "turns")
    return [step for i, turn in enumerate(turns) for step in read_turn(turn, f"turns[{i}]", text_format)]


def read_turn(steps: list[object], name: str, text_format: TextFormat) -> list[Completion]:
    """The completions of a turn, the last one without a call, as a model ends its turn; an empty one if none is given.

    Raises:
        DataError: a step is no prediction, or an earlier one has no call that can be read.
    """
    completions = [read_completion(step, text_format) for step in expect_each(steps, dict, name)]
    calling = [makes_call(completion, text_format) for completion in completions]
    if not all(calling[:-1]):
        raise DataError(
            f"{name}[{calling.index(False)}] has no readable call, which ends the turn; it must be the last"
        )
    return completions if completions and not calling[-1] else [*completions, Completion("")]


def makes_call(completion: Completion, text_format: TextFormat) -> bool:
    """Whether the completion holds calls, and all of them can be read."""
    try:
        calls = text_format.parse_tool_calls(completion.text)
    except FormatError:
        return False
    return bool(calls) and all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in calls)


def read_completion(record: Json, text_format: TextFormat) -> Completion:
    """The completion of one line; raise `DataError` when it has none or two, or none the format can express."""
    if ("completion" in record) == ("tool_calls" in record):
        raise DataError(f"a prediction needs {KINDS}")
    if "tool_calls" in record:
        if record["tool_calls"] is not None:
            expect(record["tool_calls"], list, "tool_calls")
        try:
            return Completion(text_format.render_target(Target.from_json(record)))
        except FormatError as error:
            raise DataError(str(error)) from error
    truncated = expect(record.get("truncated", False), bool, "truncated")
    return Completion(expect(record["completion"], str, "completion"), truncated)
