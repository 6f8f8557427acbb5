"""Scores a completion against its target; the reward of ToolRL (arXiv 2504.13958, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolrl_cli.errors import FormatError
from toolrl_cli.formats import find_format
from toolrl_cli.records import Outcome, Score, Target
from toolrl_cli.rewards.matching import match_calls
from toolrl_cli.rewards.parts import explain_layout, follows_layout, layout_of, length_credit
from toolrl_cli.rewards.presets import Preset
from toolrl_cli.rewards.reasons import explain_calls

TEXT_FORMAT = find_format("toolrl")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the calls: the outcome, the share of the credit as (earned, possible), the reasons."""

    outcome: Outcome
    share: tuple[float, float] = (0.0, 1.0)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward that is ready to score: no text makes it raise, and every number is finite."""

    preset: Preset

    @property
    def name(self) -> str:
        """The name of the preset."""
        return self.preset.name

    @property
    def digest(self) -> str:
        """Hash of the definition; a run records it."""
        return self.preset.digest

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that sum to the total, in order."""
        return self.preset.parts

    @property
    def maximum(self) -> float:
        """The most a completion can earn, when its target holds calls."""
        return self.preset.maximum

    def score_batch(self, texts: Sequence[str], targets: Sequence[Target], truncated: Sequence[bool]) -> list[Score]:
        """Score each completion against the target and the truncation flag at its position."""
        return [
            self.score_completion(text, target, truncated=cut)
            for text, target, cut in zip(texts, targets, truncated, strict=True)
        ]

    def score_completion(self, text: str, target: Target, *, truncated: bool = False) -> Score:
        """Score one completion; `truncated` says that it ran into the token limit."""
        text = text.strip()
        verdict = judge_calls(text, target, truncated)
        reasons = list(verdict.reasons)
        layout = layout_of(target)
        parts = {"format": 1.0, "correctness": 0.0}
        if not follows_layout(text, layout):
            parts["format"] = 0.0
            reasons[:0] = [f"format: {reason}" for reason in explain_layout(text, layout)]
        if target.tool_calls:
            lowest, highest = self.preset.lowest, self.preset.highest
            earned, possible = verdict.share
            parts["correctness"] = lowest + (highest - lowest) * earned / possible
        if "length" in self.preset.parts:
            parts["length"], words = length_credit(text, self.preset.thought_words)
            if parts["length"] < 1:
                reasons.append(f"length: {words} words of thought, full at {self.preset.thought_words}")
        return Score(add_up(parts), parts, verdict.outcome, tuple(reasons))


def judge_calls(text: str, target: Target, truncated: bool) -> Verdict:
    """Parse and match the calls of a completion; the one place where an outcome is decided.

    Exact means equal calls in any order. What is exact stays so when truncated; everything else
    that was cut off is TRUNCATED and keeps its credit.
    """
    gold = target.tool_calls
    try:
        predicted = TEXT_FORMAT.parse_tool_calls(text)
        match = match_calls(gold, predicted)
    except FormatError as error:
        verdict = Verdict(Outcome.MALFORMED, reasons=(f"calls: {error}",))
    else:
        if not gold:
            outcome = Outcome.SPURIOUS_CALL if predicted else Outcome.ABSTAINED
        elif not predicted:
            outcome = Outcome.NO_CALL
        elif match.earned == match.possible:
            return Verdict(Outcome.EXACT, (match.earned, match.possible))
        else:
            outcome = Outcome.PARTIAL if match.earned else Outcome.WRONG
        verdict = Verdict(outcome, (match.earned, match.possible), explain_calls(gold, predicted, match.pairs))
    if truncated:
        reasons = (*verdict.reasons, "truncated: cut off at the token limit")
        return replace(verdict, outcome=Outcome.TRUNCATED, reasons=reasons)
    return verdict


def add_up(parts: dict[str, float]) -> float:
    """The parts added from left to right (`sum` rounds differently between Python versions)."""
    total = 0.0
    for part in parts.values():
        total += part
    return total
