"""Why calls did not earn everything, worded so that a person can act on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

from toolrl_cli.records import PredictedCall, ToolCall
from toolrl_cli.rewards.matching import ValueTest

MOST_ITEMS = 20
LONGEST_VALUE = 60


def explain_calls(
    gold: Sequence[ToolCall], predicted: Sequence[PredictedCall], pairs: Sequence[int | None], equal: ValueTest
) -> tuple[str, ...]:
    """Differences between each gold call and the prediction matched with it, then calls too many.

    Gold calls count from 1. A gold call without a partner is set beside a prediction of its name that is left.
    """
    reasons = limit(iterate_reasons(gold, predicted, pair_leftovers(gold, predicted, pairs), equal))
    return reasons or ("calls: equal, but in another order",)


def pair_leftovers(
    gold: Sequence[ToolCall], predicted: Sequence[PredictedCall], pairs: Sequence[int | None]
) -> list[int | None]:
    """The pairs, and for gold calls without one the first prediction of the same name that is left."""
    filled = list(pairs)
    if None not in filled:
        return filled
    taken = set(filled)
    left: dict[str, list[int]] = {}
    for position, call in enumerate(predicted):
        if position not in taken and isinstance(call.name, str):
            left.setdefault(call.name, []).append(position)
    for position, wanted in enumerate(gold):
        if filled[position] is None and left.get(wanted.name):
            filled[position] = left[wanted.name].pop(0)
    return filled


def iterate_reasons(
    gold: Sequence[ToolCall], predicted: Sequence[PredictedCall], pairs: Sequence[int | None], equal: ValueTest
) -> Iterator[str]:
    """The reasons without a limit."""
    for number, (call, pair) in enumerate(zip(gold, pairs, strict=True), start=1):
        if pair is None:
            yield f"missing call {show_name(call.name)}"
        elif differences := limit(compare_arguments(call, predicted[pair], equal)):
            yield f"call {number} ({show_name(call.name)}): {'; '.join(differences)}"
    if len(predicted) > len(gold) or None in pairs:
        matched = set(pairs)
        yield from (f"spurious call {show_name(c.name)}" for i, c in enumerate(predicted) if i not in matched)


def compare_arguments(call: ToolCall, predicted: PredictedCall, equal: ValueTest) -> Iterator[str]:
    """Arguments that are missing, differ (`name: given != wanted`), or are too many."""
    given = predicted.arguments
    if not isinstance(given, dict):
        yield "no object as its arguments"
        return
    wanted = call.arguments
    for name in wanted:
        if name not in given:
            yield f"missing {show_name(name)}"
    for name, value in wanted.items():
        if name in given and not equal(call, name, given[name]):
            yield f"{show_name(name)}: {show(given[name])} != {show(value)}"
    for name in given:
        if name not in wanted:
            yield f"extra {show_name(name)}"


def limit(reasons: Iterator[str]) -> tuple[str, ...]:
    """The first `MOST_ITEMS`, and a word when there are more: a hostile completion may hold a million."""
    first = tuple(islice(reasons, MOST_ITEMS))
    return (*first, "and more") if next(reasons, None) is not None else first


def show_name(name: object) -> str:
    """A name as it stands when it is short printable text, else as JSON."""
    plain = isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_VALUE
    return str(name) if plain else show(name)


def show(value: object) -> str:
    """A value as JSON of at most `LONGEST_VALUE` characters."""
    if isinstance(value, str):
        value = value[: LONGEST_VALUE + 1]
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply)"
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
