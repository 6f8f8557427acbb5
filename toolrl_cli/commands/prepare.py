"""`toolrl prepare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolrl_cli.commands.options import AsJson, ConfigFile, Debug, DryRun, Limit, Overwrite, Seed
from toolrl_cli.console import print_json, print_record

STDOUT = Path("-")


def prepare(
    inputs: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="JSONL, a .json array, or - for stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Examples to write, - for stdout.")],
    source: Annotated[str | None, typer.Option("--from", help="Source of the rows (else detected).")] = None,
    on_invalid: Annotated[
        Literal["reject", "keep"], typer.Option(help="What becomes of rows whose calls contradict their tools.")
    ] = "reject",
    rejects: Annotated[Path | None, typer.Option(help="Rejected rows (else beside the output).")] = None,
    limit: Limit = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the examples (holds them in memory).")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Turn tool-call data sets into examples, one assistant step a line; rejected rows are kept with their reason."""
    from toolrl_cli.prepare import PrepareConfig, plan, prepare_examples

    settings = PrepareConfig(
        inputs=tuple(inputs),
        output=output,
        source=source,
        on_invalid=on_invalid,
        rejects=rejects,
        limit=limit,
        shuffle=shuffle,
        seed=seed,
        overwrite=overwrite,
    )
    if dry_run:
        return print_json(plan(settings))
    summary = prepare_examples(settings).to_json()
    return print_record(f"prepare {output}", summary, as_json=as_json, stderr=STDOUT in (output, rejects))
