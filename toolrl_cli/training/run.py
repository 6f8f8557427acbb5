"""The life of a training run: check everything, open the folder, train, save, mark it finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, SetupError, ToolrlError, first_line
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import read_records
from toolrl_cli.manifest import Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.records import Json, expect
from toolrl_cli.training.callbacks import MetricsLog, Progress, StopOnInterrupt, TrimHeap, rewind_log
from toolrl_cli.training.compat import project_in_small_tiles, score_labelled_positions_only
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.models import ModelSource, load_model, load_tokenizer, resolve_model
from toolrl_cli.training.text_format import TEMPLATE_FILE

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

METRICS_FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"
FULL_BELOW = 1 << 20
"""Bytes; no checkpoint is smaller."""
STATE_FILE = "trainer_state.json"
STATE_FILES = (STATE_FILE, "optimizer.*", "scheduler.*", "rng_state*")


@dataclass(frozen=True)
class RunSummary:
    """A run as it stands: its folder, its manifest, and the last record of its metrics."""

    output: Path
    manifest: Manifest
    metrics: Json

    def to_json(self) -> Json:
        """The record as JSON values."""
        return {
            "output": str(self.output),
            "finished": self.manifest.finished,
            "config": self.manifest.config,
            "metrics": self.metrics,
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
    project_in_small_tiles()
    source = resolve_model(config.model)
    refuse_output_over_input(config, source)
    manifest = describe_run(command, config, source, text_format, hashes)
    if check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite):
        return summarize_run(config.output)
    if config.dry_run:
        return RunSummary(config.output, manifest, {})
    materials = load_materials(config, source)
    open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
    if text_format.template is not None:
        (config.output / TEMPLATE_FILE).write_bytes(text_format.template.encode())
    trainer = construct(build_trainer, materials, config)
    with full_disk_named(config.output):
        train(command, trainer, config.output)
        materials.tokenizer.save_pretrained(config.output)
        replace(manifest, finished=True).write(config.output)
    return summarize_run(config.output)


def summarize_run(folder: Path) -> RunSummary:
    """What a run folder says of itself; raise `DataError` when it is none."""
    path = folder / METRICS_FILE
    metrics = list(read_records(path, lambda record: expect(record, dict, "metrics"))) if path.exists() else []
    return RunSummary(folder, read_manifest(folder), metrics[-1] if metrics else {})


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
    command: str, config: TrainingConfig, source: ModelSource, text_format: TextFormat, hashes: dict[str, str]
) -> Manifest:
    """The manifest of a run that begins."""
    return Manifest.create(
        command,
        config.recorded() | {"base_model": source.base_name},
        seed=config.seed,
        format=text_format.name,
        hashes={"data": hash_file(config.data), "format": text_format.digest, **hashes},
        parent=str(source.adapter) if source.adapter else config.model,
    )


def load_materials(config: TrainingConfig, source: ModelSource) -> Materials:
    """Load the model and decide on its adapter: an earlier run's adapter is trained on, else a new one made.

    Raises:
        ConfigError: full tuning is asked for on top of an adapter.
    """
    if source.adapter and config.tuning == "full":
        raise ConfigError(f"{source.adapter}: is a LoRA run; --tuning full needs a full model to start from")
    peft_config = None
    if config.tuning == "lora" and not source.adapter:
        from peft import LoraConfig

        peft_config = LoraConfig(
            r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    model = load_model(source, trainable=True, full_precision=config.tuning == "full")
    return Materials(model, load_tokenizer(source), peft_config)


def refuse_output_over_input(config: TrainingConfig, source: ModelSource) -> None:
    """Raise `ConfigError` when overwriting the output would delete the data, the template, the model or its base."""
    output = config.output.resolve()
    for given in (config.data, config.template, Path(config.model), source.base, source.adapter):
        if given and given.exists() and (given.resolve() == output or output in given.resolve().parents):
            raise ConfigError(f"{config.output}: the output folder holds the input {given}; choose another output")
