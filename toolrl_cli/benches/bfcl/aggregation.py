"""How the leaderboard adds categories up to one number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Scores = Mapping[str, float | None]


class Accuracies(dict[str, float | None]):
    """The accuracy of each category; one that did not run has `missing`."""

    def __init__(self, accuracy: Mapping[str, float], *, missing: float | None) -> None:
        super().__init__(accuracy)
        self._missing = missing

    def __missing__(self, category: str) -> float | None:
        return self._missing


def mean(scores: Iterable[float | None]) -> float | None:
    """The mean of the scores there are, None for none."""
    there = [score for score in scores if score is not None]
    return sum(there) / len(there) if there else None


def weigh(scores: Scores, weights: Mapping[str, int]) -> float | None:
    """The weighted mean of the scores there are, None for none."""
    there = [(score, weight) for name, weight in weights.items() if (score := scores[name]) is not None]
    return sum(score * weight for score, weight in there) / sum(weight for _, weight in there) if there else None
