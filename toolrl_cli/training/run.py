"""The life of a training run: check everything, open the folder, train, save, mark it finished."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, SetupError, ToolrlError, UsageError, first_line
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import read_json, read_records
from toolrl_cli.manifest import Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.records import Json, expect
from toolrl_cli.report.plots import plot_run
from toolrl_cli.training.adapters import check_tuning, new_adapter, save_base, starting_point
from toolrl_cli.training.callbacks import MetricsLog, StopOnInterrupt, TrimHeap, rewind_log
from toolrl_cli.training.compat import score_labelled_positions_only
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.models import ModelSource, load_model, load_tokenizer, resolve_model
from toolrl_cli.training.text_format import TEMPLATE_FILE
from toolrl_cli.training.watching import Progress

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

METRICS_FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"
CURVES_FILE = "curves.png"
PREFLIGHT_FILE = "preflight.json"
FULL_BELOW = 1 << 20
"""Bytes; no checkpoint is smaller."""
STATE_FILE = "trainer_state.json"
STATE_FILES = (STATE_FILE, "optimizer.*", "scheduler.*", "rng_state*")


@dataclass(frozen=True)
class RunSummary:
    """A run as it stands: its folder, its manifest, the last record of its metrics; its preflight; a dry run's plan."""

    output: Path
    manifest: Manifest
    metrics: Json
    plan: Json | None = None
    preflight: Json | None = None

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {
            "output": str(self.output),
            "finished": self.manifest.finished,
            "config": self.manifest.config,
            "metrics": self.metrics,
            **({} if self.plan is None else {"plan": self.plan}),
            **({"preflight": self.preflight} if self.preflight else {}),
        }


@dataclass(frozen=True)
class Materials:
    """What a trainer is built from: the model, its tokenizer, and a new adapter's config or None."""

    model: Any
    tokenizer: Any
    peft_config: Any


def run_training(
    command: str,
    config: TrainingConfig,
    text_format: TextFormat,
    hashes: dict[str, str],
    build_trainer: Callable[[Materials], Trainer],
) -> RunSummary:
    """Train into `config.output`.

    Nothing is written before the inputs, the options and the model have proved good. A run that is
    already finished is returned as it is when resumed, and a dry run ends before the model is loaded.

    Raises:
        ConfigError: an input is also the output, or the output folder is refused.
        SetupError: the model cannot be loaded, or the disk is full.
        KeyboardInterrupt: Ctrl-C; the finished steps are saved and `resume` continues after them.
    """
    score_labelled_positions_only()
    source = resolve_model(config.model)
    refuse_output_over_input(config, source)
    check_tuning(config, source)
    start = starting_point(config, source)
    manifest = describe_run(command, config, source, start, text_format, hashes)
    if check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite):
        return summarize_run(config.output)
    if config.dry_run:
        return RunSummary(config.output, manifest, {})
    unmerged = start is not source and not (config.resume and start.base.exists())
    materials = load_materials(config, source if unmerged else start)
    open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
    if unmerged:
        save_base(materials.model, materials.tokenizer, start.base, full_precision=config.tuning == "full")
        materials = load_materials(config, start)
    if text_format.template is not None:
        (config.output / TEMPLATE_FILE).write_bytes(text_format.template.encode())
    trainer = construct(build_trainer, materials, config)
    with full_disk_named(config.output):
        train(command, trainer, config.output)
        materials.tokenizer.save_pretrained(config.output)
        plot_run(config.output / METRICS_FILE, config.output / CURVES_FILE)
        replace(manifest, finished=True).write(config.output)
    return summarize_run(config.output)


def summarize_run(folder: Path) -> RunSummary:
    """What a run folder says of itself; raise `DataError` when it is none."""
    path = folder / METRICS_FILE
    metrics = list(read_records(path, lambda record: expect(record, dict, "metrics"))) if path.exists() else []
    preflight = folder / PREFLIGHT_FILE
    return RunSummary(
        folder,
        read_manifest(folder),
        metrics[-1] if metrics else {},
        read_json(preflight) if preflight.exists() else None,
    )


def construct(build_trainer: Callable[[Materials], Trainer], materials: Materials, config: TrainingConfig) -> Trainer:
    """Build the trainer; when it refuses, leave no folder of a run that never began.

    Raises:
        ConfigError: the trainer refuses an argument or the data.
        DataError: the data leaves nothing to learn.
    """
    try:
        return build_trainer(materials)
    except (ToolrlError, ValueError, TypeError) as error:
        if not config.resume:
            shutil.rmtree(config.output)
        if isinstance(error, ToolrlError):
            raise
        raise ConfigError(f"trl refuses these arguments or this data: {first_line(error)}") from error


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn a failure on a full disk into `SetupError`: torch and safetensors say something else, each its own way."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < FULL_BELOW:
            raise SetupError(f"{folder}: the disk is full; make room and continue with --resume") from error
        raise


def train(command: str, trainer: Trainer, output: Path) -> None:
    """Train from the last checkpoint, if there is one, and save; raise `KeyboardInterrupt` after a Ctrl-C."""
    from transformers import PrinterCallback, TrainerState

    states = read_checkpoints(output / "checkpoints")
    checkpoint = max(states, key=lambda path: states[path].global_step, default=None)
    state = states[checkpoint] if checkpoint else TrainerState()
    rewind_log(output / METRICS_FILE, state.global_step)
    rewind_log(output / COMPLETIONS_FILE, state.global_step - 1)
    if checkpoint and state.global_step >= state.max_steps:
        # The trainer would take one more step from here.
        shutil.copytree(checkpoint, output, ignore=shutil.ignore_patterns(*STATE_FILES), dirs_exist_ok=True)
        return
    trainer.remove_callback(PrinterCallback)
    with ExitStack() as closing:
        closing.enter_context(redirect_stdout(sys.stderr))  # rewards and tools may print
        stop = StopOnInterrupt(closing)
        for callback in (MetricsLog(output / METRICS_FILE), Progress(command, closing), TrimHeap(), stop):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.interrupted and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt
    trainer.save_model(str(output))
    trainer.accelerator.free_memory()


def read_checkpoints(folder: Path) -> dict[Path, TrainerState]:
    """The state of each checkpoint that was saved whole; the trainer writes the state last."""
    from transformers import TrainerState

    states = {}
    for path in folder.glob(f"checkpoint-*/{STATE_FILE}"):
        with suppress(ValueError):
            states[path.parent] = TrainerState.load_from_json(str(path))
    return states


def describe_run(
    command: str,
    config: TrainingConfig,
    source: ModelSource,
    start: ModelSource,
    text_format: TextFormat,
    hashes: dict[str, str],
) -> Manifest:
    """The manifest of a run that begins: `source` is the model it was given, `start` what it trains."""
    return Manifest.create(
        command,
        config.recorded() | {"base_model": start.base_name},
        seed=config.seed,
        format=text_format.name,
        hashes={"data": hash_file(config.data), "format": text_format.digest, **hashes},
        parent=str(source.adapter) if source.adapter else config.model,
    )


def load_materials(config: TrainingConfig, source: ModelSource) -> Materials:
    """Load the model and decide on its adapter: an earlier run's adapter is trained on, else a new one made.

    One that is to be merged is loaded in float32, so that merging loses nothing.
    """
    merging = config.adapter == "merge" and source.adapter is not None
    model = load_model(
        source,
        trainable=True,
        full_precision=config.tuning == "full" or merging,
        four_bits=config.tuning == "qlora" and not merging,
    )
    wanted = config.tuning != "full" and not source.adapter
    return Materials(model, load_tokenizer(source), new_adapter(config) if wanted else None)


def refuse_output_over_input(config: TrainingConfig, source: ModelSource) -> None:
    """Raise `UsageError` when overwriting the output would delete the data, the template, the model or its base."""
    output = config.output.resolve()
    for given in (config.data, config.template, Path(config.model), source.base, source.adapter):
        if given and given.exists() and (given.resolve() == output or output in given.resolve().parents):
            raise UsageError(f"{config.output}: the output folder holds the input {given}; choose another output")
