"""Score a file of completions, one row at a time."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from toolrl_cli.console import track
from toolrl_cli.errors import ConfigError, DataError, FormatError, GateFailed
from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import Line, is_stream, read_lines, write_records
from toolrl_cli.records import Json, Outcome, Score, Target, expect
from toolrl_cli.rewards import Reward

TEXT_FORMAT = find_format("toolrl")


@dataclass(slots=True)
class Tally:
    """Running sums over the rows of a file: memory does not grow with it."""

    reward: Reward
    rows: int = 0
    malformed_rows: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def add(self, score: Score) -> None:
        """Count one scored row."""
        self.rows += 1
        self.outcomes[score.outcome] += 1
        self.sums["total"] += score.total
        for name, value in score.parts.items():
            self.sums[name] += value

    def mean(self, name: str) -> float:
        """The mean of a part, or of the total, over the scored rows; there is at least one."""
        return self.sums[name] / self.rows

    def to_json(self) -> Json:
        """The summary as JSON values, means and rate to four decimals."""
        return {
            "reward": self.reward.name,
            "reward_digest": self.reward.digest,
            "rows": self.rows,
            "malformed_rows": self.malformed_rows,
            "mean": {name: round(self.mean(name), 4) for name in ("total", *self.reward.parts)},
            "exact_rate": round(self.outcomes[Outcome.EXACT] / self.rows, 4),
            "outcomes": {outcome.value: self.outcomes[outcome] for outcome in Outcome},
        }

    def shown(self) -> Json:
        """The summary for a terminal: without the digest and the outcomes that did not occur."""
        record = {name: value for name, value in self.to_json().items() if name != "reward_digest"}
        return record | {"outcomes": {name: count for name, count in record["outcomes"].items() if count}}


def score_file(
    data: Path,
    reward: Reward,
    output: Path | None,
    report: Callable[[str], None],
    *,
    strict: bool = False,
    overwrite: bool = False,
) -> Tally:
    """Score every row of a JSONL file and write the rows with their `score` to `output`, if one is given.

    A row that cannot be scored is left out, counted, and told to `report`; `strict` stops at the first.

    Raises:
        DataError: the file is missing or holds no row that can be scored, or `strict` met a bad row.
        ConfigError: the output exists and `overwrite` is not set.
        SetupError: the output cannot be written.
    """
    if output and not is_stream(output) and output.exists() and not overwrite:
        raise ConfigError(f"{output}: exists; add --overwrite to replace it")
    tally = Tally(reward)

    def refuse(line: Line, why: object) -> None:
        message = f"{data}:{line.number}: {why}"
        if strict:
            raise DataError(message)
        tally.malformed_rows += 1
        report(message)

    rows = require_rows(data, score_lines(track(read_lines(data), "scoring"), tally, refuse))
    if output:
        write_records(output, rows)
    else:
        deque(rows, maxlen=0)
    return tally


def score_lines(lines: Iterable[Line], tally: Tally, refuse: Callable[[Line, object], None]) -> Iterator[Json]:
    """The rows with their `score`; a line that holds no row to score goes to `refuse`."""
    for line in lines:
        try:
            if line.error:
                raise DataError(line.error)
            row = expect(line.value, dict, "row")
            text, target, truncated = read_row(row)
        except DataError as error:
            refuse(line, error)
            continue
        score = tally.reward.score_completion(text, target, truncated=truncated)
        tally.add(score)
        yield {**row, "score": score.to_json()}


def read_row(row: Json) -> tuple[str, Target, bool]:
    """The completion, its target (from `target`, else from the text `ground_truth`) and whether it was cut off.

    Raises:
        DataError: a field is missing or malformed.
    """
    if "completion" not in row:
        raise DataError('no "completion" field; each row needs the text that a model wrote')
    text = expect(row["completion"], str, "completion")
    truncated = expect(row.get("truncated") or False, bool, "truncated")
    if "target" in row:
        return text, Target.from_json(row["target"]), truncated
    if "ground_truth" not in row:
        raise DataError('no "target" and no "ground_truth" field; each row needs one of them to score against')
    try:
        return text, TEXT_FORMAT.parse_target(expect(row["ground_truth"], str, "ground_truth")), truncated
    except FormatError as error:
        raise DataError(f"ground_truth: {error}") from error


def require_rows(data: Path, rows: Iterable[Json]) -> Iterator[Json]:
    """Pass the rows on; raise `DataError` when there is none, so that no empty output appears."""
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise DataError(f"{data}: no rows to score; each line must hold a completion and its target")


def check(tally: Tally, data: Path, fail_under: float | None) -> None:
    """Turn what a summary shows into the exit status.

    Raises:
        DataError: rows were left out.
        GateFailed: the mean total is under `fail_under`.
    """
    if tally.malformed_rows:
        count = tally.rows + tally.malformed_rows
        raise DataError(f"{data}: {tally.malformed_rows} of {count} rows could not be scored; mend or remove them")
    if fail_under is not None and tally.mean("total") < fail_under:
        raise GateFailed(f"{data}: mean total {tally.mean('total'):.4f} is under {fail_under}")
