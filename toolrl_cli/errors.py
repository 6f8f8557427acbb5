"""Everything toolrl raises on purpose. A message is one line: where, what, the fix."""

from __future__ import annotations

from collections.abc import Iterable


class ToolrlError(Exception):
    """A failure the user can act on; `exit_status` is what the command ends with."""

    exit_status = 1


def first_line(error: BaseException) -> str:
    """The first line of what an error says, its class when it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something known is close, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class DataError(ToolrlError):
    """A file or a record is missing, malformed or empty."""


class ConfigError(ToolrlError):
    """An option, a training argument, a reward or a format is unknown or contradicts another."""


class UsageError(ConfigError):
    """An option that is wrong by itself or beside another, whatever the files, the model and the machine hold."""

    exit_status = 2


class FormatError(ToolrlError):
    """A completion does not follow its text format."""


class SetupError(ToolrlError):
    """The environment lacks something: an extra, a model, a network, a permission."""


class GateFailed(ToolrlError):
    """A quality gate such as `--fail-under` was not met."""

    exit_status = 3


class TrainingStopped(ToolrlError):
    """A sentinel stopped a training; `--resume` can go on from the last checkpoint."""

    exit_status = 4


class Terminated(KeyboardInterrupt):
    """SIGTERM, with which a cluster takes a machine away, stopped the command."""

    exit_status = 143
