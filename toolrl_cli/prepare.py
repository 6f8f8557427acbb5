"""Files of tool-call rows to one file of examples: detect the source, convert, check, and lose no row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from toolrl_cli.console import track
from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.jsonl import (
    STDIO,
    Line,
    dump_json,
    is_stream,
    load_json,
    open_atomic,
    open_text,
    read_lines,
    write_records,
)
from toolrl_cli.records import JSON_NAMES, Example, Json
from toolrl_cli.sources.base import REPAIRS, RowError, Source
from toolrl_cli.sources.registry import detect_source, find_source, recognise
from toolrl_cli.sources.validation import check_calls, require_json, require_user

DATA_SUFFIXES = (".json", ".jsonl")
DETECTION_ROWS = 20
DETECTION_LINES = 1000
REJECT_FIELDS = {"path", "line", "source", "reason", "row"}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare` is told; `source` forces a source that would else be detected.

    `tools` is a catalogue of tools, for sources whose rows only name them.
    """

    inputs: tuple[Path, ...]
    output: Path
    source: str | None = None
    tools: Path | None = None
    on_invalid: Literal["reject", "keep", "repair"] = "reject"
    rejects: Path | None = None
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0
    overwrite: bool = False

    @property
    def rejects_path(self) -> Path | None:
        """Where rejects go: as told, else beside the output, nowhere when that is no file."""
        if self.rejects is not None or is_stream(self.output):
            return self.rejects
        return self.output.with_name(f"{self.output.stem}.rejects.jsonl")


@dataclass(frozen=True, slots=True)
class Input:
    """A file whose source is known; `label` stands for it in ids and is unlike that of any other input."""

    path: Path
    label: str
    source: Source
    lines: Iterable[Line]


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that gave no example, and why; `kind` is the reason without its details."""

    path: str
    line: int
    source: str
    kind: str
    reason: str
    row: Any

    def to_json(self) -> Json:
        """The record as JSON values; `row` is text where it could not be decoded."""
        return {
            "path": self.path,
            "line": self.line,
            "source": self.source,
            "reason": self.reason,
            "row": self.row,
        }


@dataclass(slots=True)
class SourceCounts:
    """What became of the rows of one source; `rejected` and `flagged` count by kind of reason."""

    rows: int = 0
    examples: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> Json:
        """The counts as JSON values, the most frequent reason first."""
        rejected = self.rejected.total()
        return {
            "rows": self.rows,
            "converted": self.rows - rejected,
            "examples": self.examples,
            "rejected": rejected,
            "reasons": dict(self.rejected.most_common()),
            "warnings": dict(self.flagged.most_common()),
        }


@dataclass(slots=True)
class Summary:
    """The counts of a run, filled while rows pass; every row read is converted or rejected."""

    output: str
    written: int = 0
    rejects: str | None = None
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    first_reject: Reject | None = None

    def add(self, source: str, result: list[Example] | Reject) -> None:
        """Count what became of one row."""
        counts = self.sources.setdefault(source, SourceCounts())
        counts.rows += 1
        if isinstance(result, Reject):
            counts.rejected[result.kind] += 1
            self.first_reject = self.first_reject or result
            return
        counts.examples += len(result)
        for example in result:
            counts.flagged.update({str(warning).split(":")[0] for warning in warnings_of(example)})

    def to_json(self) -> Json:
        """The totals and, below them, each source; `examples` are those written."""
        sources = {name: counts.to_json() for name, counts in self.sources.items()}
        totals = {name: sum(counts[name] for counts in sources.values()) for name in ("rows", "converted", "rejected")}
        return {**totals, "examples": self.written, "output": self.output, "rejects": self.rejects, "sources": sources}

    @property
    def rejected_line(self) -> str | None:
        """How many rows were rejected and where they are, None when none was."""
        totals = self.to_json()
        where = f", see {self.rejects}" if self.rejects else ""
        return f"{totals['rejected']} of {totals['rows']} rows rejected{where}" if totals["rejected"] else None

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for a terminal: what became of the rows of each source, and of all."""
        columns = ["rows", "converted", "rejected", "examples"]
        totals = self.to_json()
        counted = {**totals["sources"], "total": totals}
        return ["source", *columns], [[name, *(str(c[column]) for column in columns)] for name, c in counted.items()]

    def reason_lines(self) -> list[str]:
        """A line for each reason of rejects, and for each warning, with its count."""
        lines = []
        for name, counts in self.sources.items():
            lines += [f"{name}: {kind}  {count}" for kind, count in counts.rejected.most_common()]
            lines += [f"{name}: {kind} (kept, with a warning)  {count}" for kind, count in counts.flagged.most_common()]
        return lines


def prepare_examples(config: PrepareConfig) -> Summary:
    """Convert every row of the inputs and write the examples, the rejects beside them.

    Memory stays constant for JSONL, but for the ids; `shuffle` holds all examples, a JSON array all its rows.

    Raises:
        ConfigError: an output exists or is an input, an option is unknown, or outputs are the same file.
        DataError: an input is missing, empty or of no known source, or no row converts.
        SetupError: an output cannot be written.
    """
    refuse_outputs(config)
    inputs = open_inputs(config)
    summary = Summary(output=str(config.output))
    with open_rejects(config) as keep_reject:
        examples = arrange(convert_inputs(inputs, config, summary, keep_reject), config)
        summary.written = write_records(config.output, (e.to_json() for e in require_some(examples, summary)))
    path = config.rejects_path
    summary.rejects = str(path) if path and (path == STDIO or path.exists()) else None
    return summary


def plan(config: PrepareConfig) -> Json:
    """What a run would do: inputs with their sources, outputs and options; standard input is left unread.

    Raises:
        ConfigError, DataError: as `prepare_examples`, for what shows before the first row is converted.
    """
    refuse_outputs(config)
    files = open_inputs(replace(config, inputs=tuple(path for path in config.inputs if path != STDIO)))
    sources = {str(item.path): item.source.name for item in files}
    return {
        "inputs": {
            str(path): sources.get(str(path), config.source or "detected while reading") for path in config.inputs
        },
        "output": str(config.output),
        "rejects": str(config.rejects_path) if config.rejects_path else None,
        "on_invalid": config.on_invalid,
        "limit": config.limit,
        "shuffle": config.shuffle,
        "seed": config.seed,
    }


def refuse_outputs(config: PrepareConfig) -> None:
    """Raise `ConfigError` for an output that exists or is an input, two outputs in one file, or `-` read twice."""
    if config.inputs.count(STDIO) > 1:
        raise ConfigError("- given twice; standard input can be read only once")
    if config.rejects == config.output:
        raise ConfigError(f"{config.output}: examples and rejects cannot share a file; give --rejects another name")
    inputs = [path.resolve() for path in config.inputs if path != STDIO]
    for path in (config.output, config.rejects_path):
        if path is None or is_stream(path):
            continue
        if path.resolve() in inputs:
            raise ConfigError(f"{path}: is an input, and would be lost; choose another name")
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path}: exists; add --overwrite to replace it, or choose another name")


def open_inputs(config: PrepareConfig) -> list[Input]:
    """The inputs with their sources, so that a file at fault shows before any work is done."""
    forced = find_source(config.source) if config.source else None
    inputs: list[Input] = []
    taken: set[str] = set()
    for path in find_files(config.inputs):
        inputs.append(open_input(path, forced, config.tools, taken))
        taken.add(inputs[-1].label)
    return inputs


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files to read; a folder stands for all data files in it and below that are not empty, by name."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(file for file in path.rglob("*") if is_data(file))
        if not files:
            raise DataError(f"{path}: no data files in this folder ({', '.join(DATA_SUFFIXES)})")
        yield from files


def is_data(path: Path) -> bool:
    """Whether a path in a folder is a file of rows, by its name; an empty file holds none."""
    return path.suffix in DATA_SUFFIXES and path.is_file() and path.stat().st_size > 0


def open_input(path: Path, forced: Source | None, tools: Path | None, taken: set[str]) -> Input:
    """A file with its source, forced or detected by its first rows.

    Raises:
        DataError: it is missing, empty, or its source cannot be told.
    """
    lines = read_rows(path)
    head = list(read_head(lines))
    if not head:
        raise DataError(f"{path}: empty; expected one JSON row a line, or a JSON array of rows")
    stem = "stdin" if path == STDIO else path.stem
    names = chain([stem], (f"{stem}.{n}" for n in range(2, len(taken) + 3)))
    label = next(name for name in names if name not in taken)
    rest = chain(head, lines) if path == STDIO else read_rows(path)
    source = (forced or detect(path, head)).open(path, tools)
    return Input(path, label, source, [gather(rest)] if source.whole_file else rest)


def gather(lines: Iterable[Line]) -> Line:
    """All lines of a file as one row, or the first error among them."""
    values = []
    for line in lines:
        if line.error:
            return line
        values.append(line.value)
    return Line(1, {"lines": values})


def read_head(lines: Iterator[Line]) -> Iterator[Line]:
    """The first lines, until they hold enough rows to tell the source."""
    rows = 0
    for line in islice(lines, DETECTION_LINES):
        yield line
        rows += isinstance(line.value, dict)
        if rows == DETECTION_ROWS:
            return


def detect(path: Path, head: list[Line]) -> Source:
    """The source of a file by its first lines; raise `DataError` that names the evidence."""
    rows = [line.value for line in head if isinstance(line.value, dict)]
    if path.suffix.lower() == ".json" and head[0].error and holds_object(path):
        raise DataError(f"{path}: holds one JSON object; expected an array of rows, or one row a line")
    if rows and rows[0].keys() == REJECT_FIELDS:
        raise DataError(f"{path}: is a rejects file of prepare; leave it out")
    if not rows:
        raise DataError(f"{path}:{head[0].number}: {head[0].error or not_object(head[0].value)}")
    try:
        return detect_source(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def holds_object(path: Path) -> bool:
    """Whether a file as a whole is one JSON object."""
    with open_text(path) as stream, suppress(ValueError):
        return isinstance(load_json(stream.read()), dict)
    return False


def read_rows(path: Path) -> Iterator[Line]:
    """The rows of a JSONL file, or the elements of a JSON array in a file called `.json`, numbered from 1.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8, or its array is cut off.
    """
    if path.suffix.lower() != ".json" or not starts_array(path):
        yield from read_lines(path)
        return
    with open_text(path) as stream:
        try:
            elements = load_json(stream.read())
        except ValueError as error:
            raise DataError(f"{path}: not a JSON array ({error})") from error
    for number, value in enumerate(elements, start=1):
        yield Line(number, value)


def starts_array(path: Path) -> bool:
    """Whether the first character that is no space opens an array."""
    with open_text(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    return first.lstrip().startswith("[")


def convert_inputs(
    inputs: Iterable[Input], config: PrepareConfig, summary: Summary, keep_reject: Callable[[Reject], None]
) -> Iterator[Example]:
    """The examples of all rows in their order, each with an id of its own; rejects go aside."""
    used: Counter[str] = Counter()
    for item in inputs:
        for line in track(item.lines, f"prepare {item.path.name}"):
            for result in convert_line(line, item, config.on_invalid):
                summary.add(item.source.name, result)
                if isinstance(result, Reject):
                    keep_reject(result)
                    continue
                for example in result:
                    yield replace(example, id=unique_id(example.id, used))


def unique_id(wanted: str, used: Counter[str]) -> str:
    """An id not used before: rows that bring their own may repeat one, and get `.2`, `.3` behind it."""
    name = wanted
    while name in used:
        used[wanted] += 1
        name = f"{wanted}.{used[wanted]}"
    used[name] += 1
    return name


def convert_line(line: Line, item: Input, on_invalid: str) -> Iterator[list[Example] | Reject]:
    """What becomes of each part of a row."""
    row_id = f"{item.source.name}-{item.label}-{line.number}"
    if line.error:
        kind, _, detail = line.error.partition("; ")
        yield reject(line, item, RowError(kind, detail), row_or_text(line))
        return
    try:
        parts = item.source.split(require_object(line.value))
    except (DataError, RecursionError) as error:
        yield reject(line, item, error, row_or_text(line))
        return
    for number, part in enumerate(parts, start=1):
        part_id = row_id if len(parts) == 1 else f"{row_id}-{number}"
        yield convert_part(part, part_id, line, item, on_invalid)


def convert_part(part: Json, part_id: str, line: Line, item: Input, on_invalid: str) -> list[Example] | Reject:
    """The checked examples of a part of a row, or the reason it gives none: the one place where its error ends."""
    repairs: list[str] | None = [] if on_invalid == "repair" else None
    token = REPAIRS.set(repairs)
    try:
        examples = item.source.convert(part, part_id)
        strict = item.source.strict and on_invalid != "keep"
        return [checked(with_repairs(example, repairs), strict=strict) for example in examples]
    except (DataError, RecursionError) as error:
        return reject(line, item, error, row_or_text(line) if part is line.value else jsonable(part))
    finally:
        REPAIRS.reset(token)


def with_repairs(example: Example, repairs: list[str] | None) -> Example:
    """An example that tells in `meta.repairs` what was repaired in its row."""
    return replace(example, meta={**example.meta, "repairs": list(repairs)}) if repairs else example


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


def checked(example: Example, *, strict: bool) -> Example:
    """An example with what its calls get wrong in `meta.warnings`.

    Raises:
        RowError: it cannot be used, or `strict` and a call is wrong in a way not noted before.
    """
    require_json(example.to_json())
    require_user(example)
    findings = check_calls(example)
    known = warnings_of(example)
    fresh = [finding for finding in findings if str(finding) not in known]
    if strict and fresh:
        raise RowError(fresh[0].kind, "; ".join([fresh[0].detail, *map(str, fresh[1:])]))
    if not fresh:
        return example
    return replace(example, meta={**example.meta, "warnings": [*known, *map(str, fresh)]})


def warnings_of(example: Example) -> list[Any]:
    """The warnings noted in an example, [] for none."""
    warnings = example.meta.get("warnings", [])
    return warnings if isinstance(warnings, list) else [warnings]


def not_object(row: object) -> str:
    """What a row is that is no object."""
    return f"a row must be an object, not {JSON_NAMES.get(type(row), 'null')}"


def row_or_text(line: Line) -> Any:
    """A rejected row as it may stand in JSON: its value, else its text."""
    if line.error:
        return line.text
    return jsonable(line.value, line.text)


def jsonable(value: object, text: str | None = None) -> Any:
    """A value as it may stand in JSON: itself, else its text."""
    try:
        require_json(value)
    except RecursionError:
        return text
    except RowError:
        return text or dump_json(value)
    return value


def arrange(examples: Iterator[Example], config: PrepareConfig) -> Iterator[Example]:
    """The examples in the order and number asked for; with a limit and no shuffle, reading stops there."""
    if config.shuffle:
        held = list(examples)
        random.Random(config.seed).shuffle(held)
        examples = iter(held)
    return islice(examples, config.limit)


def require_some(examples: Iterator[Example], summary: Summary) -> Iterator[Example]:
    """Pass the examples on; raise `DataError` with the first reason when there are none."""
    first = next(examples, None)
    if first is None:
        reject = summary.first_reject
        where = f"; first {reject.path}:{reject.line}: {reject.reason}" if reject else ""
        raise DataError(f"{summary.output}: not written, no row could be converted{where}")
    yield first
    yield from examples


@contextmanager
def open_rejects(config: PrepareConfig) -> Iterator[Callable[[Reject], None]]:
    """A place for rejects; a file that nobody named appears only when there are any."""
    path = config.rejects_path
    streams: list[IO[str]] = []
    with ExitStack() as stack:

        def keep(reject: Reject) -> None:
            if path and not streams:
                streams.append(stack.enter_context(open_atomic(path)))
            for stream in streams:
                stream.write(dump_json(reject.to_json()) + "\n")

        if config.rejects:
            streams.append(stack.enter_context(open_atomic(config.rejects)))
        yield keep
    if path and path.is_file() and not streams:
        path.unlink()
