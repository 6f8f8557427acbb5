"""What happens around a training step: curves to disk, a progress bar, and a clean stop on Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from toolrl_cli.console import log, progress_bar
from toolrl_cli.jsonl import RecordLog, drop_partial_line, read_records, write_records
from toolrl_cli.records import Json, expect
from toolrl_cli.training.launch import gather_rows
from toolrl_cli.training.memory import trim_heap

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

SHOWN = ("reward", "loss", "mean_token_accuracy")


class MetricsLog(TrainerCallback):
    """Appends each logged step to `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Json, **kwargs: Any
    ) -> None:
        """Write one record: the step and what the trainer logged."""
        if state.is_world_process_zero and "train_runtime" not in logs:
            with RecordLog(self._path) as metrics:
                metrics.append({"step": state.global_step, **logs})


class Progress(TrainerCallback):
    """A bar over the optimizer steps with the latest reward and loss; `closing` takes it away."""

    def __init__(self, description: str, closing: ExitStack) -> None:
        self._description = description
        self._closing = closing

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run stands."""
        self._bar = self._closing.enter_context(progress_bar())
        self._task = self._bar.add_task(
            self._description, total=state.max_steps, completed=state.global_step, note="first step"
        )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Json, **kwargs: Any
    ) -> None:
        """Move the bar; without a terminal, print a line instead."""
        note = "  ".join(f"{name} {logs[name]:.3f}" for name in SHOWN if isinstance(logs.get(name), float))
        self._bar.update(self._task, completed=state.global_step, note=note)
        if self._bar.disable and note:
            log(f"{self._description}: step {state.global_step}/{state.max_steps}  {note}")


class TrimHeap(TrainerCallback):
    """Keeps a training on a CPU from growing by what the C library does not give back."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give back the pages that the step has freed."""
        if args.device.type == "cpu":
            trim_heap()


class StopOnInterrupt(TrainerCallback):
    """Turns the first Ctrl-C into a checkpoint at the end of the step; a second one stops at once.

    `closing` gives the signal back.
    """

    def __init__(self, closing: ExitStack) -> None:
        self.interrupted = False
        self._closing = closing

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the interrupt signal."""
        self._closing.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._interrupt))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when Ctrl-C was pressed during the step, in whichever process."""
        self.interrupted = any(gather_rows([self.interrupted]))
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        log("finishing this step and saving it; press Ctrl-C again to stop at once")
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def rewind_log(path: Path, step: int) -> None:
    """Drop the records after `step` from a log whose records carry one, so that a resumed run repeats none."""
    drop_partial_line(path)
    if path.exists():
        records = read_records(path, lambda record: expect(record, dict, "log record"))
        kept = [record for record in records if record["step"] <= step]
        write_records(path, kept)
