"""The gold of examples.jsonl as a benchmark, scored by the reward of the training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from toolrl_cli.benches.base import (
    Answer,
    BenchConfig,
    BenchKind,
    Entry,
    Findings,
    Result,
    SingleTurn,
    Verdict,
    data_of,
)
from toolrl_cli.benches.failures import compare_calls
from toolrl_cli.benches.stats import Unit, bootstrap_mean, wilson
from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Example, Outcome, Rollout, Target
from toolrl_cli.rewards import Reward, find_reward

NEARLY = (Outcome.PARTIAL, Outcome.WRONG)


class ExamplesBench(SingleTurn):
    """Grades completions against the target of each example."""

    name = "examples"

    def __init__(self, data: Path, reward: Reward, text_format: TextFormat) -> None:
        self._data = data
        self._reward = reward
        self._text_format = text_format

    def entries(self) -> list[Entry]:
        """The examples of the file, one category for each source.

        Raises:
            DataError: a line is no example, or one whose target the format cannot express, an id occurs twice,
                or there is none.
        """
        seen: set[str] = set()

        def parse(raw: object) -> Entry:
            example = Example.from_json(raw)
            if example.id in seen:
                raise DataError(f"id {example.id!r} occurs twice")
            seen.add(example.id)
            try:
                self._text_format.render_target(example.target)
            except FormatError as error:
                raise DataError(str(error)) from error
            return Entry(example.id, example.source, example.tools, example.messages, payload=example.target)

        entries = list(read_records(self._data, parse))
        if not entries:
            raise DataError(f"{self._data}: no examples; run toolrl prepare first")
        return entries

    def grade(self, entry: Entry, answers: Sequence[Answer]) -> Verdict:
        """Correct is the exact calls, or where the target holds none, no call and the response it asks for."""
        (answer,) = answers
        target: Target = entry.payload
        completion = answer.completion
        rollout = Rollout(
            completion.text, target, completion.truncated, tools=entry.tools, text_format=self._text_format.name
        )
        score = self._reward.score(rollout)
        correct = score.outcome is (Outcome.EXACT if target.tool_calls else Outcome.ABSTAINED)
        error_type, error = ("parse", answer.error) if answer.error else (None, None)
        if correct and not target.tool_calls and target.response is not None and not self._responds(completion.text):
            correct, error_type, error = False, "no_response", "no call, but no response in the format either"
        failure = compare_calls(target.tool_calls, answer.calls) if score.outcome in NEARLY and answer.calls else None
        return Verdict(correct, score.outcome, error_type, error, score.to_json(), None if correct else failure)

    def gold(self, entry: Entry) -> str:
        """The target in the text format."""
        return self._text_format.render_target(entry.payload)

    def _responds(self, text: str) -> bool:
        try:
            return bool((self._text_format.parse_target(text).response or "").strip())
        except FormatError:
            return False

    def foresee(self, categories: Sequence[str]) -> dict[str, Unit]:
        """The exact rate, the total and the parts of the reward."""
        return {"exact_rate": "share", **dict.fromkeys(["total", *self._reward.weights], "mean")}

    def summarize(self, results: Sequence[Result], *, seed: int) -> Findings:
        """The exact rate, the mean reward and the mean of each of its parts."""
        metrics = {"exact_rate": wilson(sum(result.correct for result in results), len(results))}
        scores = [result.score or {} for result in results]
        for part in [name for name in scores[0] if name not in ("outcome", "reasons")]:
            values = [score[part] for score in scores if score.get(part) is not None]
            metrics |= {part: bootstrap_mean(values, seed=seed)} if values else {}
        return Findings(metrics)


def open_examples(config: BenchConfig, text_format: TextFormat) -> nullcontext[ExamplesBench]:
    """The bench of a file; raise `ConfigError` for an unknown reward."""
    return nullcontext(ExamplesBench(data_of(config), find_reward(config.reward), text_format))


KIND = BenchKind(
    "examples",
    open_examples,
    options=frozenset({"data", "reward"}),
    hashes=lambda config: {"reward": find_reward(config.reward).digest},
)
