"""`toolrl grpo`."""

from __future__ import annotations

from toolrl_cli.commands.options import takes
from toolrl_cli.commands.processes import training_processes
from toolrl_cli.console import print_record
from toolrl_cli.training.config import GrpoConfig


@takes(GrpoConfig)
def grpo(config: GrpoConfig, as_json: bool) -> None:
    """Train a model by GRPO under a tool-call reward."""
    from toolrl_cli.training.grpo import train_grpo

    with training_processes(config):
        print_record(f"grpo {config.output}", train_grpo(config).to_json(), as_json=as_json)
