"""Run a benchmark: entries of a bench, completions of an engine, graded results on disk, one summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from toolrl_cli.benches.base import Answer, Bench, Entry, Result, Turn, Verdict, as_missing, read_answer
from toolrl_cli.benches.failures import PASSING, find_failure
from toolrl_cli.benches.registry import find_bench, owners
from toolrl_cli.errors import ConfigError, DataError, FormatError, SetupError, ToolrlError, first_line, nearest
from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.evaluation.summary import Summary, summarize
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.base import Engine, Failure, Prompt, Sampling
from toolrl_cli.inference.predictions import Key, RecordedEngine, read_predictions
from toolrl_cli.jsonl import RecordLog, drop_partial_line, dump_json, read_records, write_json, write_records
from toolrl_cli.manifest import FILE_NAME, Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.reading import find_files, is_hub
from toolrl_cli.records import Completion, Json
from toolrl_cli.rewards import require_readable
from toolrl_cli.training.text_format import TEMPLATE_FILE, choose_format

RESULTS, SUMMARY = "results.jsonl", "summary.json"
Progress = Callable[[int, int], None]


class Request(NamedTuple):
    """An entry and its rendered prompt."""

    entry: Entry
    prompt: Prompt


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
    with find_bench(config.bench).open(config, text_format) as bench:
        entries = bench.entries()
        notes: tuple[str, ...] = ()
        if config.predictions is not None:
            completions = read_predictions(config.predictions, text_format)
            notes = describe_unknown(completions, entries)
            engine = RecordedEngine(completions)
        chosen = sample(pick(entries, config.ids), config.limit, config.seed)
        requests = {
            request.prompt.key: request for entry in chosen for request in ask(entry, text_format, config.samples)
        }
        check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
        manifest = keep_rescored(config, manifest)
        done = read_results(config.output / RESULTS) if config.resume else {}
        refuse_other_prompts(config.output, done, requests)
        answered = {key for key, result in done.items() if result.error_type not in PASSING}
        pending = {key: request for key, request in requests.items() if key not in answered}
        if pending:
            # The model loads before the folder is made, so that a wrong name leaves nothing behind.
            engine = engine or load_engine(config, text_format)
            open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
            keep_template(config.output, text_format)
            graded = record(run(bench, pending, engine, text_format), config.output, manifest)
            for count, result in enumerate(graded, start=len(answered) + 1):
                done[result.key] = result
                if progress is not None:
                    progress(count, len(requests))
        results = [done[key] for key in requests]
        refuse_silence(config, results)
        notes += tuple((manifest.rescored or {}).get("notes", ()))
        summary = summarize(bench, results, source_of(config), config.seed, notes)
    if config.resume:  # an entry that was asked again has two lines so far
        write_records(config.output / RESULTS, [result.to_json() for result in done.values()])
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
    kind = find_bench(config.bench)
    hashes = hash_graders(config, text_format)
    if config.data is not None:
        hashes |= hash_data(config.data)
    if config.predictions is not None:
        hashes["predictions"] = hash_file(config.predictions)
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


def settle_format(config: EvalConfig) -> TextFormat:
    """The text format of an evaluation, by default that of the model's training.

    Raises:
        ConfigError: the model was trained in another one, or rewards do not read it.
    """
    text_format = choose_format(config.model, config.format, config.template)
    if config.tools == "native":
        text_format = ServedFormat(text_format)
    if "reward" in find_bench(config.bench).options:
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
    by_id = {entry.id: entry for entry in entries}
    unknown = next((id for id in ids if id not in by_id), None)
    if unknown is not None:
        raise ConfigError(f"--ids: no entry has the id {unknown!r}{nearest(unknown, by_id)}")
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


def run(bench: Bench, pending: Mapping[Key, Request], engine: Engine, text_format: TextFormat) -> Iterator[Result]:
    """Generate, follow and grade."""
    dialogues = {key: Dialogue(request, request.entry) for key, request in pending.items()}
    prompts = [request.prompt for request in pending.values()]
    while prompts:
        following: list[Prompt] = []
        for prompt, outcome in complete(prompts, engine):
            completion = outcome if isinstance(outcome, Completion) else None
            dialogue = dialogues[prompt.key] = dialogues[prompt.key].answered(completion, text_format)
            turn = None if completion is None else bench.follow(dialogue.request.entry, dialogue.answers)
            if turn is None:
                yield grade(bench, dialogues.pop(prompt.key), outcome)
            else:
                dialogue = dialogues[prompt.key] = dialogue.continued(turn, text_format)
                following.append(replace(to_prompt(dialogue.now, text_format), sample=prompt.sample))
        prompts = following


def record(results: Iterable[Result], folder: Path, manifest: Manifest) -> Iterator[Result]:
    """The results, each on disk before it is yielded; with the first one a finished evaluation is so no more."""
    with RecordLog(folder / RESULTS) as log:
        for count, result in enumerate(results):
            if count == 0:
                manifest.write(folder)
            log.append(result.to_json())
            yield result


def keep_rescored(config: EvalConfig, manifest: Manifest) -> Manifest:
    """The manifest of a resumed evaluation that was graded anew in between, which goes on saying so."""
    if not (config.resume and (config.output / FILE_NAME).is_file()):
        return manifest
    earlier = read_manifest(config.output)
    return replace(manifest, hashes=earlier.hashes, rescored=earlier.rescored)


def refuse_silence(config: EvalConfig, results: Sequence[Result]) -> None:
    """Raise `SetupError` when the engine answered nothing at all, which is no result of a model."""
    if results and all(result.error_type == "engine" for result in results):
        raise SetupError(
            f"{source_of(config)}: none of {len(results)} entries was answered, the first because of: "
            f"{results[0].error}; see {config.output / RESULTS}, and repeat with --resume"
        )


def read_results(path: Path) -> dict[Key, Result]:
    """The results of an interrupted run by id and sample, the last of each; a line that was cut off is removed."""
    drop_partial_line(path)
    return {result.key: result for result in read_records(path, Result.from_json)} if path.exists() else {}


def refuse_other_prompts(folder: Path, done: Mapping[Key, Result], requests: Mapping[Key, Request]) -> None:
    """Raise `ConfigError` when a recorded answer is one to another prompt than the entry has now."""
    shared = [(key, result) for key, result in done.items() if key in requests]
    other = [key[0] for key, result in shared if result.prompt_hash != hash_prompt(requests[key].prompt)]
    if other:
        raise ConfigError(
            f"{folder}: {len(other)} recorded answers, such as {other[0]}, are to other prompts than those of now; "
            "resume with the toolrl version that began, or --overwrite"
        )


def keep_template(folder: Path, text_format: TextFormat) -> None:
    """Leave a copy of the template in the folder, so that the prompts can be rendered again."""
    if text_format.template is not None:
        (folder / TEMPLATE_FILE).write_bytes(text_format.template.encode())


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
    verdict = judge(bench, request.entry, answers)
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
        truncated=any(answer.completion.truncated for answer in answers),
        prompt_hash=hash_prompt(request.prompt),
        completion=outcome.text if isinstance(outcome, Completion) else None,
        tool_calls=[call.to_json() for call in answer.calls],
        score=verdict.score,
        steps=[answer.completion.text for answer in answers] if len(answers) > 1 else None,
        failure=find_failure(verdict, truncated=answer.completion.truncated),
        sample=request.prompt.sample,
        unset=sorted({name for answer in answers for name in answer.completion.unset}) or None,
    )


def judge(bench: Bench, entry: Entry, answers: Sequence[Answer]) -> Verdict:
    """The bench's verdict; a bench that fails on an answer costs that entry, not the run."""
    try:
        return bench.grade(entry, answers)
    except ToolrlError:
        raise
    except Exception as error:
        return Verdict(False, None, "grading", f"{type(error).__name__}: {first_line(error)}")


def hash_prompt(prompt: Prompt) -> str:
    """What tells whether two evaluations asked the same."""
    given = prompt.messages if prompt.tools is None else [prompt.messages, prompt.tools]
    return hashlib.sha256(dump_json(given).encode()).hexdigest()[:16]
