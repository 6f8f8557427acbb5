"""Files of tool-call rows to one file of examples: detect the source, convert, check, choose, and lose no row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from toolrl_cli.console import row_progress
from toolrl_cli.errors import ConfigError, DataError, SetupError, UsageError
from toolrl_cli.jsonl import STDIO, dump_json, is_stream, load_json, open_atomic
from toolrl_cli.parallel import map_in_order
from toolrl_cli.prepare.config import PrepareConfig
from toolrl_cli.prepare.converting import Converted, make_converter
from toolrl_cli.prepare.inputs import OpenInput, open_inputs, pieces_of
from toolrl_cli.prepare.spool import Spool
from toolrl_cli.prepare.summary import Summary
from toolrl_cli.reading import COMPRESSED, is_hub
from toolrl_cli.records import Json


def prepare_examples(config: PrepareConfig) -> Summary:
    """Convert every row of the inputs, and write the examples that are chosen, the rejects beside them.

    Memory is constant but for the ids of rows that bring their own, and for what `config.choice` asks for.

    Raises:
        ConfigError: an output exists or is an input, an option is unknown, or outputs are the same file.
        DataError: an input is missing, empty, cut off or of no known source, or no row converts.
        SetupError: an output cannot be written, a library is missing, or a worker died.
    """
    check_options(config)
    inputs = open_inputs(config)
    summary = Summary(output=str(config.output))
    start = time.perf_counter()
    if is_stream(config.output) and config.choice.takes_all:
        stream_examples(inputs, config, summary)
    else:
        with TemporaryDirectory() as temporary:
            spooled = Path(temporary) / "examples.jsonl" if is_stream(config.output) else config.output
            spool_examples(inputs, config, summary, Spool(spooled, plan_of(inputs, config), summary))
    summary.seconds = time.perf_counter() - start
    return summary


def plan(config: PrepareConfig) -> Json:
    """What a run would do: inputs with their sources, outputs and options; standard input is left unread.

    Raises:
        ConfigError, DataError: as `prepare_examples`, for what shows before the first row is converted.
    """
    check_options(config)
    files = open_inputs(replace(config, inputs=tuple(path for path in config.inputs if path != STDIO)))
    sources = {str(opened.item.path): opened.item.source.name for opened in files}
    unread = {str(path): config.source or "detected while reading" for path in config.inputs if path == STDIO}
    return {
        "inputs": sources | unread,
        "output": str(config.output),
        "rejects": str(config.rejects_path) if config.rejects_path else None,
        "splits": {name: str(path) for name, path in config.split_paths.items()},
        "on_invalid": config.on_invalid,
        "changes": asdict(config.changes),
        "choice": spell_paths(asdict(config.choice)),
        "limit": config.limit,
        "seed": config.seed,
    }


def spell_paths(options: Json) -> Json:
    """Options with their paths as text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def check_options(config: PrepareConfig) -> None:
    """Refuse what shows before a row is read.

    Raises:
        ConfigError: an output exists, is an input or no JSONL, or two are one file; `-` is read twice; an option
            lacks another that it needs.
        DataError: a file to choose by is missing.
    """
    refuse_outputs(config)
    choice = config.choice
    if choice.max_prompt_tokens and not choice.tokenizer:
        raise UsageError("--max-prompt-tokens needs --tokenizer, the model whose tokens count")
    for path in files_to_choose_by(config):
        if not is_hub(path) and not path.exists():
            raise DataError(f"{path}: no such file")


def files_to_choose_by(config: PrepareConfig) -> list[Path]:
    """The benchmarks and scored rows that the choice reads."""
    files = [config.choice.keep_learnable] if config.choice.keep_learnable else []
    if config.choice.decontaminate:
        from toolrl_cli.prepare.contamination import BENCHMARKS

        files += [Path(name) for name in config.choice.decontaminate if name not in BENCHMARKS]
    return files


def refuse_outputs(config: PrepareConfig) -> None:
    """Raise `ConfigError` for an output that exists, is an input or no JSONL, two in one file, or `-` read twice."""
    if config.inputs.count(STDIO) > 1:
        raise UsageError("- given twice; standard input can be read only once")
    if config.resume and (STDIO in config.inputs or is_stream(config.output)):
        raise UsageError("--resume needs files: standard input and output cannot be taken up again")
    if config.choice.split and is_stream(config.output):
        raise UsageError("--split needs an output file; the splits are written beside it")
    if config.hub_split and not any(is_hub(path) for path in config.inputs):
        name = config.hub_split
        raise UsageError(f"--split {name}: no input is an hf:// set; to write a split give its share, as in {name}=0.1")
    if config.rejects == config.output:
        raise UsageError(f"{config.output}: examples and rejects cannot share a file; give --rejects another name")
    inputs = [path.resolve() for path in config.inputs if path != STDIO]
    for path in config.outputs:
        if is_stream(path):
            continue
        if path.suffix.lower() in (*COMPRESSED, ".parquet", ".csv"):
            how = "name it .jsonl, or pipe -o - through a program such as gzip"
            raise UsageError(f"{path}: what is written is plain JSONL; {how}")
        if path.resolve() in inputs:
            raise UsageError(f"{path}: is an input, and would be lost; choose another name")
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path}: exists; add --overwrite to replace it, or choose another name")


def plan_of(inputs: list[OpenInput], config: PrepareConfig) -> Json:
    """All that the outputs depend on, so that only the same run is resumed."""
    paths = [*(opened.item.path for opened in inputs), *([config.tools] if config.tools else [])]
    files = [(path, path.stat()) for path in paths if path != STDIO and not is_hub(path)]
    return {
        "inputs": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files] + list(map(str, config.inputs)),
        "sources": [opened.item.source.name for opened in inputs],
        "options": [config.hub_split, config.on_invalid, config.seed, config.limit],
        "changes": asdict(config.changes),
        "choice": spell_paths(asdict(config.choice)),
    }


def convert_inputs(
    inputs: list[OpenInput], config: PrepareConfig, summary: Summary, skip: int = 0, used: Counter[str] | None = None
) -> Iterator[Converted]:
    """What became of each piece, in order, counted in the summary, ids made unique; the first `skip` are left out."""
    items = [opened.item for opened in inputs]
    own_ids = any(item.source.keeps_ids for item in items)
    used = Counter() if used is None else used
    sizes = [item.path.stat().st_size for item in items if item.path.is_file()]
    pieces = islice(pieces_of(inputs), skip, None)
    with row_progress("prepare", sum(sizes) or None) as advance:
        for done in map_in_order(make_converter, (items, config), pieces, config.workers):
            counts = summary.of(done.source)
            counts.add(done.counts)
            summary.changed += done.changed
            if own_ids:
                make_unique(done, used)
            advance(done.size, done.counts.rows)
            yield done


def make_unique(done: Converted, used: Counter[str]) -> None:
    """Give examples whose id was used before another one: rows that bring their own may repeat it."""
    for place, wanted in enumerate(done.ids):
        name = wanted
        while name in used:
            used[wanted] += 1
            name = f"{wanted}.{used[wanted]}"
        used[name] += 1
        if name != wanted:
            done.lines[place] = dump_json({**load_json(done.lines[place]), "id": name}).encode() + b"\n"


def stream_examples(inputs: list[OpenInput], config: PrepareConfig, summary: Summary) -> None:
    """Write the examples to a stream as they come."""
    first_reject = None
    with open_atomic(config.output) as stream, open_rejects(config) as keep_rejects:
        for done in convert_inputs(inputs, config, summary):
            first_reject = first_reject or next(iter(done.rejects), None)
            lines = done.lines[: None if config.limit is None else config.limit - summary.written]
            stream.buffer.writelines(lines)  # type: ignore[attr-defined]
            stream.buffer.flush()  # type: ignore[attr-defined]
            keep_rejects(done)
            summary.written += len(lines)
            if summary.written == config.limit:
                break
    if not summary.written:
        raise nothing_converted(config, first_reject.to_json() if first_reject else None)
    note_limit(config, summary)
    summary.rejects = str(config.rejects) if config.rejects else None


@contextmanager
def open_rejects(config: PrepareConfig) -> Iterator[Callable[[Converted], None]]:
    """A place for rejects, if one was named."""
    with ExitStack() as stack:
        stream = stack.enter_context(open_atomic(config.rejects)) if config.rejects else None

        def keep(done: Converted) -> None:
            if stream:
                stream.writelines(dump_json(reject.to_json()) + "\n" for reject in done.rejects)

        yield keep


def spool_examples(inputs: list[OpenInput], config: PrepareConfig, summary: Summary, spool: Spool) -> None:
    """Convert into the spool, which an interrupted run leaves to be resumed, then write what is chosen of it."""
    if config.resume:
        spool.resume()
    try:
        with spool:
            fill(spool, inputs, config, summary)
        finish(spool, config, summary)
    except (ConfigError, DataError):
        spool.remove()
        raise
    except SetupError:  # such as a worker that died: what is done can be resumed
        if not spool.pieces:
            spool.remove()
        raise
    spool.remove()


def fill(spool: Spool, inputs: list[OpenInput], config: PrepareConfig, summary: Summary) -> None:
    """Convert what the spool does not hold yet."""
    limit = config.enough
    used = Counter(load_json(line)["id"] for line in spool.lines()) if spool.pieces else Counter()
    if limit is not None and sum(counts.examples for counts in summary.sources.values()) >= limit:
        return
    for done in convert_inputs(inputs, config, summary, spool.pieces, used):
        spool.append(done)
        if limit is not None and sum(counts.examples for counts in summary.sources.values()) >= limit:
            return


def finish(spool: Spool, config: PrepareConfig, summary: Summary) -> None:
    """Write examples and rejects where they belong."""
    from toolrl_cli.prepare.choosing import write_choice

    if not spool.examples.stat().st_size:
        if config.rejects:
            publish_lines(spool.rejects, config.rejects)
        with spool.rejects.open("rb") as stream:
            raise nothing_converted(config, load_json(stream.readline() or b"null"))
    if config.choice.takes_all:
        summary.written = publish_lines(spool.examples, config.output, config.limit)
        note_limit(config, summary)
    else:
        write_choice(spool.examples, config, summary)
    rejected = spool.rejects.stat().st_size > 0
    path = config.rejects_path
    if path and (rejected or config.rejects):
        publish_lines(spool.rejects, path)
        summary.rejects = str(path)
    elif path:
        path.unlink(missing_ok=True)


def publish_lines(made: Path, path: Path, limit: int | None = None) -> int:
    """Write the lines of a file, up to a limit, to a path; their number."""
    count = 0
    with made.open("rb") as lines, open_atomic(path) as stream:
        for line in islice(lines, limit):
            stream.buffer.write(line)  # type: ignore[attr-defined]
            count += 1
    return count


def note_limit(config: PrepareConfig, summary: Summary) -> None:
    """Count the examples of rows that were read with the last piece and are over the limit."""
    over = sum(counts.examples for counts in summary.sources.values()) - summary.written
    if over and config.limit is not None:
        summary.dropped["over the limit"] += over


def nothing_converted(config: PrepareConfig, reject: Json | None) -> DataError:
    """The error for inputs that gave no example, with the first reason."""
    where = f"; first {reject['path']}:{reject['line']}: {reject['reason']}" if reject else ""
    return DataError(f"{config.output}: not written, no row could be converted{where}")
