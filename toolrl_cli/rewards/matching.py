"""How far predicted calls agree with the gold ones: the credit of the ToolRL paper (arXiv 2504.13958).

Pairs are made either for the largest possible sum, exactly, or greedily as the released code does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct

from toolrl_cli.errors import FormatError
from toolrl_cli.records import Json, PredictedCall, ToolCall
from toolrl_cli.rewards.assignment import assign
from toolrl_cli.rewards.values import equal_by_schema, equal_values, properties_by_name

Gold = Sequence[ToolCall]
Predicted = Sequence[PredictedCall]
Pairs = list[int | None]
PairCredit = Callable[[ToolCall, PredictedCall], float]
ValueTest = Callable[[ToolCall, str, object], bool]
NAME_IS_NO_TEXT = 'a call has a list or an object as its "name"'


class Match(Struct, frozen=True, gc=False):
    """The credit earned of the credit possible; `pairs[i]` is the prediction that gold call i got."""

    earned: float
    possible: float
    pairs: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """How calls are compared; the fields are those of `spec.CorrectnessPart`."""

    matching: str = "optimal"
    credit: str = "fine-grained"
    values: str = "python"
    surplus: str = "names"
    tools: Sequence[Json] = field(default=(), compare=False)


def match_calls(gold: Gold, predicted: Predicted, rules: Rules = Rules()) -> Match:
    """Match calls of equal names, one to one, and add up their credit.

    `earned` = names + Σ credit of the pairs and `possible` = 1 + Σ the most a gold call can earn:
    the paper's R_max and S_max. With credit `fine-grained`, names and argument names earn their
    Jaccard index and each equal value a point; `strict` asks for equal lists instead of the index;
    `intermediate` gives one point for a call that is equal as a whole; `coarse` nothing but for
    equal lists. Lists that Python finds equal, in order, always earn all, unless values are
    compared by the schema.

    Raises:
        FormatError: a predicted name is a list or an object, or a call of a gold name has no object as
            parameters; only where the credit looks at names or parameters one by one.
        RecursionError: values are nested too deeply to compare.
    """
    possible = 1.0 + len(gold)
    if rules.credit != "intermediate":
        for call in gold:
            possible += len(call.arguments)
    if rules.values == "python" and equal_lists(gold, predicted):
        return Match(possible, possible, tuple(range(len(gold))))
    if rules.credit == "coarse":
        return Match(0.0, possible, (None,) * len(gold))
    credit = pair_credit(rules)
    match = match_unique(gold, predicted, credit) if rules.credit != "strict" else None
    if match is None:
        names = name_credit([call.name for call in gold], [call.name for call in predicted], rules)
        match_pairs = match_greedily if rules.matching == "greedy" else match_optimally
        match = (names, *match_pairs(gold, predicted, credit))
    earned, pairs, credits = match
    for points in credits:
        earned += points
    if rules.surplus == "scaled" and len(predicted) > len(gold):
        earned *= len(gold) / len(predicted)
    return Match(earned, possible, tuple(pairs))


def match_unique(gold: Gold, predicted: Predicted, credit: PairCredit) -> tuple[float, Pairs, list[float]] | None:
    """The credit for names, the pairs and their credit, where no name occurs twice on either side; else None.

    Then there is one way to match, which every matching finds.

    Raises:
        FormatError: a predicted name is a list or an object.
    """
    if len(gold) == len(predicted) == 1 and gold[0].name == predicted[0].name:
        return 1.0, [0], [credit(gold[0], predicted[0])]
    positions: dict[object, int] = {}
    try:
        for position, call in enumerate(predicted):
            positions[call.name] = position
    except TypeError as error:
        raise FormatError(NAME_IS_NO_TEXT) from error
    if len(positions) < len(predicted) or len({call.name for call in gold}) < len(gold):
        return None
    pairs: Pairs = []
    credits: list[float] = []
    for wanted in gold:
        found = positions.get(wanted.name)
        pairs.append(found)
        credits.append(0.0 if found is None else credit(wanted, predicted[found]))
    shared = len(gold) - pairs.count(None)
    return shared / (len(gold) + len(predicted) - shared), pairs, credits


def equal_lists(gold: Gold, predicted: Predicted) -> bool:
    """Whether the calls are the same as JSON, in the same order, with nothing beside them."""
    if len(gold) != len(predicted):
        return False
    for wanted, given in zip(gold, predicted, strict=True):
        if wanted.name != given.name or wanted.arguments != given.arguments or given.extra:
            return False
    return True


def name_credit(gold: Sequence[str], predicted: Sequence[object], rules: Rules) -> float:
    """Jaccard index of the names, repeats counted; in strict credit 1 for equal lists, else 0."""
    if gold == predicted:
        return 1.0
    if rules.credit == "strict" or not predicted:
        return 0.0
    available = count_names(predicted)
    shared = sum(min(count, available.get(name, 0)) for name, count in count_names(gold).items())
    return jaccard(shared, len(gold), len(predicted))


def count_names(names: Sequence[object]) -> dict[object, int]:
    """How often each name occurs; raise `FormatError` for a name that is a list or an object."""
    counts: dict[object, int] = {}
    try:
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    except TypeError as error:
        raise FormatError(NAME_IS_NO_TEXT) from error
    return counts


def pair_credit(rules: Rules) -> PairCredit:
    """The function that gives a pair of calls its credit."""
    if rules.values == "schema":
        return partial(schema_credit, properties_by_name(rules.tools))
    return CREDITS[rules.credit]


def value_test(rules: Rules) -> ValueTest:
    """The function that says whether a value equals that of a gold call's argument."""
    if rules.values == "python":
        return lambda call, name, given: equal_values(given, call.arguments[name])
    schemas = properties_by_name(rules.tools)
    return lambda call, name, given: equal_by_schema(given, call.arguments[name], schemas.get(call.name, {}).get(name))


def fine_credit(gold: ToolCall, predicted: PredictedCall) -> float:
    """Jaccard index of the argument names, plus one point for each gold argument with an equal value."""
    wanted, given = gold.arguments, predicted.arguments
    if not isinstance(given, dict):
        given = arguments_of(predicted)
    shared = equal = 0
    for name, value in wanted.items():
        if name in given:
            shared += 1
            if given[name] == value:
                equal += 1
    union = len(wanted) + len(given) - shared
    return equal + (shared / union if union else 1.0)


def strict_credit(gold: ToolCall, predicted: PredictedCall) -> float:
    """As `fine_credit`, but argument names earn 1 only in the same order, else nothing."""
    wanted, given = gold.arguments, arguments_of(predicted)
    equal = sum(1 for name, value in wanted.items() if name in given and given[name] == value)
    return float(list(wanted) == list(given)) + equal


def whole_credit(gold: ToolCall, predicted: PredictedCall) -> float:
    """One point for a call that is equal as a whole."""
    return float(not predicted.extra and predicted.arguments == gold.arguments)


def schema_credit(schemas: dict[str, Json], gold: ToolCall, predicted: PredictedCall) -> float:
    """As `fine_credit`, with values compared by the types that the tool's schema declares."""
    wanted, given = gold.arguments, arguments_of(predicted)
    properties = schemas.get(gold.name, {})
    shared = [name for name in wanted if name in given]
    equal = sum(equal_by_schema(given[name], wanted[name], properties.get(name)) for name in shared)
    return jaccard(len(shared), len(wanted), len(given)) + equal


def arguments_of(predicted: PredictedCall) -> Json:
    """The arguments of a prediction; raise `FormatError` when they are no object."""
    if not isinstance(predicted.arguments, dict):
        raise FormatError(f"call of {predicted.name} has no object as its arguments")
    return predicted.arguments


def jaccard(shared: int, left: int, right: int) -> float:
    """Size of the intersection over that of the union, from the sizes; 1 for two empty sets."""
    union = left + right - shared
    return shared / union if union else 1.0


CREDITS: dict[str, PairCredit] = {
    "fine-grained": fine_credit,
    "strict": strict_credit,
    "intermediate": whole_credit,
}


def match_optimally(gold: Gold, predicted: Predicted, credit: PairCredit) -> tuple[Pairs, list[float]]:
    """The prediction and the credit of each gold call, for the largest possible sum."""
    candidates = positions_by_name(predicted)
    pairs: Pairs = [None] * len(gold)
    credits = [0.0] * len(gold)
    for name, rows in positions_by_name(gold).items():
        columns = candidates.get(name, [])
        if len(rows) == len(columns) == 1:
            pairs[rows[0]], credits[rows[0]] = columns[0], credit(gold[rows[0]], predicted[columns[0]])
        elif columns:
            weights = [[credit(gold[row], predicted[column]) for column in columns] for row in rows]
            for i, j in assign(weights):
                pairs[rows[i]], credits[rows[i]] = columns[j], weights[i][j]
    return pairs, credits


def positions_by_name(calls: Sequence[ToolCall | PredictedCall]) -> dict[str, list[int]]:
    """The positions of each name that is text; a prediction of any other name has no gold call."""
    groups: dict[str, list[int]] = {}
    for position, call in enumerate(calls):
        if isinstance(call.name, str):
            groups.setdefault(call.name, []).append(position)
    return groups


def match_greedily(gold: Gold, predicted: Predicted, credit: PairCredit) -> tuple[Pairs, list[float]]:
    """Each gold call in turn takes the best prediction of its name that is left, the first of equals.

    A prediction without credit is left for the others, as in the paper's released code.
    """
    pairs: Pairs = []
    credits: list[float] = []
    left = dict(enumerate(predicted))
    for call in gold:
        best, most = None, 0.0
        for position, candidate in left.items():
            if candidate.name == call.name and (earned := credit(call, candidate)) > most:
                best, most = position, earned
        pairs.append(best)
        credits.append(most)
        if best is not None:
            del left[best]
    return pairs, credits
