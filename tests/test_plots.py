"""The curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Place, write_lines

from toolrl_cli.errors import DataError
from toolrl_cli.report.plots import metric_curves, plot_presets, plot_rewards, plot_run, reward_curves, total_curves

ROWS: list[dict[str, Any]] = [
    {"step": 1, "reward": -2.0, "rewards/format/mean": 0.5, "rewards/format/std": 0.1, "rewards/length/mean": None},
    {"step": 2, "reward": None, "rewards/format/mean": 0.75, "loss": 3.0},
    {"step": 4, "reward": 1.0},
]


def test_curves_hold_the_total_and_each_part_where_they_have_a_value() -> None:
    assert reward_curves(ROWS) == {"total": [(1, -2.0), (4, 1.0)], "format": [(1, 0.5), (2, 0.75)]}


def test_a_run_becomes_a_picture(trained: Place, tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_rewards(trained.folder / "runs/grpo/metrics.jsonl", tmp_path / "reward.png")
    assert imread(tmp_path / "reward.png").shape == (600, 1050, 4)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], ": holds no reward; is this a grpo run?"),
        ([{"step": 1, "loss": 3.0}], ": holds no reward; is this a grpo run?"),
        ([[1]], ":1: metrics must be an object, not a list"),
    ],
)
def test_metrics_without_a_reward_are_refused(rows: list[object], why: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "metrics.jsonl", rows)
    with pytest.raises(DataError) as refused:
        plot_rewards(path, tmp_path / "reward.png")
    assert str(refused.value) == f"{path}{why}"
    assert not (tmp_path / "reward.png").exists()


def test_missing_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        plot_rewards(tmp_path / "none.jsonl", tmp_path / "reward.png")


def test_what_presets_pay_over_the_steps() -> None:
    curves = total_curves("two-stage", last_step=31)
    # 1 + 1, from step 30 on 0.5 + 3; one value of two wrong earns 1 + 1 + 1 of 1 + 1 + 2
    assert (curves["exact"][28:], curves["silence"][28:]) == ([2.0, 2.0, 3.5, 3.5], [-1.0, -1.0, -3.0, -3.0])
    assert curves["one value wrong"][28:] == [1.5, 1.5, 2.0, 2.0]
    assert curves["well-formed, no call"][28:] == [0.0, 0.0, -2.5, -2.5]
    longer = total_curves("dynamic-length", last_step=105)["exact"]
    assert (longer[0], longer[105]) == (5.0, 4.7)  # 448 of 384 words, then of 640


def test_the_presets_become_a_picture(tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_presets(tmp_path / "presets.png", last_step=3)
    assert imread(tmp_path / "presets.png").shape == (600, 1500, 4)


def test_a_run_is_drawn_with_a_panel_for_each_kind_of_number(tmp_path: Path) -> None:
    from matplotlib.image import imread

    rows = [{"step": step, "loss": 1.0 / step, "exact": None, "mean_token_accuracy": 0.5} for step in (1, 2, 3)]
    assert metric_curves(rows, {"loss": "loss", "exact": "exact"}) == {"loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)]}
    plot_run(write_lines(tmp_path / "metrics.jsonl", rows), tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape == (360, 1200, 4)


def test_a_run_that_logged_nothing_has_no_picture(tmp_path: Path) -> None:
    plot_run(write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "epoch": 0.5}]), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
