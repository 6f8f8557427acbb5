"""When a training is stopped for its own good: what is watched, within which limits, and what the user is told."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolrl_cli.errors import ConfigError, nearest

Means = Mapping[str, float]
"""Metrics of metrics.jsonl, averaged over some steps; a metric that was not logged in them is missing."""
NAN = "nan"
WINDOW = "window"
DEFAULT_WINDOW = 20


@dataclass(frozen=True)
class Sentinel:
    """One thing that can go wrong.

    `measure` takes the means over the window and those over the first window of the run; a KeyError
    means that there is nothing to judge. The run stops when the value is beyond `limit`: above it,
    or below when `floor`. One that `arms` judges only after the value was once within half the
    limit, so that what a run has yet to learn does not stop it. `most` is the highest limit that makes sense.
    `what` and `advice` make the message.
    """

    limit: float
    measure: Callable[[Means, Means], float]
    what: str
    advice: str
    arms: bool = False
    floor: bool = False
    most: float = 1.0


def format_loss(now: Means, first: Means) -> float:
    """The share of completions that break the format."""
    return 1 - now["format_share"]


def call_gap(now: Means, first: Means) -> float:
    """How far the share of completions with calls is from the share of targets with calls."""
    return abs(now["call_share"] - now["gold_call_share"])


def spurious_rate(now: Means, first: Means) -> float:
    """Of the completions whose target has no call, the share that calls; KeyError when there are almost none."""
    silent = 1 - now["gold_call_share"]
    if silent < MANY:
        raise KeyError("gold_call_share")
    return now["spurious_call_share"] / silent


def entropy_left(now: Means, first: Means) -> float:
    """The entropy as a share of that of the first window."""
    return now["entropy"] / first["entropy"] if first["entropy"] > 0 else 1.0


MANY = 0.02
"""The share of targets without calls from which on their calls are judged."""
SENTINELS = {
    "format": Sentinel(
        0.8,
        format_loss,
        "{value:.2f} of the completions break the format",
        "lower the learning rate, or raise --beta",
        arms=True,
    ),
    "calls": Sentinel(
        0.5,
        call_gap,
        "{call_share:.2f} of the completions call tools, but {gold_call_share:.2f} of the targets do",
        "look at completions.jsonl; does the reward pay for not calling, or for calling always?",
        arms=True,
    ),
    "spurious": Sentinel(
        0.8,
        spurious_rate,
        "{value:.2f} of the completions call a tool where no call is right",
        "add examples without a call, or use a reward that judges them, such as robust",
        arms=True,
    ),
    "zero-variance": Sentinel(
        0.95,
        lambda now, first: now["frac_reward_zero_std"],
        "in {value:.2f} of the groups all completions earn the same, so nothing is learned (mean reward {reward:.2f})",
        "raise --num-generations or --temperature, or take other examples",
    ),
    "entropy": Sentinel(
        0.05,
        entropy_left,
        "the entropy fell to {entropy:.4f}, {value:.3f} of where it began",
        "lower the learning rate, raise --temperature, or give --set entropy_coef=0.001",
        floor=True,
    ),
    "length": Sentinel(
        0.95,
        lambda now, first: now["completions/clipped_ratio"],
        "{value:.2f} of the completions are cut off (mean length {completions/mean_length:.0f} tokens)",
        "raise --max-completion-length, or take a model that ends its answers, for instance after toolrl sft",
    ),
    "drift": Sentinel(
        0.3,
        lambda now, first: now["sampling/sampling_logp_difference/mean"],
        "vLLM's log-probabilities are {value:.2f} from the trainer's in the mean token",
        "use the same dtype in both, and an attention kernel that both have",
        most=math.inf,
    ),
}


@dataclass(frozen=True)
class Limits:
    """Which sentinels watch, each with its limit, over how many steps; `nan` is the one without a limit."""

    values: Mapping[str, float]
    window: int
    nan: bool


def read_limits(settings: Mapping[str, Any]) -> Limits:
    """The defaults with the user's changes: `{"entropy": 0.01, "length": False, "window": 50}`; "off" is False.

    Raises:
        ConfigError: there is no such sentinel, or the value is no limit for it.
    """
    values, window, nan = {name: sentinel.limit for name, sentinel in SENTINELS.items()}, DEFAULT_WINDOW, True
    for name, value in settings.items():
        off = value is False or value == "off"
        if name == NAN and off:
            nan = False
        elif name in SENTINELS and off:
            del values[name]
        elif name in SENTINELS and is_number(value) and 0 < value <= SENTINELS[name].most:
            values[name] = float(value)
        elif name == WINDOW and is_number(value) and value >= 1 and value == int(value):
            window = int(value)
        else:
            raise ConfigError(f"--sentinel {name}={value}: {explain_setting(name)}")
    return Limits(values, window, nan)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def explain_setting(name: str) -> str:
    """What may stand after `--sentinel name=`."""
    if name == NAN:
        return "can only be switched off, as nan=off"
    if name == WINDOW:
        return "must be a whole number of steps, 1 or more"
    if name in SENTINELS:
        most = SENTINELS[name].most
        return f"must be a limit above 0{f' and up to {most:g}' if most < math.inf else ''}, or off"
    known = [NAN, *SENTINELS, WINDOW]
    return f"no such sentinel{nearest(name, known)}; there are {', '.join(known)}"


class Watch:
    """Judges the means of the last `window` steps; fed with the records of a run from its first step on."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recent: deque[tuple[int, Means]] = deque()
        self._first: Means = {}
        self._armed = {name for name in limits.values if not SENTINELS[name].arms}

    def feed(self, step: int, logged: Mapping[str, Any]) -> str | None:
        """Take what was logged at a step; return what is wrong, if anything is, and how to switch that sentinel off."""
        self._recent.append((step, {name: value for name, value in logged.items() if is_number(value)}))
        while self._recent[0][0] <= step - self._limits.window and len(self._recent) > 1:
            self._recent.popleft()
        if step < self._limits.window:
            return None
        now = average([means for _, means in self._recent])
        self._first = self._first or now
        beyond = [name for name in self._limits.values if self._is_beyond(name, now)]
        return self._explain(beyond[0], step, now) if beyond else None

    def _is_beyond(self, name: str, now: Means) -> bool:
        sentinel, limit = SENTINELS[name], self._limits.values[name]
        try:
            value = sentinel.measure(now, self._first)
        except KeyError:
            return False
        if value <= limit / 2:
            self._armed.add(name)
        return name in self._armed and (value < limit if sentinel.floor else value > limit)

    def _explain(self, name: str, step: int, now: Means) -> str:
        sentinel, limit = SENTINELS[name], self._limits.values[name]
        shown = defaultdict(lambda: math.nan, now, value=sentinel.measure(now, self._first))
        what = sentinel.what.format_map(shown)
        steps = f"mean of steps {max(1, step - self._limits.window + 1)}-{step}"
        return (
            f"{name}: {what} (limit {limit:g}, {steps}); {sentinel.advice}; step {step} is saved, "
            f"and --resume --sentinel {name}=off goes on"
        )


def average(rows: list[Means]) -> Means:
    """The mean of each metric over the rows that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in columns.items()}
