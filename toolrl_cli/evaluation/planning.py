"""What an evaluation needs before it begins: text format, manifest, entries, prompts, recorded predictions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from toolrl_cli.benches.base import Bench, Entry, ForeseesMetrics
from toolrl_cli.benches.registry import find_bench, owners
from toolrl_cli.benches.samples import pass_sizes
from toolrl_cli.benches.stats import Unit
from toolrl_cli.errors import ConfigError, DataError, UsageError, nearest
from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.base import Prompt
from toolrl_cli.inference.predictions import Key, RecordedEngine, read_predictions
from toolrl_cli.jsonl import dump_json, open_text, read_bytes
from toolrl_cli.manifest import FILE_NAME, Manifest, hash_file, read_manifest
from toolrl_cli.reading import find_files, is_hub
from toolrl_cli.records import Json
from toolrl_cli.training.text_format import choose_format


class Request(NamedTuple):
    """An entry and its rendered prompt."""

    entry: Entry
    prompt: Prompt


@dataclass(frozen=True)
class Ready:
    """An evaluation that can begin: its bench is open; `recorded` answers from predictions, where those are given."""

    config: EvalConfig
    manifest: Manifest
    text_format: TextFormat
    bench: Bench
    requests: Mapping[Key, Request]
    recorded: RecordedEngine | None
    notes: tuple[str, ...]

    def count_entries(self) -> dict[str, int]:
        """The number of entries in each category."""
        entries = {request.entry.id: request.entry for request in self.requests.values()}
        return dict(Counter(entry.category for entry in entries.values()))

    def foresee(self) -> dict[str, Unit] | None:
        """The unit of each metric and category that the summary will have; None of a bench that cannot tell."""
        if not isinstance(self.bench, ForeseesMetrics):
            return None
        categories = list(self.count_entries())
        several = pass_sizes(self.config.samples) if self.config.samples > 1 else []
        found = self.bench.foresee(categories) | dict.fromkeys(several, "share")
        return found | {category: "share" for category in categories if category not in found}

    def plan(self) -> Json:
        """What is going to be done, as JSON values: the engine, the entries by category, and the manifest."""
        counts = self.count_entries()
        return {
            "engine": name_engine(self.config),
            "entries": {"n": sum(counts.values()), "categories": counts},
            "notes": list(self.notes),
            **asdict(self.manifest),
        }


@contextmanager
def get_ready(config: EvalConfig) -> Iterator[Ready]:
    """Everything but the model, checked.

    Raises:
        ConfigError: an option is refused, or the model was trained on another prompt format.
        DataError: a file cannot be read.
        SetupError: the wheel is missing.
    """
    text_format = settle_format(config)
    content = None if config.predictions is None else read_bytes(config.predictions)
    manifest = describe_run(config, text_format, content)
    with find_bench(config.bench).open(config, text_format) as bench:
        entries = bench.entries()
        chosen = choose(entries, config)
        recorded: RecordedEngine | None = None
        notes = note_mismatch(config, text_format)
        if config.predictions is not None:
            turns, samples = {entry.id: entry.turns for entry in entries}, config.samples
            completions = read_predictions(
                config.predictions, text_format, turns=turns, samples=samples, content=content
            )
            recorded = RecordedEngine(completions)
            notes = describe_predictions(completions, list(turns), [entry.id for entry in chosen], samples)
        requests = [request for entry in chosen for request in ask(entry, text_format, config.samples)]
        by_key = {request.prompt.key: request for request in requests}
        yield Ready(config, manifest, text_format, bench, by_key, recorded, notes)


def settle_format(config: EvalConfig) -> TextFormat:
    """The text format of an evaluation, by default that of the model's training.

    Raises:
        ConfigError: the model was trained in another one.
    """
    text_format = choose_format(config.model, config.format, config.template)
    if config.tools == "native":
        text_format = ServedFormat(text_format)
    mismatch = find_mismatch(config, text_format)
    if mismatch is not None and not config.allow_mismatch:
        raise ConfigError(
            f"{mismatch}; "
            "leave out --format and --template, use the toolrl version of the training, or --allow-mismatch"
        )
    return text_format


def find_mismatch(config: EvalConfig, text_format: TextFormat) -> str | None:
    """That a model was trained in another prompt format than this, None when it was not or nothing tells."""
    folder = Path(config.model or "")
    if config.model is None or not (folder / FILE_NAME).is_file():
        return None
    trained = read_manifest(folder).hashes.get("format", text_format.digest)
    if trained == text_format.digest:
        return None
    return f"{folder}: trained with prompt format {trained}, evaluated with {text_format.digest}"


def note_mismatch(config: EvalConfig, text_format: TextFormat | None = None) -> tuple[str, ...]:
    """The note that a model sees another prompt than in its training, if it does; raise as `settle_format`."""
    mismatch = find_mismatch(config, text_format or settle_format(config))
    return () if mismatch is None else (f"another prompt than in training: {mismatch}",)


def describe_run(config: EvalConfig, text_format: TextFormat, predictions: bytes | None) -> Manifest:
    """The manifest of an evaluation in a text format; raise `ConfigError` or `DataError` for a reward or data."""
    kind = find_bench(config.bench)
    hashes = hash_graders(config, text_format)
    if config.data is not None:
        hashes |= hash_data(config.data)
    if predictions is not None:
        hashes["predictions"] = hashlib.sha256(predictions).hexdigest()[:16]
    left_out = {"output", "seed", "bfcl_wheel", "resume", "overwrite", "endpoint", "concurrency", "retries", "timeout"}
    left_out |= {field.name for field in fields(config) if owners(field.name) and field.name not in kind.options}
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k not in left_out}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return Manifest.create(
        "eval", values, seed=config.seed, format=text_format.name, hashes=hashes, parent=config.model or config.endpoint
    )


def hash_graders(config: EvalConfig, text_format: TextFormat) -> dict[str, str]:
    """The hashes of what turns a completion into a verdict: the text format, and what the bench brings along."""
    return {"format": text_format.digest, **find_bench(config.bench).hashes(config)}


def hash_data(path: Path) -> dict[str, str]:
    """The hash of a file, or of the files of a folder with their names; none of a data set on the Hub."""
    if is_hub(path):
        return {}
    if not path.is_dir():
        return {"data": hash_file(path)}
    files = [[str(file.relative_to(path)), hash_file(file)] for file in find_files([path])]
    return {"data": hashlib.sha256(dump_json(files).encode()).hexdigest()[:16]}


def source_of(config: EvalConfig) -> str:
    """The model's name, or the path of the predictions."""
    return config.model or config.served_model or str(config.predictions)


def read_ids(texts: Iterable[str]) -> tuple[str, ...]:
    """The ids of every text, which is a file or a pipe with one a line, or a list with commas between them.

    Raises:
        UsageError: a text holds none.
        DataError: a file is unreadable or not UTF-8.
    """
    found: dict[str, None] = {}
    for text in texts:
        path, ids = Path(text), text.split(",")
        if len(ids) == 1 and path.exists() and not path.is_dir():
            with open_text(path) as stream:
                ids = stream.read().splitlines()
        if not any(map(str.strip, ids)):
            raise UsageError(f"--ids {text}: no ids; give ids with commas between, or a file with one a line")
        found |= dict.fromkeys(id.strip() for id in ids if id.strip())
    return tuple(found)


def choose(entries: Sequence[Entry], config: EvalConfig) -> list[Entry]:
    """The entries that are evaluated; raise as `pick`."""
    return sample(pick(entries, config.ids, config.categories), config.limit, config.seed)


def pick(entries: Sequence[Entry], ids: Sequence[str], categories: Sequence[str] = ()) -> list[Entry]:
    """The entries with these ids in the given order, all when there are none.

    Raises:
        UsageError: an id belongs to no entry, or to none of the categories that were asked for.
    """
    by_id = {entry.id: entry for entry in entries}
    unknown = next((id for id in ids if id not in by_id), None)
    if unknown is not None and categories:
        raise UsageError(f"--ids: no entry of --category {', '.join(categories)} has the id {unknown!r}; leave one out")
    if unknown is not None:
        raise UsageError(f"--ids: no entry has the id {unknown!r}{nearest(unknown, by_id)}")
    chosen = set(ids or by_id)
    return [entry for entry in entries if entry.id in chosen]


def sample(entries: Sequence[Entry], limit: int | None, seed: int) -> list[Entry]:
    """About the same share of every category, at least one entry of each where the limit allows, in the given order.

    Samples of one seed nest: a smaller limit takes some of the entries of a larger one.
    """
    if limit is None or limit >= len(entries):
        return list(entries)
    groups: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        groups.setdefault(entry.category, []).append(position)
    ranked: list[tuple[float, int]] = []
    for category, positions in groups.items():
        shuffled = Random(f"{seed} {category}").sample(positions, len(positions))
        ranked += [(rank / len(positions), position) for rank, position in enumerate(shuffled)]
    return [entries[position] for position in sorted(position for _, position in sorted(ranked)[:limit])]


def ask(entry: Entry, text_format: TextFormat, samples: int) -> list[Request]:
    """The requests of an entry, one a sample; raise as `to_prompt`."""
    prompt = to_prompt(entry, text_format)
    numbers = range(samples) if samples > 1 else [None]
    return [Request(entry, replace(prompt, sample=number)) for number in numbers]


def to_prompt(entry: Entry, text_format: TextFormat) -> Prompt:
    """The rendered request of an entry.

    Raises:
        DataError: its tools or messages are not of OpenAI's form.
    """
    if entry.prompt is not None:
        return Prompt(entry.id, entry.prompt)
    try:
        messages, tools = text_format.render_prompt(entry.tools, entry.messages)
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{entry.id}: its tools or messages cannot be rendered ({error!r}); prepare it again"
        ) from error
    return Prompt(entry.id, tuple(messages), None if tools is None else tuple(tools))


def hash_prompt(prompt: Prompt) -> str:
    """What tells whether two evaluations asked the same."""
    given = prompt.messages if prompt.tools is None else [prompt.messages, prompt.tools]
    return hashlib.sha256(dump_json(given).encode()).hexdigest()[:16]


def describe_predictions(
    predictions: Collection[Key], entries: Collection[str], chosen: Sequence[str], samples: int
) -> tuple[str, ...]:
    """Notes on predictions that fit no sample of the bench's entries, and on samples of the chosen that lack one.

    Entries are given by id. A lone answer that is missing needs no note: the errors list it.
    """
    known = set(entries)
    others = [id for id, _ in predictions if id not in known]
    surplus = [(id, number) for id, number in predictions if id in known and number >= samples]
    missing = [(id, number) for id in chosen for number in range(samples) if (id, number) not in predictions]
    notes = []
    if others:
        notes.append(f"predictions of entries that are not evaluated here: {len(others)}, the first of {others[0]!r}")
    if surplus:
        id, number = surplus[0]
        notes.append(f"predictions of further samples, not used: {len(surplus)}, the first {number} of {id!r}")
    if missing and samples > 1:
        id, number = missing[0]
        notes.append(
            f"samples without a prediction, counted wrong: {len(missing)}, the first of {id!r}, sample {number}"
        )
    return tuple(notes)


def name_engine(config: EvalConfig) -> str:
    """Where completions come from."""
    if config.predictions is not None:
        return "predictions"
    return f"endpoint {config.endpoint}" if config.endpoint is not None else config.engine
