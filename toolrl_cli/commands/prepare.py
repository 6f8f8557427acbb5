"""`toolrl prepare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolrl_cli.commands.options import AsJson, ConfigFile, Debug, DryRun, Limit, Overwrite, Seed
from toolrl_cli.console import log, print_json, print_table, print_text, results_to

STDOUT = Path("-")


def prepare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", readable=False, help="JSONL, a .json array, or - for stdin.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="Examples to write, - for stdout.")],
    source: Annotated[str | None, typer.Option("--from", help="Source of the rows (else detected).")] = None,
    on_invalid: Annotated[
        Literal["reject", "keep", "repair"],
        typer.Option(help="What becomes of rows whose calls contradict their tools."),
    ] = "reject",
    tools: Annotated[
        Path | None, typer.Option(readable=False, help="Catalogue of the tools that rows only name (else beside them).")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(readable=False, help="Rejected rows (else beside the output).")
    ] = None,
    limit: Limit = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the examples (holds them in memory).")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Turn tool-call data into examples. Each assistant step is a line; rejected rows are kept with their reason."""
    from toolrl_cli.prepare import PrepareConfig, plan, prepare_examples

    settings = PrepareConfig(
        inputs=tuple(inputs),
        output=output,
        source=source,
        tools=tools,
        on_invalid=on_invalid,
        rejects=rejects,
        limit=limit,
        shuffle=shuffle,
        seed=seed,
        overwrite=overwrite,
    )
    if dry_run:
        return print_json(plan(settings))
    summary, piped = prepare_examples(settings), STDOUT in (output, rejects)
    if summary.rejected_line and not piped:
        log(summary.rejected_line)
    with results_to(stderr=piped):
        if as_json:
            return print_json(summary.to_json())
        print_table(f"prepare {output}", *summary.table())
        return print_text("\n".join(summary.reason_lines())) if summary.reason_lines() else None
