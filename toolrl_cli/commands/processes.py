"""Commands that train: in this process, or in several that run the same command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from toolrl_cli.training.config import TrainingConfig


@contextmanager
def training_processes(config: TrainingConfig) -> Iterator[None]:
    """Run a block here; where several processes are asked for, let them run it and end with their status instead.

    Heavy imports belong into the block: what is missing or misspelled is found before it.
    """
    from toolrl_cli.training.inputs import check_inputs
    from toolrl_cli.training.launch import main_process_speaks, run_processes, starts_processes

    if starts_processes(config):
        check_inputs(config)
        raise typer.Exit(run_processes(config, sys.argv[1:]))
    with main_process_speaks():
        check_inputs(config)
        yield
