"""`toolrl grpo`."""

from __future__ import annotations

from toolrl_cli.commands.options import takes
from toolrl_cli.commands.processes import training_processes
from toolrl_cli.console import print_record, print_text, results_to
from toolrl_cli.training.config import GrpoConfig


@takes(GrpoConfig)
def grpo(config: GrpoConfig, as_json: bool) -> None:
    """Train a model by GRPO under a tool-call reward."""
    with training_processes(config):
        from toolrl_cli.training.grpo import train_grpo
        from toolrl_cli.training.preflight import report_lines, require_signal

        with results_to(stderr=True):  # a tracker prints what it does
            summary = train_grpo(config)
        record = summary.to_json()
        report = record.get("preflight") if as_json else record.pop("preflight", None)
        print_record(f"grpo {config.output}", record, as_json=as_json)
        if config.dry_run and report:
            if not as_json:
                print_text("\n".join(report_lines(report)))
            require_signal(report, config)
