"""BFCL v4's categories and how the leaderboard adds them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolrl_cli.errors import ConfigError
from toolrl_cli.records import Json

AST_COUNTS = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
}
COUNTS = {**AST_COUNTS, "irrelevance": 240, "live_irrelevance": 884, "live_relevance": 16}
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
WEIGHTS = {"non_live": 10, "live": 10, "irrelevance": 10, "multi_turn": 30, "agentic": 40}


def choose_categories(names: Sequence[str]) -> tuple[str, ...]:
    """The categories to run in the leaderboard's order, all that are supported for none.

    Raises:
        ConfigError: a name is no category, or one that is not supported.
    """
    for name in names:
        if name not in COUNTS:
            raise ConfigError(f"category {name!r} is not supported; choose from {', '.join(COUNTS)}")
    return tuple(name for name in COUNTS if name in names or not names)


def aggregate(accuracy: Mapping[str, float]) -> Json:
    """The leaderboard's numbers, where what did not run counts as 0, and the same mean over what ran.

    A live category weighs its full number of entries also when only some of them ran.
    """
    return {
        "overall": weigh(group_scores(accuracy, missing=0.0), WEIGHTS),
        "groups": group_scores(accuracy, missing=0.0),
        "overall_of_what_ran": weigh(group_scores(accuracy, missing=None), WEIGHTS),
        "groups_of_what_ran": group_scores(accuracy, missing=None),
    }


def group_scores(accuracy: Mapping[str, float], *, missing: float | None) -> dict[str, float | None]:
    """The scores that the overall number is made of (bfcl-eval 2026.3.23, `generate_leaderboard_csv`)."""
    scores = {name: accuracy.get(name, missing) for name in COUNTS}
    simple = mean([scores["simple_python"], scores["simple_java"], scores["simple_javascript"]])
    return {
        "non_live": mean([simple, scores["multiple"], scores["parallel"], scores["parallel_multiple"]]),
        "live": weigh({name: scores[name] for name in LIVE_AST}, COUNTS),
        "irrelevance": mean([scores["irrelevance"], scores["live_irrelevance"]]),
        "multi_turn": missing,
        "agentic": missing,
    }


def mean(scores: Sequence[float | None]) -> float | None:
    """The mean of the scores there are, None for none."""
    return weigh({str(i): score for i, score in enumerate(scores)}, {str(i): 1 for i in range(len(scores))})


def weigh(scores: Mapping[str, float | None], weights: Mapping[str, int]) -> float | None:
    """The weighted mean of the scores there are, None for none."""
    there = {name: score for name, score in scores.items() if score is not None}
    if not there:
        return None
    return sum(score * weights[name] for name, score in there.items()) / sum(weights[name] for name in there)
