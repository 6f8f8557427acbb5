"""`toolrl score`."""

from pathlib import Path
from typing import Annotated

import typer

from toolrl_cli.commands.options import AsJson, ConfigFile, Debug, Overwrite
from toolrl_cli.console import log, print_record


def score(
    data: Annotated[
        Path, typer.Argument(readable=False, help="JSONL of completions with their targets, or - for standard input.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", readable=False, help="Scored rows; - is standard output.")
    ] = None,
    reward: Annotated[str, typer.Option(help="Reward preset, such as fine-grained or length.")] = "fine-grained",
    fail_under: Annotated[float | None, typer.Option(help="Exit with 3 when the mean total is lower.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed row.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Score completions against their targets. Each row gets its reward parts, an outcome and reasons."""
    from toolrl_cli.jsonl import STDIO
    from toolrl_cli.rewards import find_reward
    from toolrl_cli.scoring import check, score_file

    tally = score_file(data, find_reward(reward), output, log, strict=strict, overwrite=overwrite)
    print_record(
        f"score {data}", tally.to_json() if as_json else tally.shown(), as_json=as_json, stderr=output == STDIO
    )
    check(tally, data, fail_under)
