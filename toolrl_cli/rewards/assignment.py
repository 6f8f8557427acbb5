"""The assignment of rows to columns with the largest sum of weights, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Weights = Sequence[Sequence[float]]


def assign(weights: Weights) -> list[tuple[int, int]]:
    """Pairs (row, column), each row and column once at most, with the largest possible sum of weights.

    Weights are not negative, so min(rows, columns) pairs come back.
    """
    if not weights or not weights[0]:
        return []
    if len(weights) == 1:
        return [(0, max(range(len(weights[0])), key=weights[0].__getitem__))]
    if len(weights) == len(weights[0]) == 2:
        (a, b), (c, d) = weights
        return [(0, 0), (1, 1)] if a + d >= b + c else [(0, 1), (1, 0)]
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
