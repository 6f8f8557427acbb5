"""The life of a training run: check everything, open the folder, train, save, mark it finished."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.console import log
from toolrl_cli.errors import (
    ConfigError,
    GateFailed,
    SetupError,
    Terminated,
    ToolrlError,
    TrainingStopped,
    first_line,
)
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.stops import declare_stops
from toolrl_cli.jsonl import read_json, read_records
from toolrl_cli.manifest import (
    Manifest,
    check_output,
    hash_file,
    open_output,
    read_manifest,
    refuse_output_over_inputs,
    sole_writer,
)
from toolrl_cli.records import Json, expect
from toolrl_cli.report.plots import plot_run
from toolrl_cli.training.adapters import check_tuning, new_adapter, save_base, starting_point
from toolrl_cli.training.callbacks import (
    DropReplaced,
    MetricsLog,
    Sentinels,
    StopOnSignal,
    TrimHeap,
    rewind_log,
    sampling_failure_named,
)
from toolrl_cli.training.card import write_card
from toolrl_cli.training.checkpoints import CONTENTS_FILE, discard_broken, step_of, sync, whole_checkpoints
from toolrl_cli.training.compat import project_in_small_tiles, score_labelled_positions_only
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.hub import check_hub, push_to_hub
from toolrl_cli.training.launch import main_decides, main_does, rank, world_size
from toolrl_cli.training.models import ModelSource, hash_weights, load_model, load_tokenizer, resolve_model
from toolrl_cli.training.sentinels import read_limits
from toolrl_cli.training.text_format import TEMPLATE_FILE
from toolrl_cli.training.watching import Progress

if TYPE_CHECKING:
    from transformers import Trainer

METRICS_FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"
CURVES_FILE = "curves.png"
PREFLIGHT_FILE = "preflight.json"
FULL_BELOW = 1 << 20
"""Bytes; no checkpoint is smaller."""
STATE_FILE = "trainer_state.json"
STATE_FILES = (
    STATE_FILE,
    CONTENTS_FILE,
    "optimizer.*",
    "scheduler.*",
    "rng_state*",
    "loop_state*",
    "entropy_ctrl_state.*",
)


@dataclass(frozen=True)
class RunSummary:
    """A run as it stands: its folder, its manifest, the last record of its metrics; its preflight; a dry run's plan."""

    output: Path
    manifest: Manifest
    metrics: Json
    preflight: Json | None = None
    plan: Json | None = None

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
        KeyboardInterrupt: Ctrl-C or SIGTERM; the finished steps are saved and `resume` continues after them.
        TrainingStopped: a sentinel stopped the run; `resume` continues it.
        GateFailed: the preflight finds no signal.
    """
    score_labelled_positions_only()
    project_in_small_tiles()
    source = resolve_model(config.model)
    inputs = (config.data, config.template, Path(config.model), source.base, source.adapter)
    refuse_output_over_inputs(config.output, inputs)
    check_tuning(config, source)
    tell_other_format(config.model, source, text_format)
    start = starting_point(config, source)
    manifest = describe_run(command, config, source, start, text_format, hashes)
    rules = {"resume": config.resume, "overwrite": config.overwrite}
    finished = main_decides(lambda: check_output(config.output, manifest, **rules))
    if config.dry_run:
        return summarize_run(config.output) if finished else RunSummary(config.output, manifest, {})
    hub = config.push_to_hub
    if hub:
        main_does(lambda: check_hub(hub))
    if not finished:
        with ExitStack() as closing:
            begin_run = partial(begin, config.output, manifest, text_format, rules, closing)
            try:
                materials = prepare(config, source, start, begin_run)
                trainer = construct(build_trainer, materials, config)
                with full_disk_named(config.output):
                    train(command, trainer, config)
                    main_does(lambda: finish(config.output, manifest, materials.tokenizer))
            except BaseException as error:  # a refusal, or before the first step of a run that replaces another
                refused = isinstance(error, (GateFailed, ConfigError)) and not (config.output / METRICS_FILE).exists()
                if refused or replaced(config.output).exists():
                    withdraw(config)
                raise
    if hub and rank() == 0:  # the others do not wait: an upload may take longer than their patience
        push_to_hub(config.output, hub)
    return summarize_run(config.output)


def prepare(
    config: TrainingConfig, source: ModelSource, start: ModelSource, begin_run: Callable[[], object]
) -> Materials:
    """Load what is trained, and begin the run when that has proved good; then merge an adapter that is to be merged."""
    unmerged = start is not source and not (config.resume and start.base.exists())
    loaded = load_materials(config, source if unmerged else start)
    main_does(begin_run)
    if not unmerged:
        return loaded
    full = config.tuning == "full"
    main_does(lambda: save_base(loaded.model, loaded.tokenizer, start.base, full_precision=full))
    return load_materials(config, start)


def begin(
    folder: Path, manifest: Manifest, text_format: TextFormat, rules: dict[str, bool], closing: ExitStack
) -> None:
    """Open the run's folder, hold it until `closing`, and add the template that words its prompts.

    What it replaces lies where `replaced` says.
    """
    if rules["overwrite"] and folder.exists():
        if replaced(folder).exists():  # then this run did not come to its first step
            shutil.rmtree(folder)
        else:
            folder.rename(replaced(folder))
    open_output(folder, manifest, **rules)
    closing.enter_context(sole_writer(folder))
    if text_format.template is not None:
        (folder / TEMPLATE_FILE).write_bytes(text_format.template.encode())


def finish(folder: Path, manifest: Manifest, tokenizer: Any) -> None:
    """Add what belongs to a saved model, then mark the run finished.

    Raises:
        SetupError: the trainer has saved no weights.
    """
    if not any(folder.glob("*.safetensors")):
        raise SetupError(
            f"{folder}: the trainer saved no weights, only the shards in its checkpoints; DeepSpeed ZeRO-3 needs "
            "zero3_save_16bit_model: true in its accelerate configuration"
        )
    tokenizer.save_pretrained(folder)
    plot_run(folder / METRICS_FILE, folder / CURVES_FILE)
    done = replace(manifest, finished=True)
    write_card(folder, done)
    sync(path for path in folder.iterdir() if path.is_file())
    done.write(folder)


def summarize_run(folder: Path) -> RunSummary:
    """What a run folder says of itself; raise `DataError` when it is none."""
    path = folder / METRICS_FILE
    metrics = list(read_records(path, lambda record: expect(record, dict, "metrics"))) if path.exists() else []
    preflight = folder / PREFLIGHT_FILE
    return RunSummary(
        folder,
        read_manifest(folder),
        metrics[-1] if metrics else {},
        preflight=read_json(preflight) if preflight.exists() else None,
    )


def construct(build_trainer: Callable[[Materials], Trainer], materials: Materials, config: TrainingConfig) -> Trainer:
    """Build the trainer; when it refuses, leave no folder of a run that never began.

    Raises:
        ConfigError: the trainer refuses an argument or the data.
        DataError: the data leaves nothing to learn.
        SetupError: vLLM's server cannot be reached.
    """
    try:
        return build_trainer(materials)
    except (ToolrlError, ValueError, TypeError, ConnectionError) as error:
        withdraw(config)
        if isinstance(error, ToolrlError):
            raise
        if isinstance(error, ConnectionError):
            raise SetupError(first_line(error)) from error
        raise ConfigError(f"trl refuses these arguments or this data: {first_line(error)}") from error


def withdraw(config: TrainingConfig) -> None:
    """Remove the folder of a run that has not begun, so that it can be begun anew; a run it replaced is back."""
    if not config.resume and rank() == 0:
        shutil.rmtree(config.output, ignore_errors=True)
        if replaced(config.output).exists():
            replaced(config.output).rename(config.output)


def replaced(folder: Path) -> Path:
    """Where a run that another one overwrites lies until that one's first step is done."""
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.replaced")


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn a failure on a full disk into `SetupError`: torch and safetensors say something else, each its own way."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < FULL_BELOW:
            raise SetupError(f"{folder}: the disk is full; make room and continue with --resume") from error
        raise


def train(command: str, trainer: Trainer, config: TrainingConfig) -> None:
    """Train from the last checkpoint, if there is one, and save.

    Raises:
        KeyboardInterrupt: after a Ctrl-C; `Terminated` after SIGTERM.
        TrainingStopped: a sentinel stopped the run.
    """
    from transformers import PrinterCallback

    output, limits = config.output, read_limits(config.sentinels)
    if command == "sft":  # but for nan, sentinels watch what a model samples
        limits = replace(limits, values={})
    checkpoint = rewind(output)
    if config.resume and rank() == 0:
        where = f"goes on after step {step_of(checkpoint)}" if checkpoint else "no checkpoint to resume; begins anew"
        log(f"{command} {output}: {where}")
    if checkpoint and is_last(checkpoint):
        # The trainer would take one more step from here.
        main_does(lambda: copy_model(checkpoint, output))
        return
    trainer.remove_callback(PrinterCallback)
    with ExitStack() as closing, sampling_failure_named(trainer.args):
        closing.enter_context(redirect_stdout(sys.stderr))  # rewards and tools may print
        stop, sentinels = StopOnSignal(closing), Sentinels(limits)
        metrics, bar = MetricsLog(output / METRICS_FILE), Progress(command, closing)
        for callback in (metrics, bar, TrimHeap(), sentinels, stop, DropReplaced(replaced(output))):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if sentinels.alarm:
        raise TrainingStopped(f"{output}: stopped by the sentinel {sentinels.alarm}")
    if stop.received and trainer.state.global_step < trainer.state.max_steps:
        raise Terminated if stop.received == signal.SIGTERM else KeyboardInterrupt
    save_whole(trainer, output)
    trainer.accelerator.free_memory()


def rewind(output: Path) -> Path | None:
    """Put a run folder back to its last whole checkpoint, or to the beginning; return the checkpoint."""
    main_does(lambda: rewind_folder(output))
    return last_checkpoint(output)


def rewind_folder(output: Path) -> None:
    """Drop broken checkpoints, and what was logged after the last whole one."""
    discard_broken(output / "checkpoints")
    checkpoint = last_checkpoint(output)
    step = step_of(checkpoint) if checkpoint else 0
    rewind_log(output / METRICS_FILE, step)
    rewind_log(output / COMPLETIONS_FILE, step - 1)  # completions are made a step before it is logged


def copy_model(checkpoint: Path, output: Path) -> None:
    """Copy the model of a checkpoint without the state of its training."""
    shutil.copytree(checkpoint, output, ignore=shutil.ignore_patterns(*STATE_FILES), dirs_exist_ok=True)


def save_whole(trainer: Trainer, output: Path) -> None:
    """Save the model as one; where FSDP saves shards, the trainer by itself would save none of it here."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(output))


def last_checkpoint(output: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    whole = whole_checkpoints(output / "checkpoints")
    return whole[-1] if whole else None


def is_last(checkpoint: Path) -> bool:
    """Whether no step is left to do after a checkpoint."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    return bool(state.global_step >= state.max_steps)


def describe_run(
    command: str,
    config: TrainingConfig,
    source: ModelSource,
    start: ModelSource,
    text_format: TextFormat,
    hashes: dict[str, str],
) -> Manifest:
    """The manifest of a run that begins: `source` is the model it was given, `start` what it trains.

    Sampling differs with the number of processes, so more than one are told.
    """
    processes = {"num_processes": world_size()} if world_size() > 1 else {}
    return Manifest.create(
        command,
        config.recorded() | {"base_model": start.base_name} | processes,
        seed=config.seed,
        format=text_format.name,
        hashes={"data": hash_file(config.data), "format": text_format.digest, **hash_weights(source), **hashes},
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
    tokenizer = load_tokenizer(source)
    declare_stops(model, tokenizer)
    wanted = config.tuning != "full" and not source.adapter
    return Materials(model, tokenizer, new_adapter(config, model) if wanted else None)


def tell_other_format(model: str, source: ModelSource, text_format: TextFormat) -> None:
    """Log that a run is trained on in another text format than it was trained in."""
    before = source.manifest
    if before and before.hashes.get("format", text_format.digest) != text_format.digest:
        log(f"{model}: was trained in the {before.format} format, with other words; goes on in {text_format.name}")
