"""Limits that a user sets on figures: `2.5`, or `name=2.5`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from toolrl_cli.errors import UsageError

DIGITS = 9
"""Figures are rounded to these before they are compared, so that 41% less 40% is no more than one point."""


def read_limits(option: str, texts: Iterable[str], *, default: str, kind: str) -> dict[str, float]:
    """The limits that an option was given, by name.

    Args:
        option: the option, for messages.
        texts: a number, which is the limit of `default`, or `name=number`.
        default: the name that a number alone stands for.
        kind: what a name names, for messages.

    Raises:
        UsageError: a text is neither, or a name is given twice.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, equals, limit = text.rpartition("=")
        try:
            value = float(limit)
        except ValueError:
            value = math.nan
        if (equals and not name) or not math.isfinite(value):
            raise UsageError(f"{option} {text}: must be a number, or {kind}=number")
        name = name or default
        if name in limits:
            raise UsageError(f"{option} {text}: {name} is given twice")
        limits[name] = value
    return limits
