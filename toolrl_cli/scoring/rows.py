"""A piece of a JSONL file in, scored lines and their counts out."""

from __future__ import annotations

import hashlib
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats import FORMATS, stock_format
from toolrl_cli.jsonl import dump_json, explain_json_error, load_json
from toolrl_cli.records import Json, Rollout, Score, Target, expect, expect_each
from toolrl_cli.rewards import Reward
from toolrl_cli.rewards.schedules import LAST_STEP
from toolrl_cli.scoring.explain import explain_row
from toolrl_cli.scoring.tally import Tally

LAST_FIELD = re.compile(rb'(.*),\s*"score"\s*:\s*\Z', re.DOTALL)


@dataclass(frozen=True)
class Wanted:
    """What is to be made of the rows besides counts.

    `step` and `text_format` are those of rows that name none; a row may name no other format than a wanted one.
    """

    step: int = 0
    text_format: str | None = None
    lines: bool = False
    explanations: bool = False
    group_by: str | None = None
    totals_by_id: bool = False


class Row(NamedTuple):
    """A row that can be scored: where it stands, its text without a score, its fields, and what the reward looks at."""

    number: int
    line: bytes
    fields: Json
    rollout: Rollout
    group: bytes


@dataclass(slots=True)
class ScoredChunk:
    """What became of a piece of a file of `size` bytes; lines are numbered from 1 within it."""

    tally: Tally
    size: int
    line_count: int
    refused: list[tuple[int, str]] = field(default_factory=list)
    lines: bytes = b""
    explanations: list[tuple[int, list[str]]] = field(default_factory=list)
    groups: list[tuple[bytes, float, bool]] = field(default_factory=list)
    totals: list[tuple[str, float]] = field(default_factory=list)


def score_chunk(reward: Reward, wanted: Wanted, chunk: bytes) -> ScoredChunk:
    """Score the lines of a piece of a file.

    Raises:
        DataError: a user's reward function fails.
    """
    done = ScoredChunk(Tally(tuple(reward.weights)), len(chunk), chunk.count(b"\n"))
    rows = list(read_rows(chunk, wanted, lambda number, why: done.refused.append((number, why))))
    done.tally.malformed_rows = len(done.refused)
    scores = reward.score_batch([row.rollout for row in rows], explain=wanted.lines or wanted.explanations)
    for score in scores:
        done.tally.add(score)
    pairs = list(zip(rows, scores, strict=True))
    if wanted.lines:
        done.lines = b"".join(write_row(row.line, score) for row, score in pairs)
    if wanted.explanations:
        done.explanations = [(row.number, explain_row(row.fields, row.rollout, score)) for row, score in pairs]
    if wanted.group_by:
        done.groups = [(row.group, score.total, score.succeeds) for row, score in pairs]
    if wanted.totals_by_id:
        done.totals = [(str(row.fields["id"]), score.total) for row, score in pairs]
    return done


def read_rows(chunk: bytes, wanted: Wanted, refuse: Callable[[int, str], object]) -> Iterator[Row]:
    """The rows of a piece of a file that can be scored; the others go to `refuse` with their reason."""
    for number, line in enumerate(chunk.removeprefix(BOM_UTF8).split(b"\n"), start=1):
        line = line.strip()
        if not line:
            continue
        try:
            fields = decode_row(line)
            group = group_key(fields, wanted.group_by) if wanted.group_by else b""
            if wanted.totals_by_id:
                expect_field(fields, "id", "pair with the baseline")
            kept = without_score(line, fields) if wanted.lines else line
            yield Row(number, kept, fields, read_rollout(fields, wanted), group)
        except DataError as error:
            refuse(number, str(error))
        except RecursionError:
            refuse(number, "nested too deeply")


def decode_row(line: bytes) -> Json:
    """The object that a line holds; raise `DataError` when it holds none."""
    try:
        value = load_json(line)
    except ValueError as error:
        raise DataError(explain_json_error(error)) from error
    return expect(value, dict, "row")


def read_rollout(row: Json, wanted: Wanted) -> Rollout:
    """What a reward looks at in a row: the completion, its target (else the text `ground_truth`), and the rest.

    Raises:
        DataError: a field is missing or malformed.
    """
    if "completion" not in row:
        raise DataError('no "completion" field; each row needs the text that a model wrote')
    text = expect(row["completion"], str, "completion")
    truncated = expect(row.get("truncated") or False, bool, "truncated")
    tools = tuple(expect_each(row["tools"], dict, "tools")) if row.get("tools") else ()
    text_format = read_format(row, wanted.text_format)
    target, step = read_target(row, text_format), read_step(row, wanted.step)
    return Rollout(text, target, truncated, step, tools, text_format, row)


def read_format(row: Json, wanted: str | None) -> str:
    """The name of a row's text format: what it says, else the wanted one, else toolrl.

    Raises:
        DataError: it says another one than is wanted, or none that there is.
    """
    said = row.get("text_format")
    if said is None:
        return wanted or "toolrl"
    if not isinstance(said, str) or said not in FORMATS:
        raise DataError(f"text_format is {repr(said)[:40]}; must be one of {', '.join(FORMATS)}")
    if wanted not in (None, said):
        raise DataError(f"text_format is {said!r}, and --format says {wanted}; leave that out")
    return said


def read_target(row: Json, text_format: str) -> Target:
    """The gold of a row; raise `DataError` when it has none, or a malformed one."""
    if "target" in row:
        return Target.from_json(row["target"])
    if "ground_truth" not in row:
        raise DataError('no "target" and no "ground_truth" field; each row needs one of them to score against')
    try:
        return stock_format(text_format).parse_target(expect(row["ground_truth"], str, "ground_truth"))
    except FormatError as error:
        raise DataError(f"ground_truth: {error}") from error


def read_step(row: Json, default: int) -> int:
    """The training step of a row, the default where it has none."""
    step = row.get("step")
    if step is None:
        return default
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= LAST_STEP:
        raise DataError(f"step must be a whole number from 0 to 10^12, not {repr(step)[:40]}")
    return step


def write_row(line: bytes, score: Score) -> bytes:
    """A line that has no score with its `score` at the end."""
    record = score.to_json()
    try:
        text = msgspec.json.encode(record)
    except UnicodeEncodeError:  # a reason quotes half of a surrogate pair
        text = dump_json(record).encode()
    return line[:-1] + b', "score": ' + text + b"}\n"


def without_score(line: bytes, fields: Json) -> bytes:
    """A line without the `score` it may have: cut off where it stands last, else the other fields put together anew."""
    if "score" not in fields:
        return line
    try:
        raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return dump_json({name: value for name, value in fields.items() if name != "score"}).encode()
    before = LAST_FIELD.match(line.removesuffix(bytes(raw.pop("score")) + b"}"))
    return before[1] + b"}" if before else msgspec.json.encode(raw)


def group_key(row: Json, name: str) -> bytes:
    """What tells a row's group: 16 bytes that stand for the field's value.

    `prompt` falls back on `messages` and `id`, null being as good as none; rows of different training steps are
    different groups.
    """
    if name != "prompt":
        return digest(expect_field(row, name, "group by"))
    found = next((row[key] for key in ("prompt", "messages", "id") if row.get(key) is not None), None)
    if found is None:
        raise DataError('no "prompt" field to group by, nor "messages" or "id"')
    return digest([found, row.get("step")])


def expect_field(row: Json, name: str, purpose: str) -> Any:
    """The value of a field; raise `DataError` when the row has none."""
    if name not in row:
        raise DataError(f'no "{name}" field to {purpose}')
    return row[name]


def digest(value: object) -> bytes:
    """16 bytes that stand for a JSON value."""
    return hashlib.blake2b(dump_json(value).encode(), digest_size=16).digest()
