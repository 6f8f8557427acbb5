"""The editions of the leaderboard that we run: their packages, their categories, and the groups they add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from toolrl_cli.benches.bfcl.aggregation import Accuracies, Scores, mean, weigh
from toolrl_cli.downloads import Wheel
from toolrl_cli.errors import UsageError, nearest
from toolrl_cli.records import Json

LIVE_AST = {"live_simple": 258, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24}
PYTHON_AST = {"multiple": 200, "parallel": 200, "parallel_multiple": 200}
MULTI_TURN = dict.fromkeys(
    ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"), 200
)


@dataclass(frozen=True)
class Edition:
    """One version of the leaderboard.

    Args:
        name: of the bench.
        wheel: the official package.
        ast: entries of each category that is checked by value.
        relevance: entries of each category that asks whether to call at all.
        multi_turn: entries of each category that is a dialogue with a simulator.
        weights: what each group counts in the overall score.
        group: the groups' scores from the categories', None for one of which nothing ran.
        absent: the groups that do not run here, and why.
        ceiling: what the gold answers reach.
    """

    name: str
    wheel: Wheel
    ast: Mapping[str, int]
    relevance: Mapping[str, int]
    multi_turn: Mapping[str, int]
    weights: Mapping[str, int]
    group: Callable[[Scores], dict[str, float | None]]
    absent: tuple[str, ...]
    ceiling: str

    @property
    def counts(self) -> dict[str, int]:
        """The entries of every category, in the leaderboard's order."""
        return {**self.ast, **self.relevance, **self.multi_turn}

    def choose_categories(self, names: Sequence[str]) -> tuple[str, ...]:
        """The categories to run in the leaderboard's order, all that are supported for none.

        Raises:
            UsageError: a name is no category, or one that is not supported.
        """
        for name in names:
            if name not in self.counts:
                known = f"{', '.join(self.counts)}{nearest(name, self.counts)}"
                raise UsageError(f"category {name!r} is not supported; choose from {known}")
        return tuple(name for name in self.counts if name in names or not names)

    def aggregate(self, accuracy: Mapping[str, float]) -> Json:
        """The leaderboard's numbers, where what did not run counts as 0, and the same mean over what ran.

        A live category weighs its full number of entries also when only some of them ran.
        """
        official = self.group(Accuracies(accuracy, missing=0.0))
        ran = self.group(Accuracies(accuracy, missing=None))
        return {
            "overall": weigh(official, self.weights),
            "groups": official,
            "overall_of_what_ran": weigh(ran, self.weights),
            "groups_of_what_ran": ran,
        }


def group_v4(scores: Scores) -> dict[str, float | None]:
    """The groups of bfcl-eval 2026.3.23, `generate_leaderboard_csv`."""
    simple = mean(scores[name] for name in ("simple_python", "simple_java", "simple_javascript"))
    return {
        "non_live": mean([simple, *(scores[name] for name in PYTHON_AST)]),
        "live": weigh(scores, LIVE_AST),
        "irrelevance": mean(scores[name] for name in ("irrelevance", "live_irrelevance")),
        "multi_turn": mean(scores[name] for name in MULTI_TURN),
        "agentic": scores["agentic"],
    }


def group_v3(scores: Scores) -> dict[str, float | None]:
    """The groups of bfcl-eval 2025.6.8, `generate_leaderboard_csv`: the irrelevant count among the others."""
    simple = mean(scores[name] for name in ("simple", "java", "javascript"))
    return {
        "non_live": mean([simple, *(scores[name] for name in PYTHON_AST), scores["irrelevance"]]),
        "live": weigh(scores, {**LIVE_AST, "live_irrelevance": 882, "live_relevance": 18}),
        "multi_turn": mean(scores[name] for name in MULTI_TURN),
    }


V4 = Edition(
    name="bfcl",
    wheel=Wheel("bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"),
    ast={"simple_python": 400, "simple_java": 100, "simple_javascript": 50, **PYTHON_AST, **LIVE_AST},
    relevance={"irrelevance": 240, "live_irrelevance": 884, "live_relevance": 16},
    multi_turn=MULTI_TURN,
    weights={"non_live": 10, "live": 10, "irrelevance": 10, "multi_turn": 30, "agentic": 40},
    group=group_v4,
    absent=(
        "overall is partial: agentic (40%) did not run and counts as 0, so 60 of 100 is the most; "
        "its memory and web search need embeddings and a search key",
    ),
    ceiling="the official gold answers themselves pass 2495 of the 2501 AST and all 800 multi-turn entries",
)
V3 = Edition(
    name="bfcl-v3",
    wheel=Wheel("bfcl-eval", "2025.6.8", "f93fee3a66d33f8ea09e5174b4ba72aa80732b31506be1043da8ffb23c299cc3"),
    ast={"simple": 400, "java": 100, "javascript": 50, **PYTHON_AST, **LIVE_AST},
    relevance={"irrelevance": 240, "live_irrelevance": 882, "live_relevance": 18},
    multi_turn=MULTI_TURN,
    weights={"non_live": 1, "live": 1, "multi_turn": 1},
    group=group_v3,
    absent=(),
    ceiling="the official gold answers themselves pass 2495 of the 2501 AST and all 800 multi-turn entries",
)
EDITIONS = {edition.name: edition for edition in (V4, V3)}
