"""`toolrl sft`."""

from __future__ import annotations

from toolrl_cli.commands.options import takes
from toolrl_cli.commands.processes import training_processes
from toolrl_cli.console import print_record, results_to
from toolrl_cli.training.config import SftConfig


@takes(SftConfig)
def sft(config: SftConfig, as_json: bool) -> None:
    """Train a model on gold completions. This is the LoRA cold start before grpo."""
    with training_processes(config):
        from toolrl_cli.training.sft import train_sft

        with results_to(stderr=True):  # a tracker prints what it does
            summary = train_sft(config)
        print_record(f"sft {config.output}", summary.to_json(), as_json=as_json)
