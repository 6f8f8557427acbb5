"""The whole pipeline in small: sample data, a small pretrained model, and what training did to it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from toolrl_cli.benches.stats import Interval, bootstrap_difference
from toolrl_cli.errors import UsageError
from toolrl_cli.evaluation import RESULTS, EvalConfig, Summary, evaluate
from toolrl_cli.jsonl import read_json, read_records, write_json
from toolrl_cli.manifest import Manifest, open_output
from toolrl_cli.prepare import PrepareConfig, prepare_examples
from toolrl_cli.records import Json, expect
from toolrl_cli.samples import find_samples
from toolrl_cli.training.config import GrpoConfig, SftConfig, TrainingConfig
from toolrl_cli.training.memory import release_memory

T = TypeVar("T")
MODEL = "smollm2-135m"
STAGES = ("raw", "sft", "grpo")
STAGE_TITLES = {"raw": "raw model", "sft": "after SFT", "grpo": "after GRPO"}
Say = Callable[[str], None]
Counter = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Recipe:
    """Every step's configuration, all below one output folder."""

    folder: Path
    seed: int
    resume: bool
    prepare: tuple[PrepareConfig, PrepareConfig]
    sft: SftConfig
    grpo: GrpoConfig
    evals: Mapping[str, tuple[EvalConfig, EvalConfig]]
    """For each stage the evaluation on held-out examples and the one on BFCL."""


@dataclass(frozen=True)
class Report:
    """What the pipeline measured.

    `examples` and `bfcl` hold a summary for each stage; `gain` is the paired difference in total
    reward between GRPO and SFT on the held-out examples; `seconds` is the wall time of each step.
    """

    examples: Mapping[str, Summary]
    bfcl: Mapping[str, Summary]
    gain: Interval
    seconds: Mapping[str, float]
    picture: Path
    commands: tuple[str, ...]

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {
            "examples": {stage: summary.to_json() for stage, summary in self.examples.items()},
            "bfcl": {stage: summary.to_json() for stage, summary in self.bfcl.items()},
            "gain": {"value": self.gain.value, "low": self.gain.low, "high": self.gain.high},
            "seconds": dict(self.seconds),
            "picture": str(self.picture),
            "commands": list(self.commands),
        }

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, columns and rows of the before/after table."""
        metrics = list(self.examples["raw"].metrics)
        n = self.examples["raw"].n
        columns = ["", *(name.replace("_", " ") for name in metrics), "BFCL simple_python"]
        rows = [
            [
                STAGE_TITLES[stage],
                *(show_interval(self.examples[stage].metrics[name]) for name in metrics),
                show_count(self.bfcl[stage]),
            ]
            for stage in STAGES
        ]
        return f"{n} held-out examples, mean [95% interval]", columns, rows

    def text(self) -> str:
        """What the table leaves out: the gain, the curve, the time, and the commands for each step by hand."""
        return "\n".join(
            [
                f"total reward, GRPO minus SFT, paired: {show_interval(self.gain)}",
                f"reward curve: {self.picture}",
                f"wall time: {sum(self.seconds.values()) / 60:.1f} min",
                "",
                "each step by hand:",
                *(f"  {command}" for command in self.commands),
            ]
        )


def plan_recipe(folder: Path, *, seed: int = 0, resume: bool = False) -> Recipe:
    """The configuration of every step, from prepare to the last evaluation.

    Raises:
        SetupError: the sample data is not there.
    """
    samples = find_samples()
    train, held_out = folder / "examples.jsonl", folder / "heldout.jsonl"
    shared: dict[str, Any] = {"seed": seed, "resume": resume}
    sft = SftConfig(
        data=train,
        model=MODEL,
        output=folder / "sft",
        learning_rate=1e-3,
        batch_size=8,
        micro_batch_size=4,
        max_steps=5,
        save_steps=3,
        seed=seed,
        resume=resume and (folder / "sft").exists(),
    )
    grpo = GrpoConfig(
        data=train,
        model=str(sft.output),
        output=folder / "grpo",
        learning_rate=4e-4,
        batch_size=64,
        micro_batch_size=8,
        num_generations=8,
        max_completion_length=80,
        temperature=0.6,
        max_steps=6,
        save_steps=1,
        overrides={"warmup_steps": 2},
        seed=seed,
        resume=resume and (folder / "grpo").exists(),
    )
    models = {"raw": MODEL, "sft": str(sft.output), "grpo": str(grpo.output)}
    return Recipe(
        folder=folder,
        seed=seed,
        resume=resume,
        prepare=(
            PrepareConfig(inputs=tuple(sorted(samples.glob("*.jsonl"))), output=train, overwrite=True),
            PrepareConfig(inputs=(samples / "heldout" / "heldout.jsonl",), output=held_out, overwrite=True),
        ),
        sft=sft,
        grpo=grpo,
        evals={stage: plan_evals(folder, stage, model, held_out, shared) for stage, model in models.items()},
    )


def plan_evals(
    folder: Path, stage: str, model: str, held_out: Path, shared: dict[str, Any]
) -> tuple[EvalConfig, EvalConfig]:
    """The two evaluations of a stage."""
    common = {"model": model, "max_new_tokens": 96, "batch_size": 96, **shared}
    return (
        EvalConfig(bench="examples", output=folder / f"eval-{stage}", data=held_out, limit=96, **common),
        EvalConfig(bench="bfcl", output=folder / f"bfcl-{stage}", categories=("simple_python",), limit=8, **common),
    )


def run_recipe(recipe: Recipe, say: Say, counter: Counter, *, overwrite: bool = False) -> Report:
    """Run prepare, baseline, SFT, GRPO and the evaluations between them.

    Args:
        recipe: what to do.
        say: told what begins.
        counter: opens a progress display for an evaluation.
        overwrite: replace an earlier quickstart.

    Raises:
        ConfigError: the folder is not empty.
        UsageError: it is to be both resumed and overwritten.
        SetupError: the model or the BFCL wheel cannot be had.
        KeyboardInterrupt: Ctrl-C; finished steps are kept.
    """
    from toolrl_cli.report.plots import plot_rewards
    from toolrl_cli.training.grpo import train_grpo
    from toolrl_cli.training.sft import train_sft

    if recipe.resume and overwrite:
        raise UsageError("--resume continues what --overwrite would delete; leave one out")
    folder = recipe.folder
    manifest = Manifest.create("quickstart", {}, seed=recipe.seed, format="toolrl", hashes={}, parent=MODEL)
    open_output(folder, manifest, resume=recipe.resume, overwrite=overwrite)
    clock = Clock(say, folder / "seconds.json")
    for config in recipe.prepare:
        clock.run(f"prepare {config.output.name}", partial(prepare_examples, config))
    trainings = {"sft": partial(train_sft, recipe.sft), "grpo": partial(train_grpo, recipe.grpo)}
    examples, bfcl = {}, {}
    for stage in STAGES:
        if stage in trainings:
            clock.run(f"train {stage}", trainings[stage])
        on_examples, on_bfcl = recipe.evals[stage]
        examples[stage] = clock.run(f"evaluate {stage} on held-out examples", partial(watch, on_examples, counter))
        bfcl[stage] = clock.run(f"evaluate {stage} on BFCL", partial(watch, on_bfcl, counter))
    plot_rewards(recipe.grpo.output / "metrics.jsonl", folder / "reward.png")
    report = Report(examples, bfcl, measure_gain(recipe), clock.seconds, folder / "reward.png", command_lines(recipe))
    write_json(folder / "report.json", report.to_json())
    replace(manifest, finished=True).write(folder)
    return report


class Clock:
    """Runs steps, says what begins, and keeps on disk how many seconds each took, also over a resume."""

    def __init__(self, say: Say, path: Path) -> None:
        self._say = say
        self._path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def run(self, name: str, step: Callable[[], T]) -> T:
        """Run one step and return what it returns."""
        self._say(name)
        start = time.perf_counter()
        try:
            return step()
        finally:
            release_memory()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 1)
            write_json(self._path, self.seconds)


def watch(config: EvalConfig, counter: Counter) -> Summary:
    """Evaluate under a progress display."""
    with counter(f"{config.bench} {config.output.name}") as progress:
        return evaluate(config, progress=progress)


def measure_gain(recipe: Recipe) -> Interval:
    """The paired difference in total reward between GRPO and SFT, with its bootstrap interval."""
    before, after = (read_totals(recipe.evals[stage][0].output / RESULTS) for stage in ("sft", "grpo"))
    return bootstrap_difference([before[id] for id in after], list(after.values()), seed=recipe.seed)


def read_totals(path: Path) -> dict[str, float]:
    """The total reward of each entry of an evaluation."""
    rows = read_records(path, lambda row: expect(row, dict, "result"))
    return {row["id"]: row["score"]["total"] for row in rows}


def command_lines(recipe: Recipe) -> tuple[str, ...]:
    """The commands that do each step by hand."""
    prepares = [shell("prepare", *map(str, c.inputs), "-o", str(c.output)) for c in recipe.prepare]
    evals = {stage: [eval_command(config) for config in configs] for stage, configs in recipe.evals.items()}
    return (
        *prepares,
        *evals["raw"],
        training_command("sft", recipe.sft),
        *evals["sft"],
        training_command("grpo", recipe.grpo),
        *evals["grpo"],
    )


def training_command(name: str, config: TrainingConfig) -> str:
    """`toolrl sft` or `toolrl grpo` with every option that is not at its default."""
    required = ("data", "model", "output", "resume", "overwrite")
    words = [str(config.data), "--model", config.model, "-o", str(config.output)]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "overrides":
            words += [word for key, value in config.overrides.items() for word in ("--set", f"{key}={value}")]
        elif field.name not in required and field.default is not MISSING and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    if isinstance(config, GrpoConfig):
        words += ["--reward", config.reward]
    return shell(name, *words)


def eval_command(config: EvalConfig) -> str:
    """`toolrl eval` for one evaluation."""
    words = ["--bench", config.bench, "--model", str(config.model), "-o", str(config.output)]
    words += ["--data", str(config.data)] if config.data else []
    words += [word for category in config.categories for word in ("--category", category)]
    words += ["--limit", str(config.limit)] if config.limit else []
    words += ["--max-new-tokens", str(config.max_new_tokens), "--batch-size", str(config.batch_size)]
    return shell("eval", *words, *(["--seed", str(config.seed)] if config.seed else []))


def shell(*words: str) -> str:
    """A toolrl command line, quoted for a shell."""
    return shlex.join(["toolrl", *words])


def show_interval(interval: Interval) -> str:
    """`0.50 [0.40, 0.60]`."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def show_count(summary: Summary) -> str:
    """`3/10` correct entries."""
    correct = sum(tally.correct for tally in summary.categories.values())
    return f"{correct}/{summary.n}"
