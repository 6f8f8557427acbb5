"""Scores a completion against its target; the reward of ToolRL (arXiv 2504.13958, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from toolrl_cli.errors import FormatError
from toolrl_cli.records import Outcome, PredictedCall, Rollout, Score, Target
from toolrl_cli.rewards.matching import Match, Rules, match_calls, value_test
from toolrl_cli.rewards.parts import length_credit
from toolrl_cli.rewards.readers import find_reader
from toolrl_cli.rewards.reading import Reading
from toolrl_cli.rewards.reasons import explain_calls
from toolrl_cli.rewards.schedules import value_at
from toolrl_cli.rewards.spec import CorrectnessPart, RewardSpec

Verdict = tuple[Outcome, float, tuple[str, ...]]
"""What became of the calls: the outcome, the share of the credit in [0, 1], the reasons."""
# Looking a member up on its class is slow in Python 3.11.
EXACT, PARTIAL, WRONG, MALFORMED = Outcome.EXACT, Outcome.PARTIAL, Outcome.WRONG, Outcome.MALFORMED
TRUNCATED, NO_CALL = Outcome.TRUNCATED, Outcome.NO_CALL
SPURIOUS_CALL, ABSTAINED = Outcome.SPURIOUS_CALL, Outcome.ABSTAINED


@dataclass(frozen=True)
class SpecReward:
    """A reward made of a spec: no text makes it raise, and every number is finite."""

    spec: RewardSpec

    @property
    def name(self) -> str:
        """The name of the preset or of the file."""
        return self.spec.name

    @property
    def digest(self) -> str:
        """Hash of the definition; a run records it."""
        return self.spec.digest

    @cached_property
    def weights(self) -> dict[str, float]:
        """The parts that sum to the total, in order, with their weights."""
        return {name: part.weight for name, part in self.spec.parts.items()}

    @cached_property
    def reads_tools(self) -> bool:
        """Whether a score depends on the tools of the example."""
        return self._correctness.values == "schema"

    @cached_property
    def _correctness(self) -> CorrectnessPart:
        return self.spec.correctness or CorrectnessPart()

    @cached_property
    def _rules(self) -> Rules:
        part = self._correctness
        return Rules(part.matching, part.credit, part.values, part.surplus)

    @cached_property
    def _bounds(self) -> dict[int, list[tuple[str, float, float, float]]]:
        """What `_bounds_at` found, by training step."""
        return {}

    def bounds(self, step: int = 0) -> tuple[float, float]:
        """The lowest and the highest total at a training step, for an example with gold calls."""
        weighted = [(part.weight, *part.bounds(step)) for part in self.spec.parts.values()]
        return sum(w * low for w, low, _ in weighted), sum(w * high for w, _, high in weighted)

    def full_format(self, step: int) -> tuple[str, float] | None:
        """The part that judges the format, and what it gives a completion that keeps it; None where both earn alike."""
        low, high = self.spec.format.bounds(step) if self.spec.format else (0.0, 0.0)
        return ("format", high) if high > low else None

    def applies(self, part: str, target: Target) -> bool:
        """Whether a part can tell completions of a target apart: correctness cannot where no call is gold or judged."""
        return part != "correctness" or bool(target.tool_calls) or self._correctness.no_call == "judged"

    def score_batch(self, rollouts: Sequence[Rollout], *, explain: bool = True) -> list[Score]:
        """The score of each completion, in order; without `explain` they have no reasons, which is faster."""
        return [self.score(rollout, explain=explain) for rollout in rollouts]

    def score(self, rollout: Rollout, *, explain: bool = True) -> Score:
        """Score one completion."""
        spec, target, step = self.spec, rollout.target, rollout.step
        text = rollout.text.strip()
        reader = find_reader(rollout.text_format, spec.reading)
        reading = reader.read(text, target)
        outcome, share, reasons = self._judge(reading, rollout, explain)
        well_formed = reading[0]
        if rollout.truncated and reader.open_ended and target.response and not target.tool_calls:
            well_formed = False
        if explain and spec.format and not well_formed:
            wrong = reader.explain(text, target) or ["the text has no end"]
            reasons = (*(f"format: {why}" for why in wrong), *reasons)
        parts: dict[str, float | None] = {}
        total = 0.0
        for name, weight, low, high in self._bounds_at(step):
            if name == "format":
                value = high if well_formed else low
            elif name == "correctness":
                value = high if share == 1 else low + (high - low) * share
                if not target.tool_calls and self._correctness.no_call == "zero":
                    value = 0.0
            else:
                length, why = self._judge_length(reader.thought(text), step)
                value = low + (high - low) * length
                reasons = (*reasons, why) if explain and why else reasons
            parts[name] = value
            total += weight * value
        return Score(total, parts, outcome, reasons)

    def _judge_length(self, thought: str, step: int) -> tuple[float, str]:
        """The share of the length that a thought earns, and why it is not all."""
        full = max(1.0, value_at(self.spec.length.words, step)) if self.spec.length else 1.0
        share, words = length_credit(thought, full)
        return share, f"length: {words} words of thought, full at {full:g}" if share < 1 else ""

    def _bounds_at(self, step: int) -> list[tuple[str, float, float, float]]:
        """Name, weight, lowest and highest value of each part."""
        found = self._bounds.get(step)
        if found is None:
            self._bounds.clear()  # steps come in order: those before will not come back
            found = [(name, part.weight, *part.bounds(step)) for name, part in self.spec.parts.items()]
            self._bounds[step] = found
        return found

    def _judge(self, reading: Reading, rollout: Rollout, explain: bool) -> Verdict:
        """What became of the calls; the one place where an outcome is decided.

        Exact means that all credit is earned. What is exact stays so when truncated; everything
        else that was cut off is TRUNCATED and keeps its credit.
        """
        _, predicted, error, response = reading
        try:
            if error is not None:
                verdict = failed(error)
            elif rollout.target.tool_calls:
                verdict = self._judge_calls(predicted, rollout, explain)
            else:
                verdict = self._judge_silence(predicted, response, rollout.target, explain)
        except FormatError as reason:
            verdict = failed(str(reason))
        except RecursionError:
            verdict = failed("values are nested too deeply to compare")
        if rollout.truncated and verdict[0] is not EXACT:
            return TRUNCATED, verdict[1], (*verdict[2], "truncated: cut off at the token limit")
        return verdict

    def _judge_calls(self, predicted: Sequence[PredictedCall], rollout: Rollout, explain: bool) -> Verdict:
        gold, rules = rollout.target.tool_calls, self._rules
        if self.reads_tools:
            rules = replace(rules, tools=rollout.tools)
        match = match_calls(gold, predicted, rules) if predicted else Match(0.0, 1.0, (None,) * len(gold))
        if match.earned == match.possible:
            return EXACT, 1.0, ()
        reasons = explain_calls(gold, predicted, match.pairs, value_test(rules)) if explain else ()
        outcome = PARTIAL if match.earned else WRONG if predicted else NO_CALL
        return outcome, match.earned / match.possible, reasons

    def _judge_silence(
        self, predicted: Sequence[PredictedCall], response: str, target: Target, explain: bool
    ) -> Verdict:
        """The verdict where no call is gold: right is to make none, and to say something if the gold does."""
        if predicted:
            reasons = explain_calls((), predicted, (), value_test(self._rules)) if explain else ()
            return SPURIOUS_CALL, 0.0, reasons
        if target.response is not None and self.spec.reading == "lenient" and not response:
            return WRONG, 0.0, ("response: empty",)
        return ABSTAINED, 1.0, ()


def failed(why: str) -> Verdict:
    """The verdict on calls that cannot be read or compared."""
    return MALFORMED, 0.0, (f"calls: {why}",)
