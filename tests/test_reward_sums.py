"""Several rewards as one, and schedules stretched to a run: the same in training and in `toolrl score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, WEATHER, InProcess, Place, read_rows, refusal, write_lines

from toolrl_cli.errors import ConfigError, UsageError
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Rollout, Target
from toolrl_cli.rewards import Reward, find_reward
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import PRESETS

POLITE = """
def polite(completions, **columns):
    texts = [completion[0]["content"] for completion in completions]
    return [None if not text else float("please" in text) for text in texts]
"""
TARGET = Target.from_json(EXAMPLES[0]["target"])
GOOD = '<think> please </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
TEXTS = (GOOD, "please", "", GOOD.replace("please", "I think"))


@pytest.fixture
def polite(tmp_path: Path) -> str:
    """A user's reward function."""
    path = tmp_path / "polite.py"
    path.write_text(POLITE)
    return f"{path}:polite"


def rollouts(step: int = 0) -> list[Rollout]:
    return [Rollout(text, TARGET, step=step, tools=(WEATHER,)) for text in TEXTS]


def test_a_sum_adds_weighted_totals_and_keeps_each_part(polite: str) -> None:
    reward = find_reward(f"fine-grained,{polite}=0.5")
    assert reward.weights == {"format": 1.0, "correctness": 1.0, "polite": 0.5}
    scores = reward.score_batch(rollouts())
    assert [score.total for score in scores] == [4.5, -2.5, -3.0, 4.0]
    assert [dict(score.parts) for score in scores] == [
        {"format": 1.0, "correctness": 3.0, "polite": 1.0},
        {"format": 0.0, "correctness": -3.0, "polite": 1.0},
        {"format": 0.0, "correctness": -3.0, "polite": None},
        {"format": 1.0, "correctness": 3.0, "polite": 0.0},
    ]
    alone = find_reward("fine-grained").score_batch(rollouts())
    assert [(score.outcome, score.reasons) for score in scores] == [(one.outcome, one.reasons) for one in alone]
    assert reward.full_format(0) == ("format", 1.0)


def test_parts_of_one_name_are_told_apart() -> None:
    reward = find_reward("robust=2,length=0.25")
    assert reward.weights == {
        "robust-format": 2.0,
        "robust-correctness": 2.0,
        "length-format": 0.25,
        "length-correctness": 0.25,
        "length": 0.25,
    }
    assert reward.reads_tools
    no_call = Target.from_json(EXAMPLES[2]["target"])
    assert [reward.applies(part, no_call) for part in reward.weights] == [True, True, True, False, True]
    assert reward.full_format(0) == ("robust-format", 1.0)


def test_the_digest_holds_every_reward_and_weight() -> None:
    names = ("fine-grained", "fine-grained=2", "fine-grained,length", "length,fine-grained", "fine-grained,length=2")
    assert len({find_reward(name).digest for name in names}) == len(names)
    assert find_reward("fine-grained=1").digest == find_reward("fine-grained").digest


def test_a_setting_is_for_the_specs_that_have_its_part(tmp_path: Path) -> None:
    longer = tmp_path / "longer.yaml"
    longer.write_text("length: {low: 0, high: 1, words: 512}\n")
    plain = find_reward(f"fine-grained,{longer}=0.5")
    for changes in ({"matching": "greedy"}, {"settings": {"correctness.high": 5}}):
        changed: Reward = find_reward(f"fine-grained,{longer}=0.5", **changes)
        assert changed.weights == plain.weights
    for changes, why in (
        ({"matching": "greedy"}, "--matching: .*longer.yaml has no part 'correctness'"),
        ({"settings": {"formt.high": 5}}, "--set-reward formt.high: fine-grained, .*longer.yaml has no part 'formt'"),
    ):
        name = str(longer) if "matching" in changes else f"fine-grained,{longer}"
        with pytest.raises(UsageError, match=why):
            find_reward(name, **changes)


def test_settings_are_for_the_specs_of_a_sum(polite: str) -> None:
    reward = find_reward(f"coarse,{polite}", settings={"correctness.high": 5})
    assert reward.score(rollouts()[0]).total == 1 + 5 + 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fine-grained=0", "--reward fine-grained=0: the weight must be a number up to 1e+09 in size, other than 0"),
        ("coarse,length=nan", "--reward length=nan: the weight must be a number up to 1e+09 in size, other than 0"),
        ("coarse=1,coarse=2", "--reward coarse=1,coarse=2: two rewards have one name; give each once, with its weight"),
        ("coarse,", "unknown reward ''; choose from"),
        ("coarse=much", "unknown reward 'coarse=much'; choose from"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(name: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        find_reward(name)
    assert str(refused.value).startswith(why)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("horizon", [20, 105, 420])
def test_a_horizon_runs_through_the_schedule_in_so_many_steps(preset: str, horizon: int) -> None:
    """Step 21 of 105 is step 4 of 20: the reward at a share of the run is that of the released run."""
    released, stretched = find_reward(preset), find_reward(preset, settings={"horizon": horizon})
    assert isinstance(released, SpecReward)
    for step in (0, 21, 42, 84, 105, 147):
        at = step * horizon // 105
        before, after = (
            [score.total for score in reward.score_batch(rollouts(when))]
            for reward, when in ((released, step), (stretched, at))
        )
        assert after == pytest.approx(before)
    scheduled = preset in ("dynamic", "two-stage", "dynamic-length")
    assert (stretched.digest == released.digest) == (horizon == 105 or not scheduled)


@pytest.mark.parametrize("horizon", [0, -5, "soon", True])
def test_a_horizon_that_cannot_be_is_refused(horizon: object) -> None:
    with pytest.raises(ConfigError, match=r"^dynamic: horizon"):
        find_reward("dynamic", settings={"horizon": horizon})


def score(cli: InProcess, rows: Path, output: Path, *words: object) -> dict[str, Any]:
    done = cli("score", rows, "-o", output, "--json", *words)
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.mark.slow
def test_training_and_score_agree_on_a_sum(trained: Place, cli: InProcess, tmp_path: Path, polite: str) -> None:
    reward = ("--reward", "dynamic", "--reward", f"{polite}=0.5", "--matching", "greedy")
    words = ("grpo", trained.folder / "ex.jsonl", "--model", trained.folder / "runs/sft", "-o", tmp_path / "run")
    sizes = ("--batch-size", 4, "--num-generations", 2, "--max-completion-length", 8, "--epochs", 1)
    done = cli(*words, *sizes, *reward, "--horizon", "auto", "--json")
    assert done.exit_code == 0, done.output
    manifest = read_manifest(tmp_path / "run")
    settings = {"horizon": 3}  # six examples, two a step
    assert manifest.config["reward"] == f"dynamic,{polite}=0.5"
    assert (manifest.config["horizon"], manifest.config["reward_settings"]) == ("auto", settings)
    own: Reward = find_reward(f"dynamic,{polite}=0.5", matching="greedy", settings=settings)
    assert manifest.hashes["reward"] == own.digest
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert [row["step"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows[0]["score"].keys() == {"total", "format", "correctness", "polite", "outcome", "reasons"}
    score(cli, tmp_path / "run/completions.jsonl", tmp_path / "again.jsonl", *reward, "--set-reward", "horizon=3")
    assert read_rows(tmp_path / "again.jsonl") == rows
    for step, logged in enumerate(read_rows(tmp_path / "run/metrics.jsonl")):
        made = [row["score"] for row in rows if row["step"] == step]
        assert logged["reward"] == pytest.approx(sum(one["total"] for one in made) / 4)
        assert logged["rewards/format/mean"] == pytest.approx(sum(one["format"] for one in made) / 4)
        assert "rewards/polite/mean" in logged


def test_score_in_processes_and_audit_take_a_sum(cli: InProcess, tmp_path: Path) -> None:
    rows = write_lines(
        tmp_path / "rows.jsonl",
        [{"id": str(i), "completion": GOOD, "target": EXAMPLES[0]["target"]} for i in range(4)],
    )
    names = ("--reward", "fine-grained", "--reward", "length=2")
    summary = score(cli, rows, tmp_path / "out.jsonl", *names, "--workers", 2)
    assert summary["reward"] == "fine-grained,length=2"
    assert cli("audit", "robust,length=0.1", "--limit", 3, "--json").exit_code in (0, 3)


@pytest.mark.parametrize("horizon", ["0", "-3", "soon", "1.5"])
def test_an_impossible_horizon_is_one_line(
    horizon: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", f"--horizon={horizon}")
    assert refusal(cli(*words), 2) == f"--horizon {horizon}: must be auto, or a number of steps above 0"


def test_a_function_has_no_schedule(
    polite: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("grpo", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8)
    line = refusal(cli(*words, "--reward", polite, "--horizon", 5), 2)
    assert line.startswith(f"{polite}: is a function; matching, horizon and other values are set for")
