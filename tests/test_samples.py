"""Several completions of each entry: pass@k, the spread, seeds, and resuming."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import exp
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from chat_servers import say, serve
from conftest import EXAMPLES, InProcess, read_rows, write_lines
from servers import Act

from toolrl_cli.benches.samples import Spread, pass_at
from toolrl_cli.errors import DataError
from toolrl_cli.evaluation import EvalConfig, evaluate, read_recorded, rescore, summary_tables
from toolrl_cli.formats import find_format
from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.inference.predictions import read_predictions
from toolrl_cli.records import Completion, Json, Target

GOLD = {e["id"]: find_format("toolrl").render_target(Target.from_json(e["target"])) for e in EXAMPLES}
RIGHT = {"oslo": 4, "tea": 2, "cook": 1, "rome": 0, "egg": 3, "lima": 0}
"""How many of four samples of each entry are right: the first ones."""


def recorded() -> list[Json]:
    return [
        {"id": id, "sample": i, "completion": GOLD[id] if i < right else "no"}
        for id, right in RIGHT.items()
        for i in range(4)
    ]


def configure(folder: Path, output: str = "out", **options: Any) -> EvalConfig:
    data = write_lines(folder / "examples.jsonl", EXAMPLES)
    return EvalConfig(bench="examples", output=folder / output, data=data, samples=4, **options)


@pytest.mark.parametrize(("n", "correct"), [(1, 0), (1, 1), (5, 0), (5, 2), (5, 4), (5, 5)])
def test_pass_at_k_is_the_share_of_the_subsets_with_a_correct_one(n: int, correct: int) -> None:
    samples = [i < correct for i in range(n)]
    for k in range(1, n + 1):
        assert pass_at(k, n, correct) == pytest.approx(fmean(any(chosen) for chosen in combinations(samples, k)))


def test_recorded_samples_give_pass_at_k_and_the_spread(tmp_path: Path) -> None:
    predictions = write_lines(tmp_path / "p.jsonl", recorded())
    summary = evaluate(configure(tmp_path, predictions=predictions))
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert Counter((row["id"], row["sample"]) for row in rows) == {(id, i): 1 for id in RIGHT for i in range(4)}
    assert {row["id"]: sum(r["correct"] for r in rows if r["id"] == row["id"]) for row in rows} == RIGHT

    accuracies = (4 / 6, 3 / 6, 2 / 6, 1 / 6)
    assert summary.samples == Spread(accuracies, fmean(accuracies), stdev(accuracies))
    # 4, 2, 1, 0, 3 and 0 of four are right: two of them hold a right one with chance 1, 5/6, 1/2, 0, 1 and 0.
    expected = {"pass@1": 10 / 24, "pass@2": (1 + 5 / 6 + 1 / 2 + 1) / 6, "pass@4": 4 / 6, "exact_rate": 4 / 6}
    assert {name: summary.metrics[name].value for name in expected} == pytest.approx(expected)
    assert (summary.n, summary.categories["test"].n, sum(summary.outcomes.values())) == (6, 6, 6)
    shown = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert shown["samples"] == {
        "accuracies": list(accuracies), "mean": fmean(accuracies), "standard_deviation": stdev(accuracies)
    }  # fmt: skip
    (spread,) = [table for table in summary_tables(summary) if table.title == "over the samples of each entry"]
    assert spread.rows == [["4", "41.67%", f"{100 * stdev(accuracies):.2f}%"]]


def test_rescoring_keeps_every_sample(tmp_path: Path) -> None:
    config = configure(tmp_path, predictions=write_lines(tmp_path / "p.jsonl", recorded()))
    before, rows = evaluate(config), read_rows(tmp_path / "out" / "results.jsonl")
    again = rescore(tmp_path / "out")
    assert replace(again.summary, notes=()) == before
    assert again.summary.notes == ("rescored by toolrl 0.1.0: 0 of 24 verdicts changed",)
    assert read_rows(tmp_path / "out" / "results.jsonl") == rows
    assert again == read_recorded(tmp_path / "out")

    write_lines(tmp_path / "out" / "results.jsonl", [
        row | {"correct": not row["correct"]} if row["id"] == "oslo" else row for row in reversed(rows)
    ])  # fmt: skip
    again = rescore(tmp_path / "out")
    assert replace(again.summary, notes=()) == before
    assert again.summary.notes == ("rescored by toolrl 0.1.0: 4 of 24 verdicts changed: oslo",)


def test_one_sample_is_as_it_was(tmp_path: Path) -> None:
    rows = [{"id": id, "completion": text} for id, text in GOLD.items()]
    config = configure(tmp_path, predictions=write_lines(tmp_path / "p.jsonl", rows))
    summary = evaluate(replace(config, samples=1))
    assert "samples" not in summary.to_json()
    assert not any("sample" in row for row in read_rows(tmp_path / "out" / "results.jsonl"))
    assert not any(name.startswith("pass@") for name in summary.metrics)


def test_a_sample_that_is_not_recorded_is_missing(tmp_path: Path) -> None:
    rows = [row for row in recorded() if (row["id"], row["sample"]) != ("oslo", 3)]
    summary = evaluate(configure(tmp_path, predictions=write_lines(tmp_path / "p.jsonl", rows)))
    missing = [row for row in read_rows(tmp_path / "out" / "results.jsonl") if row["error_type"] == "missing"]
    assert [(row["id"], row["sample"]) for row in missing] == [("oslo", 3)]
    assert summary.samples is not None
    assert summary.samples.accuracies[3] == 0.0
    assert (summary.errors.n, [(e.id, e.sample) for e in summary.errors.shown]) == (1, [("oslo", 3)])
    assert summary.notes == ("samples without a prediction, counted wrong: 1, the first of 'oslo', sample 3",)
    (table,) = [table for table in summary_tables(summary) if "without a verdict" in table.title]
    assert (table.title, table.rows) == (
        "1 samples of entries without a verdict, counted wrong", [["oslo, sample 3", "missing: no prediction"]]
    )  # fmt: skip
    assert rescore(tmp_path / "out").summary.errors == summary.errors


def test_a_sample_recorded_twice_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"id": "a", "sample": 1, "completion": "x"}] * 2)
    with pytest.raises(DataError, match=r":2: id 'a' occurs twice with sample 1"):
        read_predictions(path, find_format("toolrl"))


class SeededEngine:
    """Writes the gold or not as the seed of a prompt says; stops hard after `limit` prompts."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.asked: list[tuple[str, int]] = []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        for count, prompt in enumerate(prompts):
            if count == self.limit:
                raise KeyboardInterrupt
            self.asked.append(prompt.key)
            right = Sampling(1, 1.0, seed=5).seed_of(prompt) % 2
            yield prompt, Completion(GOLD[prompt.id] if right else "no")


def test_a_resumed_run_draws_the_samples_of_an_unbroken_one(tmp_path: Path) -> None:
    config = configure(tmp_path, model="scripted", temperature=1.0)
    whole = evaluate(replace(config, output=tmp_path / "whole"), engine=SeededEngine())
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, engine=SeededEngine(limit=7))
    engine = SeededEngine()
    assert evaluate(replace(config, resume=True), engine=engine) == whole
    assert engine.asked == [(e["id"], i) for e in EXAMPLES for i in range(4)][7:]
    assert whole.samples is not None
    assert len(set(whole.samples.accuracies)) > 1


def test_a_server_is_asked_for_each_sample_with_a_seed_of_its_own(tmp_path: Path) -> None:
    def respond(request: Json, earlier: int) -> Act:
        return say(f"drawn from {request['seed']}")

    with serve(respond) as server:
        config = configure(tmp_path, endpoint=server.url, served_model="m", temperature=0.8)
        evaluate(config)
        evaluate(replace(config, output=tmp_path / "again"))
    first, second = (
        {(row["id"], row["sample"]): row["completion"] for row in read_rows(tmp_path / name / "results.jsonl")}
        for name in ("out", "again")
    )
    assert first == second
    assert len(set(first.values())) == 24


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    """The tiny model and its tokenizer."""
    from toolrl_cli.training.models import load_for_inference

    return load_for_inference(str(tiny_model))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_local_sample_depends_on_its_seed_and_not_on_its_batch(loaded: tuple[Any, Any], batch_size: int) -> None:
    from toolrl_cli.inference.transformers_engine import TransformersEngine

    message = ({"role": "user", "content": "How is Oslo?"},)
    prompts = [Prompt(id, message, None, i) for id in ("a", "b") for i in range(4)]
    warm = Sampling(8, 1.0)
    alone = {p.key: c for q in prompts for p, c in TransformersEngine(*loaded, warm, batch_size=1).generate([q])}
    together = {p.key: c for p, c in TransformersEngine(*loaded, warm, batch_size=batch_size).generate(prompts)}
    assert together == alone
    assert len({completion.text for completion in alone.values()}) == 8
    other = TransformersEngine(*loaded, replace(warm, seed=1), batch_size=8)
    assert not {c.text for _, c in other.generate(prompts)} & {c.text for c in alone.values()}


@pytest.mark.parametrize("seeds", [[7, 8], None])
def test_tokens_are_drawn_from_the_softmax(seeds: list[int] | None) -> None:
    """20,000 draws from three scores at temperature 2; the standard deviation of a share is at most 0.0036."""
    import torch

    from toolrl_cli.inference.drawing import InverseTransform

    torch.manual_seed(0)
    logits = [1.0, float("-inf"), 3.0, -1.0]
    scores = torch.tensor(logits).repeat(2, 1)
    draw = InverseTransform(2.0, seeds, torch.device("cpu"))
    drawn = torch.stack([draw(scores, scores).argmax(-1) for _ in range(10_000)])
    weights = [exp(logit / 2) for logit in logits]
    for token, weight in enumerate(weights):
        share = (drawn == token).float().mean().item()
        assert share == pytest.approx(weight / sum(weights), abs=0.015)
    assert (drawn[:, 0] != drawn[:, 1]).any()


def test_the_command_takes_samples(tmp_path: Path, cli: InProcess) -> None:
    data = write_lines(tmp_path / "examples.jsonl", EXAMPLES)
    predictions = write_lines(tmp_path / "p.jsonl", recorded())
    words = ["eval", "--bench", "examples", "--data", data, "--predictions", predictions, "--samples", 4]
    done = cli(*words, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "pass@4" in done.stdout
    assert "standard deviation" in done.stdout
