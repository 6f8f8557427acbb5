"""A scored row in words: the gold calls and the predicted ones as a diff."""

from __future__ import annotations

from collections.abc import Iterator

from toolrl_cli.errors import FormatError
from toolrl_cli.records import Json, PredictedCall, Rollout, Score, ToolCall
from toolrl_cli.rewards.matching import match_calls
from toolrl_cli.rewards.readers import find_reader
from toolrl_cli.rewards.reasons import pair_leftovers, show, show_name
from toolrl_cli.rewards.values import equal_values

SAME, GOLD, GIVEN = " ", "-", "+"


def explain_row(row: Json, rollout: Rollout, score: Score) -> list[str]:
    """A heading, the calls as a diff (`-` gold only, `+` predicted only), and the reasons."""
    parts = ", ".join(f"{name} {'-' if value is None else f'{value:g}'}" for name, value in score.parts.items())
    name = f"{show(row['id'])} " if "id" in row else ""
    heading = f"{name}{score.outcome.value}, total {score.total:g} ({parts})"
    return [heading, *diff_calls(rollout), *(f"  # {reason}" for reason in score.reasons)]


def diff_calls(rollout: Rollout) -> Iterator[str]:
    """The lines of the diff; a completion whose calls cannot be read is shown as what is missing."""
    gold, predicted = rollout.target.tool_calls, read_calls(rollout)
    try:
        pairs = pair_leftovers(gold, predicted, match_calls(gold, predicted).pairs)
    except (FormatError, RecursionError):
        pairs = pair_leftovers(gold, predicted, [None] * len(gold))
    for call, pair in zip(gold, pairs, strict=True):
        yield from (mark(GOLD, line) for line in show_call(call)) if pair is None else diff_call(call, predicted[pair])
    for position, surplus in enumerate(predicted):
        if position not in pairs:
            yield from (mark(GIVEN, line) for line in show_call(surplus))


def read_calls(rollout: Rollout) -> list[PredictedCall]:
    """The calls of a completion, read strictly or else leniently."""
    text = rollout.text.strip()
    _, calls, error, _ = find_reader(rollout.text_format, "released").read(text, rollout.target)
    if error is not None:
        _, calls, _, _ = find_reader(rollout.text_format, "lenient").read(text, rollout.target)
    return list(calls)


def diff_call(gold: ToolCall, predicted: PredictedCall) -> Iterator[str]:
    """A gold call beside its prediction, argument by argument."""
    given = predicted.arguments if isinstance(predicted.arguments, dict) else {}
    yield mark(SAME, show_name(gold.name))
    for name, value in gold.arguments.items():
        if name in given and equal_values(given[name], value):
            yield mark(SAME, show_argument(name, value))
            continue
        yield mark(GOLD, show_argument(name, value))
        if name in given:
            yield mark(GIVEN, show_argument(name, given[name]))
    yield from (mark(GIVEN, show_argument(name, value)) for name, value in given.items() if name not in gold.arguments)


def show_call(call: ToolCall | PredictedCall) -> Iterator[str]:
    """The lines of a call: its name, then its arguments."""
    yield show_name(call.name)
    if isinstance(call.arguments, dict):
        yield from (show_argument(name, value) for name, value in call.arguments.items())
    else:
        yield f"  {show(call.arguments)}"


def show_argument(name: str, value: object) -> str:
    """An argument on a line of its own."""
    return f"  {show_name(name)} = {show(value)}"


def mark(sign: str, line: str) -> str:
    """A line of the diff with its sign."""
    return f"  {sign} {line}"
