"""The credit of matched calls: values by hand, and brute force over all matchings."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolrl_cli.errors import FormatError
from toolrl_cli.records import PredictedCall, ToolCall
from toolrl_cli.rewards.assignment import assign
from toolrl_cli.rewards.matching import Match, match_calls


def gold(*calls: tuple[str, dict[str, Any]]) -> list[ToolCall]:
    return [ToolCall(name, arguments) for name, arguments in calls]


def predicted(*calls: tuple[object, object]) -> list[PredictedCall]:
    return [PredictedCall(name, arguments) for name, arguments in calls]


HAND_VALUES = [
    # r_name 1, r_param |{a}|/|{a,b,c}| = 1/3, r_value 1; S_max 1 + 1 + 2
    ([("f", {"a": 1, "b": 2})], [("f", {"a": 1, "c": 3})], Match(1 + (1 / 3 + 1), 4.0, (0,))),
    # r_name |{f}|/|{f,g}| = 1/2, f whole: 1 + 2; S_max 1 + 2 + 3
    ([("f", {"a": 1, "b": 2}), ("g", {"x": 1})], [("f", {"b": 2, "a": 1})], Match(3.5, 6.0, (0, None))),
    # r_name 1/2 (f once of twice), r_param of two empty sets 1; S_max 1 + 1
    ([("f", {})], [("f", {}), ("f", {})], Match(1.5, 2.0, (0,))),
    # swapped calls: r_name 1, both whole: (1 + 1) + (1 + 1); S_max 1 + 2 + 2
    ([("f", {"a": 1}), ("f", {"a": 2})], [("f", {"a": 2}), ("f", {"a": 1})], Match(5.0, 5.0, (1, 0))),
    # gold 2 with prediction 1 earns 1 + 2, gold 1 with prediction 2 nothing: 1 + 3, where in-order greed gets 1 + 3/2
    ([("f", {"a": 1}), ("f", {"a": 1, "b": 2})], [("f", {"a": 1, "b": 2}), ("f", {"c": 0})], Match(4.0, 6.0, (1, 0))),
    # no name in common
    ([("f", {"a": 1})], [("g", {"a": 1})], Match(0.0, 3.0, (None,))),
    # one prediction for three gold calls: r_name 1/3, the best is gold 2: 1 + 1; S_max 1 + 3 + 3
    ([("f", {"a": 1}), ("f", {"a": 2}), ("f", {"a": 3})], [("f", {"a": 2})], Match(1 / 3 + 2, 7.0, (None, 0, None))),
    # a name that is no string is one more call: r_name 1/2
    ([("f", {})], [("f", {}), (True, None)], Match(1.5, 2.0, (0,))),
    # 1 == 1.0 == True, and nested values compare whole
    ([("f", {"a": 1, "b": [1, {"c": 2}]})], [("f", {"a": True, "b": [1.0, {"c": 2}]})], Match(4.0, 4.0, (0,))),
    ([("f", {"b": [1, 2]})], [("f", {"b": [1, 3]})], Match(2.0, 3.0, (0,))),
    # r_param 0: no argument in common
    ([("f", {"a": 1})], [("f", {})], Match(1.0, 3.0, (0,))),
]


@pytest.mark.parametrize(("wanted", "given_calls", "expected"), HAND_VALUES)
def test_hand_values(wanted: Any, given_calls: Any, expected: Match) -> None:
    assert match_calls(gold(*wanted), predicted(*given_calls)) == expected


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(["f"], {})], "list or an object"),
        ([("f", {}), ({"f": 1}, {})], "list or an object"),
        ([("f", None)], "call of f has no object as its arguments"),
        ([("f", [1]), ("f", {"a": 1})], "call of f has no object as its arguments"),
    ],
)
def test_calls_that_cannot_be_compared(calls: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        match_calls(gold(("f", {"a": 1})), predicted(*calls))


def test_parameters_of_another_name_are_never_looked_at() -> None:
    assert match_calls(gold(("f", {})), predicted(("f", {}), ("g", None))) == Match(1.5, 2.0, (0,))


def test_nan_is_equal_in_equal_lists_only() -> None:
    nan = float("nan")
    assert match_calls(gold(("f", {"a": nan})), predicted(("f", {"a": nan}))) == Match(3.0, 3.0, (0,))
    # r_name 1/2, r_param 1, r_value 0
    assert match_calls(gold(("f", {"a": nan})), predicted(("f", {"a": nan}), ("g", {}))) == Match(1.5, 3.0, (0,))


def test_sixty_calls_of_one_name() -> None:
    wanted = gold(*(("f", {"i": i, "j": i % 7}) for i in range(60)))
    shuffled = predicted(*(("f", {"j": i * 7 % 60 % 7, "i": i * 7 % 60}) for i in range(60)))
    match = match_calls(wanted, shuffled)
    # 1 + 60 + 120, and the prediction i * 7 mod 60 belongs to that gold call
    assert (match.earned, match.possible) == (181.0, 181.0)
    assert match.pairs == tuple(i * 43 % 60 for i in range(60))


VALUES = st.sampled_from([0, 1, True, "1", None, [1]])
CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)), max_size=4
)


def index(left: list[str], right: list[str]) -> Fraction:
    one, two = Counter(left), Counter(right)
    union = (one | two).total()
    return Fraction((one & two).total(), union) if union else Fraction(1)


def brute_force(wanted: list[ToolCall], given_calls: list[PredictedCall]) -> Fraction:
    """The definition, word for word: the best of all ways to give each gold call another prediction or none."""
    best = Fraction(0)
    slots: list[PredictedCall | None] = [*given_calls, *([None] * len(wanted))]
    for choice in permutations(slots, len(wanted)):
        credit = Fraction(0)
        for call, other in zip(wanted, choice, strict=True):
            if other is not None and other.name == call.name:
                arguments: Any = other.arguments
                credit += index(list(call.arguments), list(arguments))
                credit += sum(k in arguments and arguments[k] == v for k, v in call.arguments.items())
        best = max(best, credit)
    return best + index([call.name for call in wanted], [str(call.name) for call in given_calls])


@settings(max_examples=150, deadline=None)
@given(CALLS, CALLS)
def test_brute_force(wanted: Any, given_calls: Any) -> None:
    match = match_calls(gold(*wanted), predicted(*given_calls))
    assert match.earned == pytest.approx(float(brute_force(gold(*wanted), predicted(*given_calls))), abs=1e-12)
    assert match.possible == 1 + len(wanted) + sum(len(arguments) for _, arguments in wanted)
    used = [pair for pair in match.pairs if pair is not None]
    assert len(used) == len(set(used))
    assert all(
        given_calls[pair][0] == call[0] for call, pair in zip(wanted, match.pairs, strict=True) if pair is not None
    )


@st.composite
def weight_tables(draw: st.DrawFn) -> list[list[float]]:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    weight = st.integers(0, 12).map(lambda n: n / 3)
    return draw(st.lists(st.lists(weight, min_size=columns, max_size=columns), min_size=rows, max_size=rows))


@settings(max_examples=200, deadline=None)
@given(weight_tables())
def test_assignment_is_the_best(weights: list[list[float]]) -> None:
    wide = weights if len(weights) <= len(weights[0]) else [list(column) for column in zip(*weights, strict=True)]
    best = max(
        sum(row[k] for row, k in zip(wide, choice, strict=True))
        for choice in permutations(range(len(wide[0])), len(wide))
    )
    pairs = assign(weights)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs) == len(wide)
    assert sum(weights[i][j] for i, j in pairs) == pytest.approx(best)


def test_no_column_no_pair() -> None:
    assert assign([[], []]) == []


def test_values_nested_too_deeply_to_compare_raise() -> None:
    with pytest.raises(RecursionError):
        match_calls(gold(("f", {"a": nest(100_000)})), predicted(("f", {"a": nest(100_000)})))


def nest(depth: int) -> list[Any]:
    """`[[[...]]]`, deeper than Python can recurse."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
