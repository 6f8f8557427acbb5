"""Why calls did not earn everything, worded so that a person can act on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

from toolrl_cli.records import Json, PredictedCall, ToolCall
from toolrl_cli.rewards.matching import same_value

MOST_ITEMS = 20
LONGEST_VALUE = 60


def explain_calls(
    gold: Sequence[ToolCall], predicted: Sequence[PredictedCall], pairs: Sequence[int | None]
) -> tuple[str, ...]:
    """Differences between each gold call and the prediction matched with it, then calls too many."""
    return limit(iterate_reasons(gold, predicted, pairs))


def iterate_reasons(
    gold: Sequence[ToolCall], predicted: Sequence[PredictedCall], pairs: Sequence[int | None]
) -> Iterator[str]:
    """The reasons without a limit; gold calls count from 1."""
    for number, (call, pair) in enumerate(zip(gold, pairs, strict=True), start=1):
        if pair is None:
            yield f"missing call {show_name(call.name)}"
            continue
        given = predicted[pair].arguments
        differences = limit(compare_arguments(call.arguments, given if isinstance(given, dict) else {}))
        if differences:
            yield f"call {number} ({show_name(call.name)}): {'; '.join(differences)}"
    matched = set(pairs)
    yield from (f"spurious call {show_name(c.name)}" for i, c in enumerate(predicted) if i not in matched)


def compare_arguments(wanted: Json, given: Json) -> Iterator[str]:
    """Arguments that are missing, differ (`name: given != wanted`), or are too many."""
    for name in wanted:
        if name not in given:
            yield f"missing {show_name(name)}"
    for name, value in wanted.items():
        if name in given and not same_value(given[name], value):
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
