"""Grade recorded completions again: nothing is generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from toolrl_cli import __version__
from toolrl_cli.benches.base import Result, read_answer
from toolrl_cli.benches.failures import UNANSWERED
from toolrl_cli.errors import DataError
from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.evaluation.planning import (
    Request,
    describe_predictions,
    hash_graders,
    hash_prompt,
    note_mismatch,
    source_of,
    to_prompt,
)
from toolrl_cli.evaluation.recorded import (
    RESULTS,
    SUMMARY,
    Recorded,
    Reopened,
    first_samples,
    read_finished,
    read_results,
    reopen,
)
from toolrl_cli.evaluation.run import Dialogue, Progress, grade
from toolrl_cli.evaluation.summary import summarize
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.predictions import read_predictions
from toolrl_cli.jsonl import write_json, write_records
from toolrl_cli.manifest import Manifest, git_commit, hash_file, installed_versions
from toolrl_cli.records import Completion, Json


def rescore(folder: Path, *, bfcl_wheel: Path | None = None, progress: Progress | None = None) -> Recorded:
    """Grade the completions of a finished evaluation with the bench and the reward as they are now.

    results.jsonl, summary.json and manifest.json are replaced, each as a whole. The manifest keeps
    what was evaluated, and says in `rescored` what graded it anew.

    Args:
        folder: the evaluation.
        bfcl_wheel: a local wheel of bfcl-eval.
        progress: called with the number of graded entries and of all.

    Raises:
        ConfigError: the reward or the format is unknown.
        DataError: the folder holds no finished evaluation, results are lost, or its data have changed.
        SetupError: the wheel cannot be had.
    """
    manifest, before = read_finished(folder), list(read_results(folder / RESULTS).values())
    with reopen(folder, manifest, bfcl_wheel=bfcl_wheel) as opened:
        refuse_unknown(folder, before, opened)
        refuse_gaps(folder, before, opened)
        now: list[Result] = []
        other_prompts = 0
        for result in before:
            prompt = replace(to_prompt(opened.entries[result.id], opened.text_format), sample=result.sample)
            other_prompts += result.prompt_hash != hash_prompt(prompt)
            now.append(grade_again(opened, Request(opened.entries[result.id], prompt), result))
            if progress is not None:
                progress(len(now), len(before))
        changes = describe_changes(before, now, other_prompts)
        places = {id: place for place, id in enumerate(opened.entries)}
        in_order = sorted(now, key=lambda result: (places[result.id], result.sample or 0))
        notes = (*note_mismatch(opened.config, opened.text_format), *note_predictions(opened, manifest), *changes)
        summary = summarize(opened.bench, in_order, source_of(opened.config), manifest.seed, notes)
    manifest = replace(manifest, rescored=describe_grader(opened.config, opened.text_format) | {"notes": list(changes)})
    write_records(folder / RESULTS, [result.to_json() for result in now])
    write_json(folder / SUMMARY, summary.to_json())
    manifest.write(folder)
    return Recorded(folder, manifest, summary, first_samples(now))


def note_predictions(opened: Reopened, manifest: Manifest) -> tuple[str, ...]:
    """The notes on predictions, where they are still what was evaluated."""
    path = opened.config.predictions
    if path is None or not path.is_file() or hash_file(path) != manifest.hashes.get("predictions"):
        return ()
    predictions = read_predictions(path, opened.text_format)
    return describe_predictions(predictions, opened.entries, opened.chosen, opened.config.samples)


def refuse_unknown(folder: Path, results: Iterable[Result], opened: Reopened) -> None:
    """Raise `DataError` for results of entries that the bench has no more."""
    gone = [result.id for result in results if result.id not in opened.entries]
    if gone:
        raise DataError(f"{folder}: {len(gone)} results, such as {gone[0]}, are of entries the bench has no more")


def refuse_gaps(folder: Path, results: Iterable[Result], opened: Reopened) -> None:
    """Raise `DataError` when an entry that was evaluated, or a sample of it, has no result."""
    there = {result.key for result in results}
    wanted = [(id, number) for id in opened.chosen for number in range(opened.config.samples)]
    lost = [key for key in wanted if key not in there]
    if lost:
        raise DataError(
            f"{folder / RESULTS}: {len(lost)} results of the evaluation are not there, the first of {lost[0][0]}; "
            "repeat the command that made it with --resume, which asks for them again"
        )


def grade_again(opened: Reopened, request: Request, before: Result) -> Result:
    """A result graded anew; what was asked and what was answered stay, and so does why there is no whole answer."""
    texts = before.steps or [before.completion or ""]
    answers = tuple(
        read_answer(opened.text_format, Completion(text, truncated=before.truncated and position == len(texts)))
        for position, text in enumerate(texts, start=1)
    )
    outcome = None if before.completion is None else answers[-1].completion
    now = grade(opened.bench, Dialogue(request, request.entry, answers), outcome)
    now = replace(now, prompt_hash=before.prompt_hash, unset=before.unset)
    if before.error_type not in UNANSWERED:
        return now
    return replace(now, correct=False, error_type=before.error_type, error=before.error, failure=before.failure)


def describe_changes(before: Sequence[Result], now: Sequence[Result], other_prompts: int) -> tuple[str, ...]:
    """How the verdicts changed, and whether the prompts would be others now."""
    changed = [new.id for old, new in zip(before, now, strict=True) if new.correct != old.correct]
    ids = list(dict.fromkeys(changed))
    shown = f": {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}" if ids else ""
    notes = [f"rescored by toolrl {__version__}: {len(changed)} of {len(now)} verdicts changed{shown}"]
    if other_prompts:
        notes.append(f"{other_prompts} entries have another prompt now than the one that was answered")
    return tuple(notes)


def describe_grader(config: EvalConfig, text_format: TextFormat) -> Json:
    """What graded an evaluation anew, in the words of a manifest."""
    hashes = hash_graders(config, text_format)
    return {"versions": installed_versions(), "git_commit": git_commit(), "hashes": hashes}
