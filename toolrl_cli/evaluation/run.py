"""Run a benchmark: entries of a bench, completions of an engine, graded results on disk, one summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolrl_cli.benches.base import (
    Answer,
    Bench,
    Entry,
    Result,
    Turn,
    Verdict,
    as_missing,
    explain_missing,
    read_answer,
)
from toolrl_cli.benches.failures import PASSING, find_failure
from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, FormatError, SetupError, ToolrlError, first_line
from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.evaluation.planning import Request, get_ready, hash_prompt, source_of, to_prompt
from toolrl_cli.evaluation.recorded import RESULTS, SUMMARY, read_results
from toolrl_cli.evaluation.review import ReviewConfig
from toolrl_cli.evaluation.summary import Summary, summarize
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Engine, Failure, Prompt, Sampling
from toolrl_cli.inference.predictions import Key
from toolrl_cli.jsonl import RecordLog, drop_partial_line, write_json, write_records
from toolrl_cli.manifest import FILE_NAME, Manifest, check_output, open_output, read_manifest, sole_writer
from toolrl_cli.records import Completion, Json
from toolrl_cli.training.text_format import TEMPLATE_FILE

Progress = Callable[[int, int], None]
UNCHECKED = ReviewConfig()
QUESTION = [{"role": "user", "content": "question"}]


def evaluate(
    config: EvalConfig,
    *,
    checks: ReviewConfig = UNCHECKED,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Run a benchmark and write manifest.json, results.jsonl and summary.json.

    Args:
        config: what to evaluate.
        checks: what the results will be held against, of which the names and limits are checked beforehand.
        engine: where completions come from; built from the configuration when None.
        progress: called with the number of graded entries and of all entries.

    Raises:
        ConfigError: the output exists or another process writes it, a resumed run differs, or the model was trained on
            another prompt format.
        DataError: a file cannot be read.
        SetupError: the model, the wheel or the training extra is missing.
    """
    with get_ready(config) as ready, ExitStack() as closing:
        checks.check(config.bench, ready.foresee(), own_files(config))
        manifest, text_format, bench, requests = ready.manifest, ready.text_format, ready.bench, ready.requests
        engine = ready.recorded or engine
        check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
        manifest = keep_earlier(config, manifest)
        done = read_finished_lines(config.output / RESULTS) if config.resume else {}
        refuse_other_prompts(config.output, done, requests)
        answered = {key for key, result in done.items() if result.error_type not in PASSING}
        pending = {key: request for key, request in requests.items() if key not in answered}
        if pending:
            # The model loads before the folder is made, so that a wrong name leaves nothing behind.
            engine = engine or load_engine(config, text_format)
            manifest = add_endpoint(config, manifest)
            open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
            closing.enter_context(sole_writer(config.output))
            keep_template(config.output, text_format)
            graded = record(run(bench, pending, engine, text_format), config.output, manifest)
            for count, result in enumerate(graded, start=len(answered) + 1):
                done[result.key] = result
                if progress is not None:
                    progress(count, len(requests))
        results = [done[key] for key in requests]
        refuse_silence(config, results)
        notes = (*ready.notes, *(manifest.rescored or {}).get("notes", ()))
        summary = summarize(bench, results, source_of(config), config.seed, notes)
    if config.resume:  # an entry that was asked again has two lines so far
        write_records(config.output / RESULTS, [result.to_json() for result in done.values()])
    write_json(config.output / SUMMARY, summary.to_json())
    replace(manifest, finished=True).write(config.output)
    return summary


def plan(config: EvalConfig, *, checks: ReviewConfig = UNCHECKED) -> Json:
    """What `evaluate` would do, as JSON values: engine, entries by category, resolved configuration, hashes of inputs.

    No model is loaded, nothing is generated or written; a wheel or a data set that is not there is fetched.

    Raises:
        ConfigError, DataError, SetupError: as `evaluate`, and where the model's name is that of none.
    """
    with get_ready(config) as ready:
        checks.check(config.bench, ready.foresee(), own_files(config))
        check_output(config.output, ready.manifest, resume=config.resume, overwrite=config.overwrite)
        if config.model is not None:
            from toolrl_cli.training.models import resolve_model

            resolve_model(config.model, weights=False)
        return ready.plan()


def own_files(config: EvalConfig) -> list[Path]:
    """The files that an evaluation writes or adds to."""
    names = (FILE_NAME, RESULTS, SUMMARY, TEMPLATE_FILE)
    return [*(config.output / name for name in names), *([config.record] if config.record else [])]


def load_engine(config: EvalConfig, text_format: TextFormat) -> Engine:
    """The server or the local model of the configuration; for the latter the training extra is needed first."""
    sampling = Sampling(config.max_new_tokens, config.temperature, config.seed)
    if config.endpoint is not None:
        return open_endpoint(config, sampling, text_format if config.tools == "native" else None)
    load = load_vllm if config.engine == "vllm" else load_transformers
    return load(config, sampling, text_format)


def open_endpoint(config: EvalConfig, sampling: Sampling, native: TextFormat | None) -> Engine:
    """The engine of a server."""
    from toolrl_cli.inference.endpoint import Endpoint, EndpointEngine

    url, model = str(config.endpoint), str(config.served_model)
    endpoint = Endpoint(url, model, config.concurrency, config.retries, config.timeout)
    return EndpointEngine(endpoint, sampling, native)


def load_transformers(config: EvalConfig, sampling: Sampling, text_format: TextFormat) -> Engine:
    """A local model in transformers."""
    from toolrl_cli.inference.transformers_engine import TransformersEngine
    from toolrl_cli.training.models import load_for_inference

    model, tokenizer = load_for_inference(source_of(config))
    tell_opened_thought(tokenizer, text_format)
    return TransformersEngine(model, tokenizer, sampling, batch_size=config.batch_size)


def load_vllm(config: EvalConfig, sampling: Sampling, text_format: TextFormat) -> Engine:
    """A local model in vLLM."""
    from toolrl_cli.inference.vllm_engine import VllmEngine, load_llm
    from toolrl_cli.training.models import load_tokenizer, resolve_model

    source = resolve_model(source_of(config))
    tokenizer = load_tokenizer(source)
    tell_opened_thought(tokenizer, text_format)
    return VllmEngine(load_llm(source.base, source.adapter), tokenizer, sampling, source.adapter)


def tell_opened_thought(tokenizer: Any, text_format: TextFormat) -> None:
    """Log that the model's chat template begins each completion with what the toolrl format wants to read in it."""
    from toolrl_cli.inference.transformers_engine import opened_thought, write_prompt

    if text_format.name == "toolrl" and opened_thought(write_prompt(tokenizer, QUESTION, None)):
        log(
            "the model's chat template ends a prompt with <think>, which completions of the toolrl format begin with: "
            "they will count as malformed; use --format native"
        )


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


def keep_earlier(config: EvalConfig, manifest: Manifest) -> Manifest:
    """The manifest of a resumed evaluation, which goes on saying what graded it anew and which servers were asked."""
    if not (config.resume and (config.output / FILE_NAME).is_file()):
        return manifest
    earlier = read_manifest(config.output)
    kept = replace(manifest, hashes=earlier.hashes, rescored=earlier.rescored, endpoints=earlier.endpoints)
    return replace(kept, parent=earlier.parent) if config.endpoint else kept


def add_endpoint(config: EvalConfig, manifest: Manifest) -> Manifest:
    """The manifest with the server that is asked now behind those that were asked before."""
    if config.endpoint is None:
        return manifest
    return replace(manifest, endpoints=list(dict.fromkeys([*(manifest.endpoints or ()), config.endpoint])))


def refuse_silence(config: EvalConfig, results: Sequence[Result]) -> None:
    """Raise `SetupError` when the engine answered nothing at all, which is no result of a model."""
    if results and all(result.error_type == "engine" for result in results):
        raise SetupError(
            f"{source_of(config)}: none of {len(results)} entries was answered, the first because of: "
            f"{results[0].error}; see {config.output / RESULTS}, and repeat with --resume"
        )


def read_finished_lines(path: Path) -> dict[Key, Result]:
    """The results of an interrupted run by id and sample; a line that was cut off is removed."""
    drop_partial_line(path)
    return read_results(path) if path.exists() else {}


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
    if isinstance(outcome, Failure):
        verdict = as_missing(verdict, "engine", outcome.reason)
    elif outcome is None:
        verdict = as_missing(verdict, "missing", explain_missing(request.entry, answers[:-1]))
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
