"""Checkpoints that are whole or passed over, and hold all that a resumed run needs to go on to the bit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from toolrl_cli.console import log
from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import read_json, write_json
from toolrl_cli.manifest import hash_samples
from toolrl_cli.records import Json, expect

if TYPE_CHECKING:
    from torch.utils.data import Sampler

STAGING = "unfinished"
"""The folder beside the checkpoints in which the next one is written."""
CONTENTS_FILE = "contents.json"
"""In a checkpoint: a hash of each of its files, as of `hash_samples`."""
LOOP_FILE = "loop_state_{}.pt"
LOOP_STATE = (
    "_step",
    "_buffered_inputs",
    "_metrics",
    "_total_train_tokens",
    "_tr_loss",
    "_globalstep_last_logged",
)
"""What the trainers of transformers and TRL count or hold between two steps and do not save themselves."""


class ExactResume(Trainer):
    """Adds to a trainer's checkpoints what they lack; for any trainer of transformers or TRL.

    A checkpoint is written beside the others and renamed when all of it is on disk. It also holds
    `LOOP_STATE`: completions that were generated for later steps, and what is counted but not
    logged yet. The order of the prompts in each epoch depends on the seed and the epoch alone.
    """

    _saving = False
    _sampler: Any = None

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self._staged():
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(folder / STAGING / name, folder / name)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _staged(self) -> Iterator[None]:
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self._loop_state(), self._loop_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The trainer calls this once, just before the first step after a checkpoint."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None or not self._loop_file(checkpoint).exists():
            return
        # One of several processes on a CPU has the device cpu:0, which torch cannot load to.
        device = "cpu" if self.args.device.type == "cpu" else self.args.device
        kept = torch.load(self._loop_file(checkpoint), map_location=device, weights_only=True)
        for mode, metrics in kept.pop("_metrics", {}).items():
            self._metrics[mode].update(metrics)
        for name, value in kept.items():
            setattr(self, name, value)

    def _loop_file(self, folder: str) -> Path:
        return Path(folder) / LOOP_FILE.format(self.args.process_index)

    def _loop_state(self) -> Json:
        state = {name: getattr(self, name) for name in LOOP_STATE if hasattr(self, name)}
        if not self._tr_loss.isfinite():  # the update was left out, and so is its loss
            state["_tr_loss"] = torch.zeros_like(self._tr_loss)
        if "_metrics" in state:
            state["_metrics"] = {mode: dict(metrics) for mode, metrics in state["_metrics"].items()}
        if "_buffered_inputs" in state and self._has_used_its_completions():
            state["_buffered_inputs"] = None
        return state

    def _has_used_its_completions(self) -> bool:
        return bool(self._step % (self.args.steps_per_generation * self.args.num_iterations) == 0)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[Any] | None:
        self._sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(self._sampler, LengthGroupedSampler) and self._sampler.generator is None:
            self._sampler.generator = torch.Generator()
        return cast("Sampler[Any] | None", self._sampler)

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """Samplers shuffle from where the epoch before left their generator, which a resumed run has not had."""
        generator = getattr(self._sampler, "generator", None)
        if isinstance(self._sampler, LengthGroupedSampler):
            self._sampler.generator.manual_seed(self.args.seed + epoch)
        if generator is not None and getattr(self._sampler, "seed", None) is not None:
            generator.manual_seed(self._sampler.seed)
            for _ in range(epoch):
                torch.randperm(self._sampler.num_samples, generator=generator)
        super()._run_epoch(*args, epoch=epoch, **kwargs)


def publish(staged: Path, final: Path) -> None:
    """Give a finished checkpoint its name, once it and the logs of its run are on the disk."""
    hashes = {str(path.relative_to(staged)): hash_samples([path]) for path in files_below(staged)}
    write_json(staged / CONTENTS_FILE, hashes)
    sync([*files_below(staged), *final.parent.parent.glob("*.jsonl"), staged])
    if final.exists():
        shutil.rmtree(final)
    staged.replace(final)
    shutil.rmtree(staged.parent, ignore_errors=True)
    sync([final.parent])


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and the folders below it."""
    return [path for path in folder.rglob("*") if path.is_file()]


def sync(paths: Iterable[Path]) -> None:
    """Have the system write files and folders to the disk, so that they outlive a power cut."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder of which no file is missing, cut off or changed, by step."""
    return [path for path in checkpoints_in(folder) if find_flaw(path) is None]


def checkpoints_in(folder: Path) -> list[Path]:
    """Everything in a folder that has the name of a checkpoint, by step."""
    named = (path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit())
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimizer steps that a checkpoint stands after."""
    return int(checkpoint.name.rpartition("-")[2])


def find_flaw(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be gone on from: the first file that is not as it was saved; None where all are."""
    try:
        hashes = expect(read_json(checkpoint / CONTENTS_FILE), dict, CONTENTS_FILE)
    except DataError:
        return f"its {CONTENTS_FILE} is missing or broken"
    for name, saved in hashes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"its {name} is missing"
        if hash_samples([path]) != saved:
            return f"its {name} is not as it was saved"
    return None


def discard_broken(folder: Path) -> None:
    """Remove the checkpoints that are not whole, saying why, and what a killed process left of one it was writing."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    for checkpoint in checkpoints_in(folder):
        flaw = find_flaw(checkpoint)
        if flaw:
            log(f"{checkpoint}: passed over and removed: {flaw}")
            shutil.rmtree(checkpoint)
