"""Score a file of completions, piece by piece, in one process or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl_cli.console import byte_progress
from toolrl_cli.errors import ConfigError, DataError, GateFailed, UsageError, nearest
from toolrl_cli.jsonl import STDIO, Piece, cut_lines, is_stream, open_atomic, read_piece, refuse_binary
from toolrl_cli.limits import DIGITS, read_limits
from toolrl_cli.parallel import map_in_order
from toolrl_cli.records import Json
from toolrl_cli.rewards import Reward, find_reward
from toolrl_cli.scoring.baseline import Totals, compare, read_totals
from toolrl_cli.scoring.groups import Groups
from toolrl_cli.scoring.rows import ScoredChunk, Wanted, score_chunk
from toolrl_cli.scoring.tally import DECIMALS, Tally

CHUNK = 1 << 20
"""Bytes."""
HEAD = 64
"""Bytes that tell what kind of file it is."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `score` is told; `settings` are values of the reward spec by dotted path."""

    data: Path
    output: Path | None = None
    reward: str = "fine-grained"
    matching: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    format: str | None = None
    workers: int = 1
    explain: bool = False
    group_by: str | None = None
    baseline: Path | None = None
    fail_under: Mapping[str, float] = field(default_factory=dict)
    strict: bool = False
    seed: int = 0
    overwrite: bool = False

    def build_reward(self) -> Reward:
        """The reward; raise `ConfigError` as `find_reward`."""
        return find_reward(self.reward, matching=self.matching, settings=self.settings)

    @property
    def wanted(self) -> Wanted:
        """What is to be made of each row."""
        return Wanted(
            self.step, self.format, self.output is not None, self.explain, self.group_by, self.baseline is not None
        )


def score_file(
    config: ScoreConfig, report: Callable[[str], None], show: Callable[[list[str]], None] = lambda lines: None
) -> Json:
    """Score every row of a JSONL file and write the rows with their `score` to the output, if there is one.

    A row that cannot be scored is left out, counted, and told to `report`; with `strict` the first
    one stops. Memory is constant but for groups and for the ids of a baseline.

    Args:
        config: what to do.
        report: told a line for each row that is left out.
        show: given the lines that explain a row, row by row, when `explain` is set.

    Returns: the summary: counts, means, spread, percentiles, outcomes and rows per second; `groups`,
        `baseline` and `missed_limits` where asked for.

    Raises:
        DataError: a file is missing or holds no row that can be scored, or `strict` met a bad row.
        ConfigError: the reward or a gate is unknown, or the output exists and `overwrite` is not set.
        SetupError: the output cannot be written, or a worker died.
    """
    reward = config.build_reward()
    check_gates(config.fail_under, reward)
    refuse_output(config)
    before = read_baseline(config, reward, report)
    tally, groups, totals = Tally(tuple(reward.weights)), Groups(), Totals()
    start, lines = time.perf_counter(), 0
    with open_output(config.output) as stream, byte_progress(f"score {config.data.name}", config.data) as advance:
        for done in score_pieces(config):
            refuse(((lines + number, why) for number, why in done.refused), config, report)
            tally.merge(done.tally)
            groups.add(done.groups)
            totals.add(done.totals)
            for number, (heading, *diff) in done.explanations:
                show([f"@ line {lines + number} {heading}", *diff])
            if stream:
                stream.buffer.write(done.lines)
            lines += done.line_count
            advance(done.size)
        if not tally.rows:
            raise DataError(f"{config.data}: {why_nothing(tally.malformed_rows)}")
    seconds = time.perf_counter() - start
    summary = {"reward": reward.name, "reward_digest": reward.digest, **tally.to_json()}
    if config.fail_under:
        summary["missed_limits"] = list(missed_limits(tally, config.fail_under))
    if config.group_by:
        summary["groups"] = groups.to_json()
        summary["histograms"] = {name: tally.histogram(name) for name in tally.names()}
    if before and config.baseline:
        summary["baseline"] = compare(before, totals, config.baseline, seed=config.seed)
    return {**summary, "seconds": round(seconds, 3), "rows_per_second": round(tally.rows / seconds)}


def refuse_output(config: ScoreConfig) -> None:
    """Raise `ConfigError` for an output that exists, or that is an input."""
    output = config.output
    if output is None or is_stream(output) or not output.exists():
        return
    for given in (config.data, config.baseline):
        if given and given.exists() and given.samefile(output):
            raise UsageError(f"{output}: is an input, and would be lost; choose another name")
    if not config.overwrite:
        raise ConfigError(f"{output}: exists; add --overwrite to replace it")


def read_baseline(config: ScoreConfig, reward: Reward, report: Callable[[str], None]) -> Totals | None:
    """The totals to compare with, if any; scores with other parts than the reward gives are told.

    Raises:
        DataError: as `read_totals`.
        UsageError: the rows and the baseline are both standard input.
    """
    if config.baseline is None:
        return None
    if config.data == config.baseline == STDIO:
        raise UsageError("--baseline -: the rows come from standard input already; give a file")
    before, parts = read_totals(config.baseline), set(reward.weights)
    if before.parts and before.parts != parts:
        there, here = (", ".join(sorted(names)) for names in (before.parts, parts))
        report(f"{config.baseline}: was scored by another reward, so that totals differ ({there}; here {here})")
    return before


def why_nothing(refused: int) -> str:
    """Why no row was scored, when so many were refused."""
    if refused:
        return f"none of the {refused} rows could be scored, as told above"
    return "no rows to score; each line must hold a completion and its target"


def read_pieces(path: Path) -> Iterator[Piece]:
    """The pieces of the file; raise `DataError` for one that shows at once that it is no JSONL."""
    for number, piece in enumerate(cut_lines(path, CHUNK)):
        if not number:
            refuse_other_formats(path, piece if isinstance(piece, bytes) else read_piece(path, (0, HEAD)))
        yield piece


def refuse_other_formats(path: Path, head: bytes) -> None:
    """Raise `DataError` for the beginning of a file when it shows that it is no JSONL."""
    refuse_binary(path, head)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; it must be UTF-8")
    if head.lstrip().startswith(b"["):
        raise DataError(f"{path}: holds a JSON array; each line must hold one JSON object (jq -c '.[]')")


def open_output(path: Path | None) -> AbstractContextManager[Any]:
    """The output, which appears only when it is whole; nothing when there is none."""
    return open_atomic(path) if path else nullcontext()


def refuse(refused: Iterable[tuple[int, str]], config: ScoreConfig, report: Callable[[str], None]) -> None:
    """Tell each row that cannot be scored; raise `DataError` for the first one when that is asked for."""
    for number, why in refused:
        if config.strict:
            raise DataError(f"{config.data}:{number}: {why}")
        report(f"{config.data}:{number}: {why}")


def score_pieces(config: ScoreConfig) -> Iterator[ScoredChunk]:
    """The pieces of the file, scored, in order."""
    return map_in_order(make_scorer, (config,), read_pieces(config.data), config.workers)


def make_scorer(config: ScoreConfig) -> Callable[[Piece], ScoredChunk]:
    """The function that scores a piece of the file."""
    reward, wanted = config.build_reward(), config.wanted
    return lambda piece: score_chunk(reward, wanted, read_piece(config.data, piece))


def read_gates(texts: Iterable[str]) -> dict[str, float]:
    """`2.5` or `part=2.5` as the lowest mean of the total or a part; raise `UsageError` for anything else."""
    return read_limits("--fail-under", texts, default="total", kind="part")


def check_gates(gates: Mapping[str, float], reward: Reward) -> None:
    """Raise `UsageError` for a gate on something that the summary does not have."""
    known = ("total", *reward.weights, "exact_rate")
    for name in gates:
        if name not in known:
            raise UsageError(f"--fail-under {name}: no such part; choose from {', '.join(known)}{nearest(name, known)}")
    if gates.get("exact_rate", 0.0) > 1:
        raise UsageError(f"--fail-under exact_rate={gates['exact_rate']:g}: is a share, 1 at most")


def check(summary: Json, config: ScoreConfig) -> None:
    """Turn what a summary shows into the exit status.

    Raises:
        DataError: rows were left out.
        GateFailed: a mean is under its limit, or the total is surely lower than the baseline's.
    """
    if left_out := summary["malformed_rows"]:
        count = summary["n"] + left_out
        raise DataError(f"{config.data}: {left_out} of {count} rows could not be scored; mend or remove them")
    if failures := [*summary.get("missed_limits", ()), *worse_than_baseline(summary.get("baseline"))]:
        raise GateFailed(f"{config.data}: {'; '.join(failures)}")


def missed_limits(tally: Tally, limits: Mapping[str, float]) -> Iterator[str]:
    """The means that are under their limits by more than the rounding of sums, or missing."""
    for name, limit in limits.items():
        if name != "exact_rate" and name not in tally.names():
            yield f"no row has a {name} to compare with {limit:g}"
            continue
        found = tally.exact_rate if name == "exact_rate" else tally.mean(name)
        if not round(found, DIGITS) >= round(limit, DIGITS):  # so that NaN never passes
            digits = DECIMALS if round(found, DECIMALS) < limit else DIGITS
            yield f"mean {name} {found:.{digits}f} is under {limit:g}"


def worse_than_baseline(baseline: Json | None) -> Iterator[str]:
    """That the total is surely lower than the baseline's, if it is."""
    if baseline and baseline["high"] is not None and baseline["high"] < 0:
        yield (
            f"the total is lower than in {baseline['file']} by {-baseline['difference']:.4f}, "
            f"95% interval [{baseline['low']:.4f}, {baseline['high']:.4f}]"
        )
