"""`toolrl score`."""

from pathlib import Path
from typing import Annotated

import typer

from toolrl_cli.commands import options
from toolrl_cli.console import log, print_diff, print_json, print_table, print_text, results_to


def score(
    data: Annotated[
        Path, typer.Argument(readable=False, help="JSONL of completions with their targets, or - for standard input.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", readable=False, help="Scored rows; - is standard output.")
    ] = None,
    reward: options.RewardNames = None,
    matching: options.MatchingName = None,
    set_reward: options.RewardSettings = None,
    step: options.Step = 0,
    format: Annotated[
        options.CompletionFormat | None,
        typer.Option("--format", help="Text format of the completions (else what each row says, else toolrl)."),
    ] = None,
    group_by: Annotated[str | None, typer.Option(help="Report groups too; prompt, or a field of the rows.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print each row's calls as a diff, and the reasons.")
    ] = False,
    fail_under: Annotated[
        list[str] | None, typer.Option(help="Exit with 3 when the mean total is lower, or part=value; repeat for more.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(readable=False, help="Scored rows to compare with, by id; exit with 3 when surely worse."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed row.")] = False,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Score completions against their targets. Each row gets its reward parts, an outcome and reasons."""
    from toolrl_cli.jsonl import STDIO
    from toolrl_cli.scoring import report, run

    settings = run.ScoreConfig(
        data=data, output=output, reward=",".join(reward or ["fine-grained"]), matching=matching,
        settings=options.parse_settings(set_reward or [], "--set-reward"), step=step, format=format, workers=workers,
        explain=explain, group_by=group_by, baseline=baseline, fail_under=run.read_gates(fail_under or []),
        strict=strict, seed=seed, overwrite=overwrite,
    )  # fmt: skip
    piped = output == STDIO
    summary = run.score_file(settings, log, lambda lines: print_diff(lines, stderr=as_json or piped))
    with results_to(stderr=piped):
        if as_json:
            print_json(summary)
        else:
            print_table(f"score {data}", *report.table(summary))
            print_text("\n".join(report.lines(summary)))
    run.check(summary, settings)
