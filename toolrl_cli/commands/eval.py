"""`toolrl eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolrl_cli.commands import options


def evaluate(
    bench: Annotated[Literal["bfcl", "bfcl-v3", "examples"], typer.Option("--bench", help="What to evaluate on.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", readable=False, help="Folder for results.jsonl and summary.json.")
    ],
    model: Annotated[str | None, typer.Option(help="Hub id, local folder or run of sft or grpo.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSONL of id and completion, tool_calls or turns, instead of a model."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(readable=False, help="examples: the examples.jsonl to evaluate on.")
    ] = None,
    reward: Annotated[str, typer.Option(help="examples: the reward that scores.")] = "fine-grained",
    category: Annotated[
        list[str] | None, typer.Option("--category", help="bfcl: a category; repeat for more. Default: all supported.")
    ] = None,
    bfcl_wheel: Annotated[
        Path | None, typer.Option(readable=False, help="bfcl: local wheel of bfcl-eval, for use offline.")
    ] = None,
    ids: Annotated[
        str | None, typer.Option(help="Only these entries: ids with commas between, or a file with one a line.")
    ] = None,
    limit: options.Limit = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion, in tokens.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = 8,
    format: options.Format = None,
    template: options.Template = None,
    seed: options.Seed = 0,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Evaluate also when the prompt format is not the training's.")
    ] = False,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Evaluate a model on a benchmark. Recorded predictions do as well."""
    from dataclasses import asdict

    from toolrl_cli import console, evaluation

    settings = evaluation.EvalConfig(
        bench=bench, output=output, model=model, predictions=predictions, data=data, reward=reward,
        categories=tuple(category or ()), bfcl_wheel=bfcl_wheel,
        ids=evaluation.read_ids(ids) if ids is not None else (), limit=limit, max_new_tokens=max_new_tokens,
        batch_size=batch_size, format=format, template=template, seed=seed, allow_mismatch=allow_mismatch,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    if dry_run:
        return console.print_record("plan", asdict(evaluation.plan(settings)), as_json=as_json)
    with console.progress_counter("grading") as progress:
        summary = evaluation.evaluate(settings, progress=progress)
    if as_json:
        return console.print_json(summary.to_json())
    for table in evaluation.summary_tables(summary):
        console.print_table(*table)
    return console.print_text("\n".join(f"note: {note}" for note in summary.notes))
