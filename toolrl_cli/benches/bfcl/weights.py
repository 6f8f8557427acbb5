"""How much each category counts in the leaderboard's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from toolrl_cli.records import Json


def weigh_categories(
    aggregate: Callable[[Mapping[str, float]], Json], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The weight of each of the categories in every number of an aggregation that any of them counts in.

    An aggregation is linear once it is known what ran, so a category's weight is what it leaves when
    it alone is right.
    """
    weights: dict[str, dict[str, float]] = {}
    for name in names:
        found = aggregate({other: float(other == name) for other in names})
        overall = {key: found[key] for key in ("overall", "overall_of_what_ran")}
        for number, weight in {**overall, **found["groups_of_what_ran"]}.items():
            if weight:
                weights.setdefault(number, {})[name] = weight
    return weights
