"""Numbers of a reward that change with the training step."""

from __future__ import annotations

from dataclasses import dataclass, replace

WRITTEN_FOR = 105
"""Training steps of the runs that the released schedules were made for."""
LAST_STEP = 10**12
"""The largest step that a row, or `--step`, may say."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `start` at step 0 to `end` at step `horizon` in a straight line, then constant.

    `beyond` lets the line run on past the horizon.
    """

    start: float
    end: float
    horizon: float
    beyond: bool = False

    def at(self, step: int) -> float:
        """The number at a training step."""
        if step >= self.horizon and not self.beyond:
            return self.end
        return self.start + (self.end - self.start) * step / self.horizon


@dataclass(frozen=True, slots=True)
class Switch:
    """`before` until step `switch`, `after` from then on."""

    before: float
    after: float
    switch: float

    def at(self, step: int) -> float:
        """The number at a training step."""
        return self.before if step < self.switch else self.after


Scheduled = float | Ramp | Switch


def value_at(number: Scheduled, step: int) -> float:
    """A number that may be scheduled, at a training step."""
    return number.at(step) if isinstance(number, (Ramp, Switch)) else number


def stretch(number: Scheduled, factor: float) -> Scheduled:
    """The same course over `factor` times as many steps; a constant stays."""
    if isinstance(number, Ramp):
        return replace(number, horizon=number.horizon * factor)
    return replace(number, switch=number.switch * factor) if isinstance(number, Switch) else number
