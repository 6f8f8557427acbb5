"""What happens around a training step: curves to disk, memory given back, a clean stop on Ctrl-C, and the sentinels."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from toolrl_cli.console import log
from toolrl_cli.errors import DataError, SetupError, TrainingStopped
from toolrl_cli.jsonl import RecordLog, drop_partial_line, load_json
from toolrl_cli.records import Json
from toolrl_cli.training.checkpoints import whole_checkpoints
from toolrl_cli.training.launch import gather_rows, world_size
from toolrl_cli.training.memory import trim_heap
from toolrl_cli.training.sentinels import Limits, Watch

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

GRACE = 1.0
"""Seconds within which a process that the launcher ends meets the loss of another."""
TRIM_PAUSE = 300.0
"""Seconds: pages that are given back are soon needed again, which costs a step about a tenth of its time."""


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


class TrimHeap(TrainerCallback):
    """Keeps a training on a CPU from growing by what the C library does not give back, every `TRIM_PAUSE`."""

    def __init__(self) -> None:
        self._due = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give back the pages that the steps have freed, if the last time is long enough ago."""
        if args.device.type == "cpu" and time.monotonic() >= self._due:
            trim_heap()
            self._due = time.monotonic() + TRIM_PAUSE


class DropReplaced(TrainerCallback):
    """Removes the run that this one overwrites as soon as a step is done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remove it, if it is there."""
        if state.is_world_process_zero and self._folder.exists():
            shutil.rmtree(self._folder)


class StopOnSignal(TrainerCallback):
    """Turns the first Ctrl-C, or SIGTERM, into a checkpoint at the end of the step; a second one stops at once.

    `closing` gives the signals back. Among several processes the launcher ends all by SIGTERM when one fails: where
    that makes the training fail here too, it ends the process without a word.
    """

    def __init__(self, closing: ExitStack) -> None:
        self.received = 0
        self._agreed = False
        self._closing = closing

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the signals."""
        self._closing.push(self._end_with_others)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._closing.callback(signal.signal, number, signal.signal(number, self._receive))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when a signal came during the step, to this process or to another of the run."""
        self.received = max(gather_rows([self.received]))
        if self.received:
            self._agreed = True
            control.should_save = True
            control.should_training_stop = True

    @property
    def _may_have_lost_another(self) -> bool:
        return self.received == signal.SIGTERM and world_size() > 1 and not self._agreed

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        what = "press Ctrl-C again" if number == signal.SIGINT else "SIGTERM again"
        news = f"finishing this step and saving it; {what} to stop at once"
        if self._may_have_lost_another:
            later = Timer(GRACE, log, [news])
            self._closing.callback(later.cancel)
            later.start()
        else:
            log(news)

    def _end_with_others(self, failure: type[BaseException] | None, *details: object) -> None:
        if failure and self._may_have_lost_another:
            signal.raise_signal(signal.SIGTERM)


class Sentinels(TrainerCallback):
    """Stops a training that has gone wrong; `alarm` then says how.

    What the sentinels have seen is read again from the trainer's history, so that a resumed run
    stops at the step at which the unbroken one would have.
    """

    def __init__(self, limits: Limits) -> None:
        self.alarm: str | None = None
        self._nan = limits.nan
        self._watch = Watch(limits)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take in the steps before a resume."""
        for record in state.log_history:
            self._watch.feed(int(record["step"]), record)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **kwargs: Any
    ) -> None:
        """Leave out an update that would ruin the weights; float16 has a loss scaler for that."""
        if not self._nan or args.fp16 or is_sharded(args):
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if count_bad(gradients):
            model.zero_grad()
            step = state.global_step + 1
            self.alarm = (
                f"nan: gradients of step {step} are NaN or infinite; step {step} is saved without an update, and "
                "--resume goes on after it; where it comes again, start a new run with a lower learning rate"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when the update was left out; raise `TrainingStopped` when it has ruined the weights."""
        self._stop(control)
        if not self._nan or is_sharded(args):
            return
        weights = [parameter.detach() for parameter in kwargs["model"].parameters() if parameter.requires_grad]
        if bad := count_bad(weights):
            many = f"{bad} of {sum(map(torch.numel, weights))} weights are NaN or infinite"
            raise ruined(f"{many} after step {state.global_step}, which is not saved", args.output_dir)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Json, **kwargs: Any
    ) -> None:
        """Save and stop when something is beyond its limit; raise `TrainingStopped` when the update was not finite."""
        if "train_runtime" in logs:
            return
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name) or 0.0)]
        if bad and self._nan and not self.alarm and not args.fp16:
            what = f"{bad[0]} is {logs[bad[0]]} in step {state.global_step}, which is not saved"
            raise ruined(what, args.output_dir)
        self.alarm = self.alarm or self._watch.feed(state.global_step, logs)
        self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        if self.alarm:
            control.should_save = True
            control.should_training_stop = True


def ruined(what: str, checkpoints: str) -> TrainingStopped:
    """The error that ends a run whose weights are lost."""
    whole = whole_checkpoints(Path(checkpoints))
    saved = f", or with --model {whole[-1]}" if whole else ""
    return TrainingStopped(
        f"{Path(checkpoints).parent}: stopped by the sentinel nan: {what}; start a new run with a lower learning rate, "
        f"from the same model{saved}"
    )


def is_sharded(args: TrainingArguments) -> bool:
    """Whether a process holds only a part of the weights, so that the processes could judge differently."""
    return args.distributed_state.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def count_bad(tensors: list[torch.Tensor]) -> int:
    """How many values are NaN or infinite; a finite norm, which is quickly computed, tells that none are."""
    if get_total_norm(tensors).isfinite():
        return 0
    return int(torch.stack([(~tensor.isfinite()).sum() for tensor in tensors]).sum())


@contextmanager
def sampling_failure_named(args: TrainingArguments) -> Iterator[None]:
    """Turn the failure to draw from NaN or infinite probabilities into `TrainingStopped`."""
    try:
        yield
    except (RuntimeError, SetupError) as error:
        if "probability tensor contains" in str(error):
            raise ruined("the model gives no probabilities to sample from", args.output_dir) from error
        raise


def rewind_log(path: Path, step: int) -> None:
    """Cut off the records after `step` from a log whose records carry one, in order; a resumed run writes them anew.

    Raises:
        DataError: a line is no such record.
    """
    drop_partial_line(path)
    if not path.exists():
        return
    kept = 0
    with path.open("rb+") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                if load_json(line)["step"] > step:
                    break
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}:{number}: not a record of this run; remove the line") from error
            kept += len(line)
        stream.truncate(kept)
