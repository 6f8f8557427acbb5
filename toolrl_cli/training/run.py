"""The life of a training run: check everything, open the folder, train, save, mark it finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import read_records
from toolrl_cli.manifest import Manifest, check_output, hash_file, open_output, read_manifest
from toolrl_cli.records import Json, expect
from toolrl_cli.training.callbacks import MetricsLog, Progress, StopOnInterrupt, rewind_log
from toolrl_cli.training.compat import score_labelled_positions_only
from toolrl_cli.training.config import TrainingConfig
from toolrl_cli.training.models import ModelSource, load_model, load_tokenizer, quiet_libraries, resolve_model

if TYPE_CHECKING:
    from transformers import Trainer

METRICS_FILE = "metrics.jsonl"
COMPLETIONS_FILE = "completions.jsonl"


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
        KeyboardInterrupt: Ctrl-C; the finished steps are saved and `resume` continues after them.
    """
    quiet_libraries()
    score_labelled_positions_only()
    source = resolve_model(config.model)
    refuse_output_over_input(config)
    manifest = describe_run(command, config, source, text_format, hashes)
    if check_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite):
        return summarize_run(config.output)
    if config.dry_run:
        return RunSummary(config.output, manifest, {})
    materials = load_materials(config, source)
    open_output(config.output, manifest, resume=config.resume, overwrite=config.overwrite)
    trainer = build_trainer(materials)
    train(command, trainer, config.output)
    trainer.save_model(str(config.output))
    materials.tokenizer.save_pretrained(config.output)
    replace(manifest, finished=True).write(config.output)
    return summarize_run(config.output)


def summarize_run(folder: Path) -> RunSummary:
    """What a run folder says of itself; raise `DataError` when it is none."""
    metrics = list(read_records(folder / METRICS_FILE, lambda record: expect(record, dict, "metrics")))
    return RunSummary(folder, read_manifest(folder), metrics[-1] if metrics else {})


def train(command: str, trainer: Trainer, output: Path) -> None:
    """Run the trainer from its last checkpoint, if it has one; raise `KeyboardInterrupt` after a Ctrl-C."""
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint

    checkpoints = output / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    for name in (METRICS_FILE, COMPLETIONS_FILE):
        rewind_log(output / name, step)
    stop = StopOnInterrupt()
    trainer.remove_callback(PrinterCallback)
    for callback in (MetricsLog(output / METRICS_FILE), Progress(command), stop):
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop.interrupted:
        raise KeyboardInterrupt


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
    return Materials(load_model(source, trainable=True), load_tokenizer(source), peft_config)


def refuse_output_over_input(config: TrainingConfig) -> None:
    """Raise `ConfigError` when overwriting the output would delete the data or the model."""
    output = config.output.resolve()
    for given in (config.data, Path(config.model)):
        if given.exists() and (given.resolve() == output or output in given.resolve().parents):
            raise ConfigError(f"{config.output}: the output folder holds the input {given}; choose another output")
