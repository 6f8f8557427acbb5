"""More than one process: starting them under accelerate, and what they settle among themselves while they train.

Every process runs the same command line. The main one, of rank 0, alone speaks and writes files; the
batch, the completions and the gradients are shared among all.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, TypeVar

from toolrl_cli.console import log
from toolrl_cli.errors import ConfigError, SetupError, ToolrlError, first_line
from toolrl_cli.jsonl import read_yaml
from toolrl_cli.training.config import TrainingConfig

T = TypeVar("T")
ONE_MACHINE = (
    *("--multi_gpu", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
"""Accelerate calls it multi_gpu on processors too; it finds a free port itself, and the trainer rules the precision."""
PATIENCE = 5.0
"""Seconds in which the launcher ends all processes after one."""
PR_SET_PDEATHSIG = 1


def launched() -> bool:
    """Whether accelerate or torchrun has started this process."""
    return "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0, the main one."""
    return int(os.environ.get("RANK", "0")) if "LOCAL_RANK" in os.environ else 0


def starts_processes(config: TrainingConfig) -> bool:
    """Whether this command is to start others and let them train.

    Raises:
        ConfigError: the batch cannot be shared among the processes asked for, or fewer were started.
        DataError: the accelerate configuration is missing or unreadable.
    """
    if launched():
        if config.num_processes and config.num_processes != world_size():
            raise ConfigError(f"--num-processes {config.num_processes}: but {world_size()} were started; leave it out")
        return False
    planned = planned_processes(config)
    config.share_batch(planned)
    return not config.dry_run and (config.accelerate_config is not None or planned > 1)


def planned_processes(config: TrainingConfig) -> int:
    """How many processes the training takes, which a dry run does not start.

    Raises:
        ConfigError: the accelerate configuration names no number.
        DataError: it is missing or unreadable.
    """
    if launched():
        return world_size()
    asked = config.num_processes
    if config.accelerate_config:
        asked = asked or read_yaml(config.accelerate_config).get("num_processes")
        if not isinstance(asked, int) or asked < 1:
            raise ConfigError(f"{config.accelerate_config}: names no num_processes; give --num-processes")
    return asked or 1


def run_processes(config: TrainingConfig, arguments: Sequence[str]) -> int:
    """Run a toolrl command line in several processes under accelerate; return its exit status.

    An interrupt or a termination is passed on to each of them. When one fails, the others are ended.

    Args:
        config: what the command line says.
        arguments: the command line after `toolrl`.

    Raises:
        ConfigError: accelerate refuses its configuration, or there are fewer devices than processes.
        SetupError: a process was killed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    require_devices(config)
    for name in ("accelerate.commands.launch", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    told = launch_command_parser().parse_args([*launch_options(config), "-m", "toolrl_cli", *arguments])
    told.signals_to_handle = "SIGHUP,SIGQUIT"  # on the others it would kill after 30 seconds, in the midst of a step
    with signals_passed_on() as passed:
        try:
            launch_command(told)
        except ChildFailedError as error:
            failed, failure = error.get_first_failure()
            return exit_status(failed, failure.exitcode, passed)
        except CalledProcessError as error:  # of a single process, which accelerate starts without torchrun
            return exit_status(0, error.returncode, passed)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise ConfigError(f"accelerate cannot start the processes: {first_line(error)}") from error
    return 0


def launch_options(config: TrainingConfig) -> list[str]:
    """The options of `accelerate launch`."""
    number = ["--num_processes", str(config.num_processes)] if config.num_processes else []
    if config.accelerate_config:
        return ["--config_file", str(config.accelerate_config), *number]
    return [*ONE_MACHINE, *number]


def require_devices(config: TrainingConfig) -> None:
    """Raise `ConfigError` when this machine, alone, has accelerators but fewer than processes, or none for shards."""
    import torch

    count = torch.accelerator.device_count()
    kind = read_yaml(config.accelerate_config).get("distributed_type") if config.accelerate_config else None
    if kind in ("FSDP", "DEEPSPEED") and not count:
        raise ConfigError(f"{config.accelerate_config}: {kind} needs accelerators, and there is none; use MULTI_CPU")
    if config.accelerate_config is None and 0 < count < (config.num_processes or 1):
        raise ConfigError(f"--num-processes {config.num_processes}: there are {count} devices; ask for {count} at most")


@contextmanager
def signals_passed_on() -> Iterator[list[int]]:
    """Pass interrupts and terminations on to the processes that this one has started; yields those passed on."""
    import psutil

    passed: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        passed.append(number)
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_status(failed: int, code: int, passed: Sequence[int]) -> int:
    """The exit status of all for that of the process that failed first; raise `SetupError` if a signal killed it."""
    if code >= 0:
        return code
    if -code in passed:
        return 128 - code
    name = signal.Signals(-code).name
    raise SetupError(f"process {failed} was killed by {name}, for want of memory perhaps; continue with --resume")


@contextmanager
def main_process_speaks() -> Iterator[None]:
    """Let the main process alone print; another one prints a failure that only it has."""
    if not launched():
        yield
        return
    end_with_parent()
    own_stderr = os.dup(2)
    if rank():
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
    try:
        yield
    except Exception as error:
        time.sleep(patience(error))
        os.dup2(own_stderr, 2)
        # The launcher must see the end at once, and no destructor wait for a process that is lost.
        atexit.register(os._exit, getattr(error, "exit_status", 1))
        if rank():
            log(f"process {rank()} of {world_size()} failed:")
        raise
    except KeyboardInterrupt:
        leave_group()  # left to the end of Python, its threads now and then abort the process
        raise
    finally:
        os.close(own_stderr)
    leave_group()


def patience(error: Exception) -> float:
    """Seconds for which this process keeps a failure to itself, for the launcher ends it when another tells its own.

    What all meet is told once, by the main process where toolrl foresaw it; what follows in the main process from
    the loss of another is told by none.
    """
    if rank():
        return PATIENCE + min(rank(), PATIENCE)
    return 0.0 if isinstance(error, ToolrlError) else 2 * PATIENCE


def end_with_parent() -> None:
    """Have Linux end this process when its launcher is killed, so that no orphan goes on writing into the run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def leave_group() -> None:
    """Take this process out of the group, if it joined one."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def main_decides(decide: Callable[[], T]) -> T:
    """What the main process finds, told to all; the others wait for it."""
    if world_size() == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None if rank() else decide()]
    decided: T = broadcast_object_list(found)[0]
    return decided


def main_does(work: Callable[[], object]) -> None:
    """Let the main process do something that touches files, while the others wait."""
    if rank() == 0:
        work()
    wait_for_all()


def gather_rows(rows: Sequence[T]) -> list[T]:
    """The rows of all processes, in the order of their ranks."""
    if world_size() == 1:
        return list(rows)
    from accelerate.utils import gather_object

    return list(gather_object(list(rows)))
