"""Evaluation: entries of a benchmark, completions of an engine, graded results on disk, one summary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from toolrl_cli.benches.base import Answer, Bench, Entry, Result, Turn, as_missing, read_answer
from toolrl_cli.benches.bfcl.bench import open_bfcl
from toolrl_cli.benches.bfcl.editions import EDITIONS
from toolrl_cli.benches.examples import ExamplesBench
from toolrl_cli.benches.stats import Interval, wilson
from toolrl_cli.errors import ConfigError, DataError, FormatError, nearest
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Engine, Prompt
from toolrl_cli.inference.predictions import RecordedEngine, read_predictions
from toolrl_cli.jsonl import RecordLog, drop_partial_line, dump_json, read_records, write_json
from toolrl_cli.manifest import FILE_NAME, Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.records import Completion, Json
from toolrl_cli.rewards import find_reward, require_readable
from toolrl_cli.training.config import FormatName
from toolrl_cli.training.text_format import choose_format

BENCHES = (*EDITIONS, "examples")
RESULTS, SUMMARY = "results.jsonl", "summary.json"
Progress = Callable[[int, int], None]


class Request(NamedTuple):
    """An entry and its rendered prompt."""

    entry: Entry
    prompt: Prompt


class Table(NamedTuple):
    """A table of texts, as `console.print_table` takes it."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, on what, and where the results go.

    Either `model` (a name, a folder or a run of toolrl) or `predictions` (a JSONL file) is the
    source of completions; `data` and `reward` belong to the examples bench, `categories` and
    `bfcl_wheel` to bfcl and bfcl-v3. Without a `format` it is that of the model's training, else toolrl, which
    `template`, a Jinja file, words. `max_new_tokens` is the longest completion in tokens, `limit` the number
    of entries, of those with `ids` if any are given.

    Raises:
        ConfigError: the values contradict each other.
    """

    bench: str
    output: Path
    model: str | None = None
    predictions: Path | None = None
    data: Path | None = None
    reward: str = "fine-grained"
    categories: tuple[str, ...] = ()
    bfcl_wheel: Path | None = None
    ids: tuple[str, ...] = ()
    limit: int | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    format: FormatName | None = None
    template: Path | None = None
    seed: int = 0
    allow_mismatch: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.bench not in BENCHES:
            raise ConfigError(f"unknown bench {self.bench!r}; choose from {', '.join(BENCHES)}")
        if (self.model is None) == (self.predictions is None):
            raise ConfigError("completions need one source; give either --model or --predictions")
        if (self.data is None) == (self.bench == "examples"):
            raise ConfigError("--data FILE is what --bench examples evaluates on; give the two together")
        if self.bench in EDITIONS:
            EDITIONS[self.bench].choose_categories(self.categories)
        elif self.categories or self.bfcl_wheel:
            raise ConfigError("--category and --bfcl-wheel belong to --bench bfcl and bfcl-v3; leave them out")


@dataclass(frozen=True)
class Tally:
    """The results of one category; every entry counts in `n`, also one that got no completion."""

    n: int
    correct: int
    accuracy: Interval
    parse_failures: int
    truncated: int
    no_prediction: int


@dataclass(frozen=True)
class Summary:
    """What an evaluation found; all shares lie between 0 and 1 and carry 95% intervals."""

    bench: str
    source: str
    n: int
    metrics: Mapping[str, Interval]
    categories: Mapping[str, Tally]
    outcomes: Mapping[str, int]
    official: Json | None
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """The record as JSON values."""
        return asdict(self)


def evaluate(config: EvalConfig, *, engine: Engine | None = None, progress: Progress | None = None) -> Summary:
    """Run a benchmark and write manifest.json, results.jsonl and summary.json.

    Args:
        config: what to evaluate.
        engine: where completions come from; built from the configuration when None.
        progress: called with the number of graded entries and of all entries.

    Raises:
        ConfigError: the output exists, a resumed run differs, or the model was trained on another prompt format.
        DataError: a file cannot be read.
        SetupError: the model, the wheel or the training extra is missing.
    """
    text_format = settle_format(config)
    manifest = describe_run(config, text_format)
    with open_bench(config, text_format) as bench:
        entries = bench.entries()
        notes: tuple[str, ...] = ()
        if config.predictions is not None:
            completions = read_predictions(config.predictions, text_format)
            notes = describe_unknown(completions, entries)
            engine = RecordedEngine(completions)
        chosen = sample(pick(entries, config.ids), config.limit, config.seed)
        requests = {entry.id: Request(entry, to_prompt(entry, text_format)) for entry in chosen}
        check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
        done = read_results(config.output / RESULTS) if config.resume else {}
        pending = {id: request for id, request in requests.items() if id not in done}
        if pending:
            # The model loads before the folder is made, so that a wrong name leaves nothing behind.
            engine = engine or load_engine(config)
            open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
            for result in run(bench, pending, engine, text_format, config.output / RESULTS):
                done[result.id] = result
                if progress is not None:
                    progress(len(done), len(requests))
        summary = summarize(bench, [done[id] for id in requests], source_of(config), config.seed, notes)
    write_json(config.output / SUMMARY, summary.to_json())
    replace(manifest, finished=True).write(config.output)
    return summary


def plan(config: EvalConfig) -> Manifest:
    """The manifest of an evaluation: its resolved configuration and the hashes of its inputs; runs nothing.

    Raises:
        ConfigError: the model was trained on another prompt format, or the reward is unknown.
        DataError: a file is missing.
    """
    return describe_run(config, settle_format(config))


def describe_run(config: EvalConfig, text_format: TextFormat) -> Manifest:
    """The manifest of an evaluation in a text format; raise as `plan`."""
    hashes = {"format": text_format.digest}
    left_out = {"output", "seed", "bfcl_wheel", "resume", "overwrite"}
    if config.bench in EDITIONS:
        hashes["bfcl_wheel"] = EDITIONS[config.bench].wheel.sha256
        left_out |= {"data", "reward"}
    if config.data is not None:
        hashes |= {"data": hash_file(config.data), "reward": find_reward(config.reward).digest}
    if config.predictions is not None:
        hashes["predictions"] = hash_file(config.predictions)
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k not in left_out}
    values |= {"categories": list(config.categories), "ids": list(config.ids)}
    return Manifest.create(
        "eval", values, seed=config.seed, format=text_format.name, hashes=hashes, parent=config.model
    )


def settle_format(config: EvalConfig) -> TextFormat:
    """The text format of an evaluation, by default that of the model's training.

    Raises:
        ConfigError: the model was trained in another one, or rewards do not read it.
    """
    text_format = choose_format(config.model, config.format, config.template)
    if config.data is not None:
        require_readable(text_format)
    folder = Path(config.model or "")
    if config.model is None or not (folder / FILE_NAME).is_file():
        return text_format
    trained = read_manifest(folder).hashes.get("format", text_format.digest)
    if trained != text_format.digest and not config.allow_mismatch:
        raise ConfigError(
            f"{folder}: trained with prompt format {trained}, evaluated with {text_format.digest}; "
            "leave out --format and --template, use the toolrl version of the training, or --allow-mismatch"
        )
    return text_format


@contextmanager
def open_bench(config: EvalConfig, text_format: TextFormat) -> Iterator[Bench]:
    """The bench of the configuration, ready for use inside the block."""
    if config.data is not None:
        yield ExamplesBench(config.data, find_reward(config.reward), text_format)
    else:
        with open_bfcl(config.bfcl_wheel, config.categories, EDITIONS[config.bench]) as bench:
            yield bench


def load_engine(config: EvalConfig) -> Engine:
    """The local model of the configuration; here the training extra is needed first."""
    from toolrl_cli.inference.transformers_engine import TransformersEngine
    from toolrl_cli.training.models import load_for_inference

    model, tokenizer = load_for_inference(source_of(config))
    return TransformersEngine(model, tokenizer, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)


def source_of(config: EvalConfig) -> str:
    """The model's name, or the path of the predictions."""
    return config.model or str(config.predictions)


def describe_unknown(completions: Mapping[str, object], entries: Sequence[Entry]) -> tuple[str, ...]:
    """A note on predictions that belong to no entry, none when all do."""
    unknown = sorted(completions.keys() - {entry.id for entry in entries})
    if not unknown:
        return ()
    shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    return (f"{len(unknown)} predictions belong to no entry: {shown}",)


def read_ids(text: str) -> tuple[str, ...]:
    """The ids of a file, one a line, or of a list with commas between them.

    Raises:
        ConfigError: there are none.
    """
    path = Path(text)
    listed = path.read_text("utf-8").splitlines() if "," not in text and path.is_file() else text.split(",")
    ids = tuple(dict.fromkeys(id.strip() for id in listed if id.strip()))
    if not ids:
        raise ConfigError(f"--ids {text}: no ids; give ids with commas between, or a file with one a line")
    return ids


def pick(entries: Sequence[Entry], ids: Sequence[str]) -> list[Entry]:
    """The entries with these ids in the given order, all when there are none.

    Raises:
        ConfigError: an id belongs to no entry.
    """
    known = {entry.id for entry in entries}
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise ConfigError(f"--ids: no entry has the id {unknown[0]!r}{nearest(unknown[0], known)}")
    return [entry for entry in entries if not ids or entry.id in set(ids)]


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


def to_prompt(entry: Entry, text_format: TextFormat) -> Prompt:
    """The rendered request of an entry.

    Raises:
        DataError: its tools or messages are not of OpenAI's form.
    """
    try:
        messages, tools = text_format.render_prompt(entry.tools, entry.messages)
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{entry.id}: its tools or messages cannot be rendered ({error!r}); prepare it again"
        ) from error
    return Prompt(entry.id, tuple(messages), None if tools is None else tuple(tools))


def run(
    bench: Bench, pending: Mapping[str, Request], engine: Engine, text_format: TextFormat, path: Path
) -> Iterator[Result]:
    """Generate, follow and grade; a result is on disk before it is yielded."""
    dialogues = {id: Dialogue(request, request.entry) for id, request in pending.items()}
    prompts = [request.prompt for request in pending.values()]
    with RecordLog(path) as log:
        while prompts:
            following: list[Prompt] = []
            for prompt, completion in complete(prompts, engine):
                dialogue = dialogues[prompt.id] = dialogues[prompt.id].answered(completion, text_format)
                turn = None if completion is None else bench.follow(dialogue.request.entry, dialogue.answers)
                if turn is not None:
                    dialogue = dialogues[prompt.id] = dialogue.continued(turn, text_format)
                    following.append(to_prompt(dialogue.now, text_format))
                    continue
                result = grade(bench, dialogues.pop(prompt.id), missing=completion is None)
                log.append(result.to_json())
                yield result
            prompts = following


def read_results(path: Path) -> dict[str, Result]:
    """The results of an interrupted run by id; a line that was cut off is removed."""
    drop_partial_line(path)
    return {result.id: result for result in read_records(path, Result.from_json)} if path.exists() else {}


def complete(prompts: Sequence[Prompt], engine: Engine) -> Iterator[tuple[Prompt, Completion | None]]:
    """Every prompt once: with its completion as the engine yields it, at the end those without one."""
    waiting = {prompt.id: prompt for prompt in prompts}
    for prompt, completion in engine.generate(prompts):
        del waiting[prompt.id]
        yield prompt, completion
    for prompt in waiting.values():
        yield prompt, None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An entry on its way: the answers so far, and in `now` its tools and messages as they stand."""

    request: Request
    now: Entry
    answers: tuple[Answer, ...] = ()

    def answered(self, completion: Completion | None, text_format: TextFormat) -> Dialogue:
        """With one answer more; none counts as an empty one."""
        answer = read_answer(text_format, completion or Completion(""))
        return replace(self, answers=(*self.answers, answer))

    def continued(self, turn: Turn, text_format: TextFormat) -> Dialogue:
        """With the last answer and what follows it as messages."""
        messages = (*self.now.messages, answer_message(self.answers[-1], text_format), *turn.messages)
        tools = self.now.tools if turn.tools is None else turn.tools
        return replace(self, now=replace(self.now, messages=messages, tools=tools))


def answer_message(answer: Answer, text_format: TextFormat) -> Json:
    """An answer as a message of the history; text in no known format is content as a whole."""
    try:
        target = text_format.parse_target(answer.completion.text)
    except FormatError:
        message: Json = {"role": "assistant", "content": None if answer.calls else answer.completion.text}
        calls = answer.calls
    else:
        thought = {} if target.thought is None else {"reasoning_content": target.thought}
        message, calls = {"role": "assistant", "content": target.response, **thought}, target.tool_calls
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call.to_json()} for call in calls]
    return message


def grade(bench: Bench, dialogue: Dialogue, *, missing: bool) -> Result:
    """The graded result of an entry; one that lacks a completion is wrong, and scored as if that were empty."""
    request, answers = dialogue.request, dialogue.answers
    verdict = bench.grade(request.entry, answers)
    if missing:
        verdict = as_missing(verdict)
    answer = answers[-1]
    return Result(
        id=request.entry.id,
        category=request.entry.category,
        correct=verdict.correct,
        outcome=verdict.outcome and verdict.outcome.value,
        error_type=verdict.error_type,
        error=verdict.error,
        truncated=any(answer.completion.truncated for answer in answers),
        prompt_hash=hash_prompt(request.prompt),
        completion=None if missing else answer.completion.text,
        tool_calls=[call.to_json() for call in answer.calls],
        score=verdict.score,
        steps=[answer.completion.text for answer in answers] if len(answers) > 1 else None,
    )


def hash_prompt(prompt: Prompt) -> str:
    """What tells whether two evaluations asked the same."""
    given = prompt.messages if prompt.tools is None else [prompt.messages, prompt.tools]
    return hashlib.sha256(dump_json(given).encode()).hexdigest()[:16]


def summarize(bench: Bench, results: Sequence[Result], source: str, seed: int, notes: tuple[str, ...]) -> Summary:
    """Count the results by category and outcome, and add what the bench finds."""
    findings = bench.summarize(results, seed=seed)
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.category, []).append(result)
    return Summary(
        bench=bench.name,
        source=source,
        n=len(results),
        metrics=findings.metrics,
        categories={category: tally(group) for category, group in groups.items()},
        outcomes=dict(sorted(Counter(result.outcome or "no_prediction" for result in results).items())),
        official=findings.official,
        notes=notes + findings.notes,
    )


def tally(results: Sequence[Result]) -> Tally:
    """The counts of one category."""
    correct = sum(result.correct for result in results)
    kinds = Counter(result.error_type for result in results)
    truncated = sum(result.truncated for result in results)
    return Tally(len(results), correct, wilson(correct, len(results)), kinds["parse"], truncated, kinds["missing"])


def summary_tables(summary: Summary) -> list[Table]:
    """The summary as tables for a terminal: title, columns, rows."""
    # Thirteen categories with names of 22 letters fit a terminal of 80 columns only with headings of two lines.
    columns = ["category", "n", "% correct\n(95% interval)", "parse\nerrors", "cut\noff", "no\nanswer"]
    categories = [tally_row(name, tally) for name, tally in summary.categories.items()]
    metrics = [[name, f"{m.value:.4f}", f"{m.low:.4f} .. {m.high:.4f}"] for name, m in summary.metrics.items()]
    tables = [
        Table(f"{summary.bench}: {summary.source}", columns, categories),
        Table(f"over all {summary.n} entries", ["metric", "value", "95% interval"], metrics),
    ]
    return tables if summary.official is None else [*tables, official_table(summary.official)]


def tally_row(name: str, tally: Tally) -> list[str]:
    """A category as a row of its table."""
    share, low, high = (f"{100 * bound:.1f}" for bound in astuple(tally.accuracy))
    counts = [str(count) for count in (tally.parse_failures, tally.truncated, tally.no_prediction)]
    return [name, str(tally.n), f"{share} ({low}-{high})", *counts]


def official_table(official: Json) -> Table:
    """The leaderboard's aggregation as a table."""
    rows = [
        [name, percent(official["groups"][name]), percent(official["groups_of_what_ran"][name])]
        for name in official["groups"]
    ]
    rows.append(["overall", percent(official["overall"]), percent(official["overall_of_what_ran"])])
    return Table(f"as {official['version']} adds up", ["group", "official (missing = 0)", "of what ran"], rows)


def percent(share: float | None) -> str:
    """A share in percent, `-` for none."""
    return "-" if share is None else f"{100 * share:.2f}%"
