"""`toolrl quickstart`."""

from pathlib import Path
from typing import Annotated

import typer

from toolrl_cli.commands import options


def quickstart(
    output: Annotated[
        Path, typer.Option("--output", "-o", readable=False, help="Folder for everything it makes.")
    ] = Path("quickstart"),
    seed: options.Seed = 0,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Run it all in small, on sample data. A small real model is trained, and a before/after table ends it."""
    from toolrl_cli import console
    from toolrl_cli.quickstart import plan_recipe, run_recipe

    recipe = plan_recipe(output, seed=seed, resume=resume)
    report = run_recipe(recipe, console.log, console.progress_counter, overwrite=overwrite)
    if as_json:
        return console.print_json(report.to_json())
    console.print_table(*report.table())
    return console.print_text(report.text())
