"""Curves of a run as PNG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolrl_cli.errors import ConfigError, DataError, UsageError
from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import read_records
from toolrl_cli.records import Json, Rollout, Target, ToolCall, expect
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.spec import PRESETS

BARS = 40
"""The most bars of a histogram."""
PANELS = {
    "loss": {"loss": "loss"},
    "share": {
        "exact": "exact",
        "mean_token_accuracy": "token accuracy",
        "completions/clipped_ratio": "cut off",
        "frac_reward_zero_std": "groups without signal",
        "flat_groups/dropped": "groups dropped",
    },
    "tokens": {"completions/mean_length": "mean length", "completions/max_length": "longest"},
    "nats a token": {"entropy": "entropy", "kl": "KL divergence"},
    "gradient norm": {"grad_norm": "gradient norm"},
}
"""The curves below each other in the picture of a run: for each panel its axis, and a name for each metric."""


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
    draw_curves(axes, curves)
    figure.savefig(picture_path, dpi=150)


def plot_run(metrics_path: Path, picture_path: Path) -> None:
    """Draw what a run logged over its optimizer steps, a panel for each kind of number; nothing where none is logged.

    Raises:
        DataError: the metrics are missing or malformed.
    """
    from matplotlib.figure import Figure

    records = list(read_records(metrics_path, lambda record: expect(record, dict, "metrics")))
    panels = {"reward": reward_curves(records)}
    panels |= {axis: metric_curves(records, names) for axis, names in PANELS.items()}
    panels = {axis: curves for axis, curves in panels.items() if curves}
    if not panels:
        return
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(10, 3 * rows), layout="constrained")
    for place, (axis, curves) in enumerate(panels.items(), start=1):
        draw_curves(figure.add_subplot(rows, 2, place, xlabel="optimizer step", ylabel=axis), curves)
    figure.savefig(picture_path, dpi=120)


def draw_curves(axes: Any, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw named curves of (step, value) points; the total stands out, and a single point is a dot."""
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        marker = "." if len(points) == 1 else ""
        axes.plot(steps, values, label=name, marker=marker, linewidth=2 if name == "total" else 1)
    axes.grid(alpha=0.3)
    axes.legend()


def refuse_picture(path: Path, *, overwrite: bool) -> None:
    """Raise `ConfigError` for a picture that is no PNG, or that exists and is not to be replaced."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are PNG; name it {path.with_suffix('.png')}")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: exists; add --overwrite to replace it, or choose another name")


def plot_lengths(lengths: Mapping[str, Counter[int]], picture_path: Path) -> None:
    """Draw a histogram of each measure of a file of examples, over the values up to the 99th percentile."""
    from matplotlib.figure import Figure

    columns = min(3, len(lengths))
    rows = -(-len(lengths) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    for place, (name, counts) in enumerate(lengths.items(), start=1):
        values = sorted(counts.elements())
        most = values[min(len(values) - 1, len(values) * 99 // 100)]
        cut = f"\n(up to the 99th percentile; the largest is {values[-1]})" if most < values[-1] else ""
        axes = figure.add_subplot(rows, columns, place, xlabel=name.replace("_", " ") + cut, ylabel="examples")
        shown = {value: count for value, count in counts.items() if value <= most}
        if most - values[0] < BARS:
            axes.bar(list(shown), list(shown.values()))
        else:
            axes.hist(list(shown), weights=list(shown.values()), bins=BARS)
    figure.savefig(picture_path, dpi=120)


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


def metric_curves(records: list[Json], names: Mapping[str, str]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) points of each of the metrics that some record holds, by the name it is shown under."""
    curves = {
        shown: [(record["step"], record[key]) for record in records if isinstance(record.get(key), int | float)]
        for key, shown in names.items()
    }
    return {shown: points for shown, points in curves.items() if points}


def plot_presets(picture_path: Path, last_step: int) -> None:
    """Draw, for every preset, what four answers to one example earn at each training step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 5, sharex=True, sharey=True).flat, PRESETS, strict=True):
        for answer, totals in total_curves(name, last_step).items():
            axes.plot(totals, label=answer)
        axes.set(title=name, ylim=(-4.5, 5.5))
        axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.supxlabel("training step")
    figure.supylabel("total")
    figure.savefig(picture_path, dpi=100)


def total_curves(preset: str, last_step: int) -> dict[str, list[float]]:
    """The totals, at each step from 0 on, of answers to a gold call of two arguments, with thoughts of 448 words."""
    reward, text_format = find_reward(preset), find_format("toolrl")
    gold = Target(tool_calls=(ToolCall("book", {"place": "Rome", "guests": 2}),))
    wrong = Target(tool_calls=(ToolCall("book", {"place": "Rome", "guests": 3}),))
    thought = "word " * 448
    answers = {
        "exact": text_format.render_target(replace(gold, thought=thought)),
        "one value wrong": text_format.render_target(replace(wrong, thought=thought)),
        "well-formed, no call": f"<think> {thought}</think>\n<tool_call>\n\n</tool_call>",
        "silence": "",
    }
    return {
        name: [reward.score(Rollout(text, gold, step=step)).total for step in range(last_step + 1)]
        for name, text in answers.items()
    }
