"""Which calls may go to the simulator: the official code evaluates them as Python text."""

from __future__ import annotations

import builtins

from toolrl_cli.records import ToolCall


def find_danger(call: ToolCall) -> str | None:
    """What Python would run, beside a tool, if the call were evaluated as text; None for a plain call.

    A plain call of a tool that does not exist is no danger: the simulator answers it with an error.
    """
    if not is_plain(call.name):
        return f"{call.name[:80]!r} is no plain name of a tool"
    if hasattr(builtins, call.name):
        return f"{call.name!r} is a function of Python and no tool"
    odd = next((key for key in call.arguments if not is_plain(key)), None)
    return None if odd is None else f"{odd[:80]!r} is no plain name of an argument"


def is_plain(name: str) -> bool:
    """Whether the text is one ASCII identifier that Python gives no meaning of its own."""
    return name.isascii() and name.isidentifier() and not name.startswith("__")
