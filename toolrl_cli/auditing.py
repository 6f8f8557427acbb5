"""Does a reward pay for what it should? Degenerate and hostile answers against the honest one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from toolrl_cli.console import track
from toolrl_cli.errors import DataError, FormatError, GateFailed
from toolrl_cli.formats import stock_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Example, Json, Rollout
from toolrl_cli.rewards import Reward
from toolrl_cli.rewards.policies import (
    EXPECTATIONS,
    POLICIES,
    Expectation,
    Policy,
    Trial,
    honest_rollout,
    hostile_texts,
)
from toolrl_cli.samples import held_out_examples

TOLERANCE = 1e-9
HONEST = "honest answer"


@dataclass(frozen=True)
class PolicyResult:
    """What a policy earns on average, beside the honest answer and silence on the same examples."""

    policy: str
    n: int
    mean: float | None
    honest: float | None
    silence: float | None


@dataclass(frozen=True)
class Ordering:
    """Something that should hold on every example; `first` is the id of the first one on which it does not."""

    policy: str
    expectation: str
    n: int
    violations: int
    first: str | None


@dataclass(frozen=True)
class Audit:
    """The whole finding; `raised` are inputs on which the reward raises or gives no finite number."""

    reward: str
    reward_digest: str
    text_format: str
    examples: int
    policies: tuple[PolicyResult, ...]
    orderings: tuple[Ordering, ...]
    raised: tuple[Json, ...]

    @property
    def failed(self) -> list[Ordering]:
        """The orderings that do not hold."""
        return [ordering for ordering in self.orderings if ordering.violations]

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {**asdict(self), "failed": len(self.failed), "passed": not self.failed and not self.raised}

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, columns and rows: a policy a row, with the expectations it breaks."""
        broken = {result.policy: "" for result in self.policies}
        for ordering in self.orderings:
            if ordering.violations:
                broken[ordering.policy] += f"{ordering.violations}/{ordering.n} {ordering.expectation}  "
        rows = [
            [r.policy, str(r.n), show(r.mean), show(r.honest), show(r.silence), broken[r.policy].strip()]
            for r in self.policies
        ]
        columns = ["answer", "n", "mean", "honest", "silence", "fails"]
        return f"audit of {self.reward} over {self.examples} examples in {self.text_format}", columns, rows

    def lines(self) -> Iterator[str]:
        """What the table leaves out: the meaning of what fails, and the inputs that raise."""
        failing = {ordering.expectation for ordering in self.orderings if ordering.violations}
        yield from (f"{name}: {meaning}" for name, meaning in MEANINGS.items() if name in failing)
        yield from (f"raises on {item['input']}: {item['error']}" for item in self.raised)
        if not self.failed and not self.raised:
            yield "every ordering holds, and no input raises"


MEANINGS = {"above silence": "the honest answer earns more than silence"} | {**EXPECTATIONS}


def audit_reward(
    reward: Reward, data: Path | None = None, limit: int | None = None, step: int = 0, text_format: str = "toolrl"
) -> Audit:
    """Audit a reward, at a training step, over examples: the held-out sample data when none are given.

    Thoughts are left out in a text format that has none.

    Raises:
        ConfigError: the format is unknown.
        DataError: the file is missing, malformed or empty, or the format cannot express a target.
    """
    wording = stock_format(text_format)
    examples = [fit(example, wording) for example in read_examples(data, limit)]
    raised: list[Json] = []
    honest_result, honest_ordering = audit_honest(reward, examples, wording, step, raised)
    policies, orderings = [honest_result], [honest_ordering]
    for policy in track(POLICIES, "audit", len(POLICIES)):
        trials = [trial for example in examples if (trial := attempt(policy, example, wording))]
        if not trials:
            continue
        earned, honest, silent = (
            totals(reward, kind, step, policy.name, raised)
            for kind in ([t.rollout for t in trials], [t.honest for t in trials], [t.silence for t in trials])
        )
        policies.append(PolicyResult(policy.name, len(trials), mean(earned), mean(honest), mean(silent)))
        orderings += [judge(policy, kind, trials, earned, honest, silent) for kind in policy.expectations]
    raised += attack(reward, examples, wording)
    found = tuple(policies), tuple(orderings), tuple(raised)
    return Audit(reward.name, reward.digest, text_format, len(examples), *found)


def read_examples(data: Path | None, limit: int | None) -> list[Example]:
    """The examples to audit on; raise `DataError` when there are none."""
    examples = list(read_records(data, Example.from_json) if data else held_out_examples())[:limit]
    if not examples:
        raise DataError(f"{data}: no examples; run toolrl prepare first")
    return examples


def fit(example: Example, text_format: TextFormat) -> Example:
    """An example that the format can express: as it is, or without its thought; raise `DataError` when it cannot."""
    with suppress(FormatError):
        text_format.render_target(example.target)
        return example
    bare = replace(example.target, thought=None)
    try:
        text_format.render_target(bare)
    except FormatError as error:
        raise DataError(f"example {example.id}: {error}") from error
    return replace(example, target=bare)


def attempt(policy: Policy, example: Example, text_format: TextFormat) -> Trial | None:
    """The answer of a policy, None where there is none, or none that the format can express."""
    with suppress(FormatError):
        return policy.answer(example, text_format)
    return None


def audit_honest(
    reward: Reward, examples: Sequence[Example], text_format: TextFormat, step: int, raised: list[Json]
) -> tuple[PolicyResult, Ordering]:
    """What the honest answer earns, and whether that is more than silence on each example."""
    honest = [honest_rollout(example, text_format) for example in examples]
    earned = totals(reward, honest, step, HONEST, raised)
    silent = totals(reward, [rollout._replace(text="") for rollout in honest], step, "silence", raised)
    worse = [e.id for e, high, low in zip(examples, earned, silent, strict=True) if not high > low + TOLERANCE]
    return (
        PolicyResult(HONEST, len(examples), mean(earned), mean(earned), mean(silent)),
        Ordering(HONEST, "above silence", len(examples), len(worse), next(iter(worse), None)),
    )


def judge(
    policy: Policy,
    expectation: Expectation,
    trials: Sequence[Trial],
    earned: Sequence[float],
    honest: Sequence[float],
    silent: Sequence[float],
) -> Ordering:
    """Whether an expectation holds on each trial."""
    broken = [
        trial.id
        for trial, numbers in zip(trials, zip(earned, honest, silent, strict=True), strict=True)
        if not holds(expectation, *numbers)
    ]
    return Ordering(policy.name, expectation, len(trials), len(broken), next(iter(broken), None))


def holds(expectation: Expectation, earned: float, honest: float, silent: float) -> bool:
    """Whether an answer's reward is as expected; NaN holds to nothing."""
    half = (silent + honest) / 2
    match expectation:
        case "below":
            return earned < honest - TOLERANCE
        case "no more":
            return earned <= honest + TOLERANCE
        case "little":
            return earned <= half + TOLERANCE
        case "most":
            return earned >= half - TOLERANCE


def totals(reward: Reward, rollouts: Sequence[Rollout], step: int, name: str, raised: list[Json]) -> list[float]:
    """The total of each answer at a training step, NaN where the reward raises; the first failure is noted once."""
    found = []
    for rollout in rollouts:
        total, error = total_of(reward, rollout._replace(step=step))
        if error and not any(item["input"] == name for item in raised):
            raised.append({"input": name, "error": error})
        found.append(total)
    return found


def total_of(reward: Reward, rollout: Rollout) -> tuple[float, str | None]:
    """The total, and why there is no finite one."""
    try:
        total = reward.score(rollout).total
    except DataError as error:
        return math.nan, str(error)
    return total, None if math.isfinite(total) else f"gives {total}"


def attack(reward: Reward, examples: Sequence[Example], text_format: TextFormat) -> Iterator[Json]:
    """The hostile inputs on which a reward raises or gives no finite number, for gold with calls and without."""
    kinds = {bool(example.target.tool_calls): example for example in reversed(examples)}
    for example in kinds.values():
        honest = honest_rollout(example, text_format)
        for name, text in hostile_texts(example, text_format).items():
            _, error = total_of(reward, honest._replace(text=text))
            if error:
                yield {"input": name, "error": error}


def mean(values: Sequence[float]) -> float | None:
    """The mean, to four decimals, of the values that are numbers; None when none is."""
    finite = [value for value in values if math.isfinite(value)]
    return round(sum(finite) / len(finite), 4) if finite else None


def show(value: float | None) -> str:
    """A mean with two decimals."""
    return "-" if value is None else f"{value:.2f}"


def check(audit: Audit) -> None:
    """Raise `GateFailed` when an ordering does not hold or an input raises."""
    if audit.failed or audit.raised:
        raise GateFailed(f"{audit.reward}: {len(audit.failed)} orderings fail, {len(audit.raised)} inputs raise")
