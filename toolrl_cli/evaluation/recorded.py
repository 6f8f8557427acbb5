"""A finished evaluation, read from its folder, and its bench opened once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from toolrl_cli.benches.base import Bench, Entry, Result
from toolrl_cli.benches.failures import PASSING
from toolrl_cli.benches.registry import find_bench
from toolrl_cli.errors import ConfigError, DataError, UsageError
from toolrl_cli.evaluation.config import EvalConfig
from toolrl_cli.evaluation.planning import choose, hash_data
from toolrl_cli.evaluation.summary import Summary
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.predictions import Key
from toolrl_cli.jsonl import read_json, read_records
from toolrl_cli.manifest import Manifest, read_manifest
from toolrl_cli.training.text_format import choose_format

RESULTS, SUMMARY = "results.jsonl", "summary.json"


@dataclass(frozen=True)
class Recorded:
    """A finished evaluation as its folder has it; the results by id (the first sample's), in the order of the file."""

    folder: Path
    manifest: Manifest
    summary: Summary
    results: Mapping[str, Result]


@dataclass(frozen=True)
class Reopened:
    """The bench of a finished evaluation, its entries by id in its own order, the ids evaluated, the text format."""

    config: EvalConfig
    bench: Bench
    text_format: TextFormat
    entries: Mapping[str, Entry]
    chosen: Sequence[str]


def read_recorded(folder: Path) -> Recorded:
    """A finished evaluation.

    Raises:
        DataError: the folder holds none, or one that is not finished or not of this version.
    """
    manifest = read_finished(folder)
    return Recorded(folder, manifest, read_summary(folder), read_graded(folder))


def read_finished(folder: Path) -> Manifest:
    """The manifest of a finished evaluation; raise `DataError` when the folder is of something else."""
    manifest = read_manifest(folder)
    if manifest.command != "eval":
        raise DataError(f"{folder}: made by toolrl {manifest.command}; give the folder of a toolrl eval")
    if not manifest.finished:
        raise DataError(f"{folder}: not finished; run the command that began it again, with --resume")
    return manifest


def read_summary(folder: Path) -> Summary:
    """The summary of an evaluation.

    Raises:
        DataError: there is none, or it is of another version.
    """
    try:
        return msgspec.convert(read_json(folder / SUMMARY), Summary)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{folder / SUMMARY}: not a summary of this toolrl ({error}); run: toolrl eval --rescore {folder}"
        ) from error


def read_graded(folder: Path) -> dict[str, Result]:
    """The results by id, of several samples the first; raise `DataError` as `read_results`."""
    return first_samples(read_results(folder / RESULTS).values())


def first_samples(results: Iterable[Result]) -> dict[str, Result]:
    """Results by id, of several samples the first."""
    return {result.id: result for result in results if not result.sample}


def read_results(path: Path) -> dict[Key, Result]:
    """The results by id and sample, in the order of the file; of an entry that was asked again the last.

    Raises:
        DataError: a line is no result, or a second one of an entry that was answered, as two runs at once leave them.
    """
    results: dict[Key, Result] = {}

    def add(raw: object) -> None:
        result = Result.from_json(raw)
        earlier = results.get(result.key)
        if earlier is not None and earlier.error_type not in PASSING:
            raise DataError(f"a second result of {result.id!r}; remove one of the two lines")
        results[result.key] = result

    for _ in read_records(path, add):
        pass
    return results


@contextmanager
def reopen(folder: Path, manifest: Manifest, *, bfcl_wheel: Path | None = None) -> Iterator[Reopened]:
    """The bench of a finished evaluation, as it is now.

    Raises:
        ConfigError: the manifest is of another version.
        DataError: the data are missing, or others than those that were evaluated on.
        SetupError: the wheel cannot be had.
    """
    config = recorded_config(folder, manifest, bfcl_wheel)
    if config.data is not None and hash_data(config.data).get("data") != manifest.hashes.get("data"):
        raise DataError(f"{config.data}: has changed since {folder} was evaluated on it; evaluate again")
    text_format = choose_format(str(folder))
    if config.tools == "native":
        text_format = ServedFormat(text_format)
    with find_bench(config.bench).open(config, text_format) as bench:
        entries = bench.entries()
        chosen = [entry.id for entry in choose(entries, config)]
        yield Reopened(config, bench, text_format, {entry.id: entry for entry in entries}, chosen)


def recorded_config(folder: Path, manifest: Manifest, bfcl_wheel: Path | None) -> EvalConfig:
    """The configuration that a manifest records; raise `ConfigError` when this version cannot follow it."""
    rest = {"output": folder, "seed": manifest.seed, "bfcl_wheel": bfcl_wheel}
    if manifest.config.get("served_model"):
        rest["endpoint"] = manifest.parent
    try:
        return msgspec.convert(manifest.config | rest, EvalConfig, dec_hook=lambda kind, value: kind(value))
    except (msgspec.ValidationError, UsageError) as error:
        raise ConfigError(
            f"{folder}: made by a toolrl that this one cannot follow ({error}); evaluate again"
        ) from error
