"""Curves of a run as PNG."""

from __future__ import annotations

from pathlib import Path

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Json, expect


def plot_rewards(metrics_path: Path, picture_path: Path) -> None:
    """Draw the total reward and each part over the optimizer steps of a GRPO run.

    Raises:
        DataError: the metrics are missing or hold no reward.
    """
    from matplotlib.figure import Figure

    records = list(read_records(metrics_path, lambda record: expect(record, dict, "metrics")))
    curves = reward_curves(records)
    if not curves:
        raise DataError(f"{metrics_path}: holds no reward; is this a grpo run?")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="mean reward of the step")
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, linewidth=2 if name == "total" else 1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture_path, dpi=150)


def reward_curves(records: list[Json]) -> dict[str, list[tuple[int, float]]]:
    """(step, mean) points of the total and of each part, from metrics records; steps without a value are left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for key, value in record.items():
            is_part = key.startswith("rewards/") and key.endswith("/mean")
            if value is not None and (key == "reward" or is_part):
                name = key.split("/")[1] if is_part else "total"
                curves.setdefault(name, []).append((record["step"], value))
    return curves
