"""`toolrl export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolrl_cli.commands import options
from toolrl_cli.console import print_record


def export(
    run: Annotated[Path, typer.Argument(readable=False, help="A run of sft or grpo, finished; for verl, begun.")],
    to: Annotated[
        Literal["hf", "vllm", "verl"],
        typer.Option(
            "--to", help="hf: full weights; vllm: those and how to serve them; verl: the same GRPO as files for verl."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="hf and vllm: type of the weights (else the base's own)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(readable=False, help="verl: where the run's examples lie now, if elsewhere.")
    ] = None,
    test: Annotated[Path | None, typer.Option(readable=False, help="verl: held-out examples to validate on.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Write a run in the form that another program takes."""
    from toolrl_cli.training.export import ExportConfig, export_run

    told = ExportConfig(run=run, to=to, output=output, dtype=dtype, data=data, test=test, overwrite=overwrite)
    print_record(f"export {run}", export_run(told), as_json=as_json)
