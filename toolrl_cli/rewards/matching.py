"""How far predicted calls agree with the gold ones: the credit of the ToolRL paper (arXiv 2504.13958).

The sum over matched calls is made as large as it can be, exactly, by an assignment among calls
of one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolrl_cli.errors import FormatError
from toolrl_cli.records import Json, PredictedCall, ToolCall

Weights = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Match:
    """The credit earned of the credit possible; `pairs[i]` is the prediction that gold call i got."""

    earned: float
    possible: float
    pairs: tuple[int | None, ...]


def match_calls(gold: Sequence[ToolCall], predicted: Sequence[PredictedCall]) -> Match:
    """Match calls of equal names, one to one, for the most credit.

    `earned` = Jaccard(names) + Σ (Jaccard(argument names) + equal values) over the matched pairs,
    `possible` = 1 + |gold| + Σ |arguments| (the paper's R_max and S_max, the first being r_name + Σ).

    Raises:
        FormatError: a predicted name is a list or an object, or a call of a gold name has no object as parameters.
    """
    possible = 1.0 + len(gold) + sum(len(call.arguments) for call in gold)
    if len(gold) == len(predicted) and all(map(same_call, gold, predicted)):
        return Match(possible, possible, tuple(range(len(gold))))
    candidates = group_by_name([call.name for call in predicted])
    pairs: list[int | None] = [None] * len(gold)
    credits = [0.0] * len(gold)
    shared_names = 0
    for name, rows in group_by_name([call.name for call in gold]).items():
        columns = candidates.get(name, [])
        shared_names += min(len(rows), len(columns))
        weights = [[call_credit(gold[row], predicted[column]) for column in columns] for row in rows]
        for i, j in assign(weights):
            pairs[rows[i]], credits[rows[i]] = columns[j], weights[i][j]
    earned = jaccard(shared_names, len(gold), len(predicted))
    for credit in credits:
        earned += credit
    return Match(earned, possible, tuple(pairs))


def group_by_name(names: Sequence[object]) -> dict[object, list[int]]:
    """The positions of each name; raise `FormatError` for a name that is a list or an object."""
    groups: dict[object, list[int]] = {}
    try:
        for position, name in enumerate(names):
            groups.setdefault(name, []).append(position)
    except TypeError as error:
        raise FormatError('a call has a list or an object as its "name"') from error
    return groups


def call_credit(gold: ToolCall, predicted: PredictedCall) -> float:
    """Jaccard of the argument names, plus one point for each gold argument with an equal value.

    Raises:
        FormatError: the predicted parameters are no object.
    """
    wanted, given = gold.arguments, predicted.arguments
    if not isinstance(given, dict):
        raise FormatError(f'call of {gold.name} has no object as its "parameters"')
    shared = equal = 0
    for name, value in wanted.items():
        if name in given:
            shared += 1
            equal += same_value(given[name], value)
    return jaccard(shared, len(wanted), len(given)) + equal


def jaccard(shared: int, left: int, right: int) -> float:
    """Size of the intersection over that of the union, from the sizes; 1 for two empty sets."""
    union = left + right - shared
    return shared / union if union else 1.0


def same_call(gold: ToolCall, predicted: PredictedCall) -> bool:
    """Whether the calls are equal as whole JSON values."""
    return gold.name == predicted.name and same_value(predicted.arguments, gold.arguments)


def same_value(given: object, wanted: Json | object) -> bool:
    """Python equality of decoded JSON; values nested too deeply to compare count as unequal."""
    try:
        return given == wanted
    except RecursionError:
        return False


def assign(weights: Weights) -> list[tuple[int, int]]:
    """Pairs (row, column), each row and column once at most, with the largest possible sum of weights.

    Weights are not negative, so min(rows, columns) pairs come back.
    """
    if not weights or not weights[0]:
        return []
    if len(weights) == 1:
        return [(0, max(range(len(weights[0])), key=weights[0].__getitem__))]
    if len(weights) > len(weights[0]):
        return [(row, column) for column, row in assign(list(zip(*weights, strict=True)))]
    return sorted((row, column) for column, row in enumerate(assign_rows(weights)) if row is not None)


def assign_rows(weights: Weights) -> list[int | None]:
    """The row that owns each column (no fewer columns than rows), by shortest augmenting paths.

    Labels keep `row_label + column_label >= weight`, with equality on owned cells; rows enter one
    by one, each along the cheapest path to a free column (Jonker and Volgenant 1987), O(rows² columns).
    """
    row_labels = [max(row) for row in weights]
    column_labels = [0.0] * len(weights[0])
    owners: list[int | None] = [None] * len(weights[0])
    for row in range(len(weights)):
        path = cheapest_path(row, weights, row_labels, column_labels, owners)
        row_labels[row] -= path.cost
        for column, cost in path.settled.items():
            owner = owners[column]
            if owner is not None:
                column_labels[column] += path.cost - cost
                row_labels[owner] -= path.cost - cost
        column = path.end
        while (earlier := path.came_from[column]) is not None:
            owners[column] = owners[earlier]
            column = earlier
        owners[column] = row
    return owners


@dataclass(frozen=True, slots=True)
class Path:
    """A path to a free column: its end, its cost, the cost of each settled column, each column's predecessor."""

    end: int
    cost: float
    settled: dict[int, float]
    came_from: list[int | None]


def cheapest_path(
    start: int,
    weights: Weights,
    row_labels: Sequence[float],
    column_labels: Sequence[float],
    owners: Sequence[int | None],
) -> Path:
    """Dijkstra over columns from row `start`; a step costs by how much labels exceed the weight."""
    columns = range(len(owners))
    costs = [row_labels[start] + column_labels[k] - weights[start][k] for k in columns]
    came_from: list[int | None] = [None] * len(owners)
    settled: dict[int, float] = {}
    while True:
        nearest = min((k for k in columns if k not in settled), key=costs.__getitem__)
        base = settled[nearest] = costs[nearest]
        owner = owners[nearest]
        if owner is None:
            return Path(nearest, base, settled, came_from)
        row = weights[owner]
        for k in columns:
            cost = base + row_labels[owner] + column_labels[k] - row[k]
            if k not in settled and cost < costs[k]:
                costs[k], came_from[k] = cost, nearest
