"""Evaluation: entries of a benchmark, completions of an engine, graded results on disk, one summary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from toolrl_cli.benches.base import Answer, Bench, Entry, Result, Turn, as_missing, read_answer
from toolrl_cli.benches.bfcl.bench import WHEEL, open_bfcl
from toolrl_cli.benches.bfcl.categories import choose_categories
from toolrl_cli.benches.examples import ExamplesBench
from toolrl_cli.benches.samples import Spread, measure_pass, measure_spread
from toolrl_cli.benches.stats import Interval, wilson
from toolrl_cli.errors import ConfigError, DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.base import Engine, Failure, Prompt, Sampling
from toolrl_cli.inference.predictions import Key, RecordedEngine, read_predictions
from toolrl_cli.jsonl import RecordLog, drop_partial_line, dump_json, read_records, write_json
from toolrl_cli.manifest import FILE_NAME, Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.records import Completion, Json
from toolrl_cli.rewards import find_reward, require_readable
from toolrl_cli.training.config import FormatName
from toolrl_cli.training.text_format import choose_format

BENCHES = ("bfcl", "examples")
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

    Either `model` (a name, a folder or a run of toolrl), `endpoint` (a server's URL, with the name of
    the model there) or `predictions` (a JSONL file) is the source of completions; `data` and `reward`
    belong to the examples bench, `categories` and `bfcl_wheel` to bfcl. Without a `format` it is that of
    the model's training, else toolrl, which `template`, a Jinja file, words. `max_new_tokens` is the
    longest completion in tokens, `limit` the number of entries, `samples` the number of completions of
    each. `concurrency`, `retries` and `timeout` (seconds) are for the endpoint, see
    `inference.endpoint.Endpoint`, and so is `tools`: `native` hands it the tools and takes its tool calls,
    `text` takes its text as it is.

    Raises:
        ConfigError: the values contradict each other.
    """

    bench: str
    output: Path
    model: str | None = None
    endpoint: str | None = None
    served_model: str | None = None
    predictions: Path | None = None
    data: Path | None = None
    reward: str = "fine-grained"
    categories: tuple[str, ...] = ()
    bfcl_wheel: Path | None = None
    limit: int | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    engine: Literal["transformers", "vllm"] = "transformers"
    tools: Literal["text", "native"] = "text"
    concurrency: int = 8
    retries: int = 5
    timeout: float = 600.0
    temperature: float = 0.0
    samples: int = 1
    format: FormatName | None = None
    template: Path | None = None
    seed: int = 0
    allow_mismatch: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.bench not in BENCHES:
            raise ConfigError(f"unknown bench {self.bench!r}; choose from {', '.join(BENCHES)}")
        check_source(self)
        if (self.data is None) == (self.bench == "examples"):
            raise ConfigError("--data FILE is what --bench examples evaluates on; give the two together")
        if self.bench != "bfcl" and (self.categories or self.bfcl_wheel):
            raise ConfigError("--category and --bfcl-wheel belong to --bench bfcl; leave them out")
        choose_categories(self.categories)


def check_source(config: EvalConfig) -> None:
    """Raise `ConfigError` when the options that say where completions come from contradict each other."""
    if [config.model, config.endpoint, config.predictions].count(None) != 2:
        raise ConfigError("completions need one source; give either --model or --endpoint or --predictions")
    if (config.endpoint is None) != (config.served_model is None):
        raise ConfigError("--served-model NAME is what --endpoint URL is asked for; give the two together")
    if config.endpoint is not None:
        from toolrl_cli.inference.endpoint import completions_url

        completions_url(config.endpoint)
    if config.endpoint is None and config.tools == "native":
        raise ConfigError("--tools native belongs to --endpoint; for a local model give --format native")
    if config.tools == "native" and config.template is not None:
        raise ConfigError("--template words a prompt that --tools native leaves to the server; leave one out")
    if config.model is None and config.engine != "transformers":
        raise ConfigError("--engine belongs to --model; leave it out")
    if min(config.samples, config.concurrency) < 1 or config.retries < 0:
        raise ConfigError("--samples and --concurrency are at least 1, --retries at least 0")
    if config.samples > 1 and not config.temperature and config.predictions is None:
        raise ConfigError("greedy samples are all the same; give --temperature, such as 0.7, with --samples")


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
    """What an evaluation found; all shares lie between 0 and 1 and carry 95% intervals.

    With several samples of each entry, `samples` and the metrics `pass@k` tell of all, the rest of the first.
    """

    bench: str
    source: str
    n: int
    metrics: Mapping[str, Interval]
    categories: Mapping[str, Tally]
    outcomes: Mapping[str, int]
    official: Json | None
    notes: tuple[str, ...]
    samples: Spread | None = None

    def to_json(self) -> Json:
        """The record as JSON values; `samples` only where there are several."""
        return {k: v for k, v in asdict(self).items() if v is not None or k != "samples"}


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
        chosen = sample(entries, config.limit, config.seed)
        requests = {
            request.prompt.key: request for entry in chosen for request in ask(entry, text_format, config.samples)
        }
        check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
        done = read_results(config.output / RESULTS) if config.resume else {}
        pending = {key: request for key, request in requests.items() if key not in done}
        if pending:
            # The model loads before the folder is made, so that a wrong name leaves nothing behind.
            engine = engine or load_engine(config, text_format)
            open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
            for result in run(bench, pending, engine, text_format, config.output / RESULTS):
                done[result.key] = result
                if progress is not None:
                    progress(len(done), len(requests))
        summary = summarize(bench, [done[key] for key in requests], source_of(config), config.seed, notes)
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
    left_out = {"output", "seed", "bfcl_wheel", "resume", "overwrite", "endpoint", "concurrency", "retries", "timeout"}
    if config.bench == "bfcl":
        hashes["bfcl_wheel"] = WHEEL.sha256
        left_out |= {"data", "reward"}
    if config.data is not None:
        hashes |= {"data": hash_file(config.data), "reward": find_reward(config.reward).digest}
    if config.predictions is not None:
        hashes["predictions"] = hash_file(config.predictions)
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k not in left_out}
    values["categories"] = list(config.categories)
    return Manifest.create(
        "eval", values, seed=config.seed, format=text_format.name, hashes=hashes, parent=config.model or config.endpoint
    )


def settle_format(config: EvalConfig) -> TextFormat:
    """The text format of an evaluation, by default that of the model's training.

    Raises:
        ConfigError: the model was trained in another one, or rewards do not read it.
    """
    text_format = choose_format(config.model, config.format, config.template)
    if config.tools == "native":
        text_format = ServedFormat(text_format)
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
        with open_bfcl(config.bfcl_wheel, config.categories) as bench:
            yield bench


def load_engine(config: EvalConfig, text_format: TextFormat) -> Engine:
    """The server or the local model of the configuration; for the latter the training extra is needed first."""
    sampling = Sampling(config.max_new_tokens, config.temperature, config.seed)
    if config.endpoint is not None:
        return open_endpoint(config, sampling, text_format if config.tools == "native" else None)
    return load_vllm(config, sampling) if config.engine == "vllm" else load_transformers(config, sampling)


def open_endpoint(config: EvalConfig, sampling: Sampling, native: TextFormat | None) -> Engine:
    """The engine of a server."""
    from toolrl_cli.inference.endpoint import Endpoint, EndpointEngine

    url, model = str(config.endpoint), str(config.served_model)
    endpoint = Endpoint(url, model, config.concurrency, config.retries, config.timeout)
    return EndpointEngine(endpoint, sampling, native)


def load_transformers(config: EvalConfig, sampling: Sampling) -> Engine:
    """A local model in transformers."""
    from toolrl_cli.inference.transformers_engine import TransformersEngine
    from toolrl_cli.training.models import load_for_inference

    return TransformersEngine(*load_for_inference(source_of(config)), sampling, batch_size=config.batch_size)


def load_vllm(config: EvalConfig, sampling: Sampling) -> Engine:
    """A local model in vLLM."""
    from toolrl_cli.inference.vllm_engine import VllmEngine, load_llm
    from toolrl_cli.training.models import load_tokenizer, resolve_model

    source = resolve_model(source_of(config))
    return VllmEngine(load_llm(source.base, source.adapter), load_tokenizer(source), sampling, source.adapter)


def source_of(config: EvalConfig) -> str:
    """The model's name, or the path of the predictions."""
    return config.model or config.served_model or str(config.predictions)


def describe_unknown(completions: Iterable[tuple[str, int]], entries: Sequence[Entry]) -> tuple[str, ...]:
    """A note on predictions that belong to no entry, none when all do."""
    unknown = sorted({id for id, _ in completions} - {entry.id for entry in entries})
    if not unknown:
        return ()
    shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    return (f"{len(unknown)} predictions belong to no entry: {shown}",)


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
    try:
        messages, tools = text_format.render_prompt(entry.tools, entry.messages)
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{entry.id}: its tools or messages cannot be rendered ({error!r}); prepare it again"
        ) from error
    return Prompt(entry.id, tuple(messages), None if tools is None else tuple(tools))


def run(
    bench: Bench, pending: Mapping[Key, Request], engine: Engine, text_format: TextFormat, path: Path
) -> Iterator[Result]:
    """Generate, follow and grade; a result is on disk before it is yielded."""
    dialogues = {key: Dialogue(request, request.entry) for key, request in pending.items()}
    prompts = [request.prompt for request in pending.values()]
    with RecordLog(path) as log:
        while prompts:
            following: list[Prompt] = []
            for prompt, outcome in complete(prompts, engine):
                completion = outcome if isinstance(outcome, Completion) else None
                dialogue = dialogues[prompt.key] = dialogues[prompt.key].answered(completion, text_format)
                turn = None if completion is None else bench.follow(dialogue.request.entry, dialogue.answers)
                if turn is not None:
                    dialogue = dialogues[prompt.key] = dialogue.continued(turn, text_format)
                    following.append(replace(to_prompt(dialogue.now, text_format), sample=prompt.sample))
                    continue
                result = grade(bench, dialogues.pop(prompt.key), outcome)
                log.append(result.to_json())
                yield result
            prompts = following


def read_results(path: Path) -> dict[Key, Result]:
    """The results of an interrupted run by id and sample; a line that was cut off is removed."""
    drop_partial_line(path)
    return {result.key: result for result in read_records(path, Result.from_json)} if path.exists() else {}


def complete(prompts: Sequence[Prompt], engine: Engine) -> Iterator[tuple[Prompt, Completion | Failure | None]]:
    """Every prompt once: with what the engine yields for it, at the end those for which it yields nothing."""
    waiting = {prompt.key: prompt for prompt in prompts}
    for prompt, outcome in engine.generate(prompts):
        del waiting[prompt.key]
        yield prompt, outcome
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


def grade(bench: Bench, dialogue: Dialogue, outcome: Completion | Failure | None) -> Result:
    """The graded result of an entry; one that lacks a completion is wrong, and scored as if that were empty.

    `outcome` is what its last prompt got.
    """
    request, answers = dialogue.request, dialogue.answers
    verdict = bench.grade(request.entry, answers)
    if not isinstance(outcome, Completion):
        verdict = as_missing(verdict, outcome)
    answer = answers[-1]
    return Result(
        id=request.entry.id,
        category=request.entry.category,
        correct=verdict.correct,
        outcome=verdict.outcome and verdict.outcome.value,
        error_type=verdict.error_type,
        error=verdict.error,
        truncated=answer.completion.truncated,
        prompt_hash=hash_prompt(request.prompt),
        completion=outcome.text if isinstance(outcome, Completion) else None,
        tool_calls=[call.to_json() for call in answer.calls],
        score=verdict.score,
        steps=[answer.completion.text for answer in answers] if len(answers) > 1 else None,
        sample=request.prompt.sample,
    )


def hash_prompt(prompt: Prompt) -> str:
    """What tells whether two evaluations asked the same."""
    given = prompt.messages if prompt.tools is None else [prompt.messages, prompt.tools]
    return hashlib.sha256(dump_json(given).encode()).hexdigest()[:16]


def summarize(bench: Bench, results: Sequence[Result], source: str, seed: int, notes: tuple[str, ...]) -> Summary:
    """Count the results by category and outcome, and add what the bench finds."""
    first = [result for result in results if not result.sample]
    several = len(results) > len(first)
    findings = bench.summarize(first, seed=seed)
    groups: dict[str, list[Result]] = {}
    for result in first:
        groups.setdefault(result.category, []).append(result)
    return Summary(
        bench=bench.name,
        source=source,
        n=len(first),
        metrics={**findings.metrics, **(measure_pass(results, seed=seed) if several else {})},
        categories={category: tally(group) for category, group in groups.items()},
        outcomes=dict(sorted(Counter(result.outcome or "no_prediction" for result in first).items())),
        official=findings.official,
        notes=notes + findings.notes + describe_failures(results),
        samples=measure_spread(results) if several else None,
    )


def describe_failures(results: Sequence[Result]) -> tuple[str, ...]:
    """A note on the entries that the engine could not answer, none when it answered all."""
    failed = [result for result in results if result.error_type == "engine"]
    if not failed:
        return ()
    shown = "; ".join(f"{result.id} ({result.error})" for result in failed[:3]) + ("; ..." if failed[3:] else "")
    return (f"counted wrong because the engine gave no answer: {len(failed)}: {shown}",)


def tally(results: Sequence[Result]) -> Tally:
    """The counts of one category."""
    correct = sum(result.correct for result in results)
    kinds = Counter(result.error_type for result in results)
    truncated = sum(result.truncated for result in results)
    unanswered = kinds["missing"] + kinds["engine"]
    return Tally(len(results), correct, wilson(correct, len(results)), kinds["parse"], truncated, unanswered)


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
    if summary.official is not None:
        tables.append(official_table(summary.official))
    return tables if summary.samples is None else [*tables, spread_table(summary.samples)]


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


def spread_table(spread: Spread) -> Table:
    """How the samples of each entry differ, as a table."""
    row = [str(len(spread.accuracies)), f"{spread.mean:.4f}", f"{spread.standard_deviation:.4f}"]
    return Table("over the samples of each entry", ["samples", "mean accuracy", "standard deviation"], [row])


def percent(share: float | None) -> str:
    """A share in percent, `-` for none."""
    return "-" if share is None else f"{100 * share:.2f}%"
