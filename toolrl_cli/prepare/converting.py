"""Rows to checked examples, or to the reason why not; the same in every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import Line, dump_json
from toolrl_cli.prepare.changing import change
from toolrl_cli.prepare.config import PrepareConfig
from toolrl_cli.prepare.summary import Reject, SourceCounts
from toolrl_cli.reading import Chunk
from toolrl_cli.records import JSON_NAMES, Example, Json
from toolrl_cli.sources.base import REPAIRS, RowError, Source
from toolrl_cli.sources.registry import recognise
from toolrl_cli.sources.repair import repair_calls
from toolrl_cli.sources.validation import check_calls, require_json, require_user


@dataclass(frozen=True, slots=True)
class Input:
    """A file whose source is known; `label` stands for it in ids and is unlike that of any other input."""

    path: Path
    label: str
    source: Source


@dataclass(slots=True)
class Converted:
    """What became of a chunk of rows: the examples with their ids as lines, the rejects, and the counts."""

    source: str
    size: int
    ids: list[str] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    counts: SourceCounts = field(default_factory=SourceCounts)
    changed: Counter[str] = field(default_factory=Counter)


Piece = tuple[int, Chunk]
"""Rows, and the place of their file among the inputs."""


def make_converter(inputs: list[Input], config: PrepareConfig) -> Callable[[Piece], Converted]:
    """The function that converts a piece of an input."""
    return lambda piece: convert_chunk(inputs[piece[0]], piece[1], config)


def convert_chunk(item: Input, chunk: Chunk, config: PrepareConfig) -> Converted:
    """Convert the rows of a chunk in their order, no more than the limit needs."""
    done = Converted(item.source.name, chunk.size)
    for line in chunk.lines():
        if config.enough is not None and len(done.lines) >= config.enough:
            break
        for result in convert_line(line, item, config.on_invalid):
            done.counts.rows += 1
            if isinstance(result, Reject):
                done.counts.rejected[result.kind] += 1
                done.rejects.append(result)
                continue
            done.counts.repaired.update(kinds_of(result, "repairs"))
            done.counts.flagged.update(kinds_of(result, "warnings"))
            for example in change(result, config.early_changes, config.seed, done.changed):
                done.counts.examples += 1
                done.ids.append(example.id)
                done.lines.append(dump_json(example.to_json()).encode() + b"\n")
    return done


def kinds_of(examples: list[Example], name: str) -> list[str]:
    """The kinds of the repairs or warnings in the `meta` of examples, each once an example."""
    return [kind for example in examples for kind in {str(note).split(":")[0] for note in notes_of(example, name)}]


def convert_line(line: Line, item: Input, on_invalid: str) -> Iterator[list[Example] | Reject]:
    """What becomes of each part of a row."""
    row_id = f"{item.source.name}-{item.label}-{line.number}"
    if line.error:
        kind, _, detail = line.error.partition("; ")
        yield reject(line, item, RowError(kind, detail), line.text)
        return
    try:
        parts = item.source.split(require_object(line.value))
    except (DataError, RecursionError) as error:
        yield reject(line, item, error, jsonable(line.value, line))
        return
    for number, part in enumerate(parts, start=1):
        part_id = row_id if len(parts) == 1 else f"{row_id}-{number}"
        yield convert_part(part, part_id, line, item, on_invalid)


def convert_part(part: Json, part_id: str, line: Line, item: Input, on_invalid: str) -> list[Example] | Reject:
    """The checked examples of a part of a row, or the reason it gives none: the one place where its error ends."""
    token = REPAIRS.set([] if on_invalid == "repair" else None)
    try:
        strict = item.source.strict and on_invalid != "keep"
        return [checked(example, strict=strict) for example in item.source.convert(part, part_id)]
    except (DataError, RecursionError) as error:
        return reject(line, item, error, jsonable(part, line))
    finally:
        REPAIRS.reset(token)


def checked(example: Example, *, strict: bool) -> Example:
    """An example with what was repaired in it, and what its calls still get wrong, in `meta`.

    Raises:
        RowError: it cannot be used, or `strict` and a call is wrong in a way not noted before.
    """
    require_json(example.to_json())
    require_user(example)
    repairs = REPAIRS.get()
    if repairs is not None and strict:
        example = repair_calls(example)
    findings = check_calls(example)
    known = notes_of(example, "warnings")
    fresh = [finding for finding in findings if str(finding) not in known]
    if strict and fresh:
        raise RowError(fresh[0].kind, "; ".join([fresh[0].detail, *map(str, fresh[1:])]))
    warnings = {"warnings": [*known, *map(str, fresh)]} if fresh else {}
    mended = {"repairs": [*notes_of(example, "repairs"), *repairs]} if repairs else {}
    return replace(example, meta={**example.meta, **warnings, **mended}) if warnings or mended else example


def notes_of(example: Example, name: str) -> list[Any]:
    """The notes under a name in the `meta` of an example, [] for none."""
    notes = example.meta.get(name, [])
    return notes if isinstance(notes, list) else [notes]


def reject(line: Line, item: Input, error: Exception, row: Any) -> Reject:
    """A part of a row with the reason it gives no example."""
    if isinstance(error, RowError):
        kind, reason = error.kind, str(error)
    elif isinstance(error, DataError):
        kind, reason = "wrong shape", f"wrong shape: {error}"
    else:
        kind = reason = "nested too deeply"
    if others := recognised_elsewhere(line.value, item.source):
        kind, reason = "wrong shape", f"wrong shape: looks like {others}; give the sources as separate files"
    return Reject(str(item.path), line.number, item.source.name, kind, reason, row)


def recognised_elsewhere(row: object, source: Source) -> str:
    """The sources that a row is of when it is not of this one, joined; else nothing."""
    names = [] if not isinstance(row, dict) or source.whole_file else recognise(row)
    return "" if {source.name, *source.covers} & set(names) else " or ".join(names)


def require_object(row: object) -> Json:
    """A row as the object it must be; raise `RowError` for anything else."""
    if not isinstance(row, dict):
        raise RowError("wrong shape", not_object(row))
    return row


def not_object(row: object) -> str:
    """What a row is that is no object."""
    return f"a row must be an object, not {JSON_NAMES.get(type(row), 'null')}"


def jsonable(value: object, line: Line) -> Any:
    """A rejected row, or a part of it, as it may stand in JSON: its value, else the text of its line."""
    try:
        require_json(value)
    except RecursionError:
        return line.text
    except RowError:
        return line.text or dump_json(value)
    return value
