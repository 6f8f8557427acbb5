"""Runs trainings in forked processes and kills some of them: `python killed_runs.py < jobs.json > statuses.json`.

A job is `{"command": "sft" | "grpo", "config": {...}, "kill": null | [event, seconds]}`. Events are
what the process does to files of its output folder, counted from 1; the kill comes that many
seconds after the event, from another process. The answer is for each job how it ended, as
`os.waitstatus_to_exitcode` says it, and how many events it had.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import trl  # noqa: F401

from toolrl_cli.training import checkpoints, shared_prefix  # noqa: F401
from toolrl_cli.training.config import GrpoConfig, SftConfig
from toolrl_cli.training.grpo import train_grpo
from toolrl_cli.training.sft import train_sft

EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


def run(job: dict[str, Any]) -> list[int]:
    """Do one job in a process of its own."""
    counter = torch.zeros(1, dtype=torch.int64).share_memory_()
    child = os.fork()
    if child == 0:
        try:
            watch_files(job, counter)
            train(job)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(status), int(counter)]


def watch_files(job: dict[str, Any], counter: torch.Tensor) -> None:
    """Count the events, and have the process killed after the one that the job names."""
    folder = job["config"]["output"]

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not str(arguments[0]).startswith(folder):
            return
        counter.add_(1)
        if job["kill"] and int(counter) == job["kill"][0]:
            kill_after(job["kill"][1])

    sys.addaudithook(see)


def kill_after(seconds: float) -> None:
    """Kill this process in some time."""
    if seconds == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    victim = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        os.kill(victim, signal.SIGKILL)
        os._exit(0)


def train(job: dict[str, Any]) -> None:
    """`toolrl sft` or `toolrl grpo`."""
    paths = {name: Path(job["config"][name]) for name in ("data", "output")}
    if job["command"] == "sft":
        train_sft(SftConfig(**job["config"] | paths))
    else:
        train_grpo(GrpoConfig(**job["config"] | paths))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([run(job) for job in json.load(sys.stdin)]))
