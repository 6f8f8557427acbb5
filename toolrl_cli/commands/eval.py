"""`toolrl eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolrl_cli.commands import options


def evaluate(
    bench: Annotated[Literal["bfcl", "examples"], typer.Option("--bench", help="What to evaluate on.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", readable=False, help="Folder for results.jsonl and summary.json.")
    ],
    model: Annotated[str | None, typer.Option(help="Hub id, local folder or run of sft or grpo.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server, instead of a model; key in TOOLRL_API_KEY.")
    ] = None,
    served_model: Annotated[str | None, typer.Option(help="endpoint: name of the model there.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSONL of id and completion, or id and tool_calls, instead of a model."),
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
    limit: options.Limit = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion, in tokens.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = 8,
    engine: Annotated[Literal["transformers", "vllm"], typer.Option(help="What runs a --model.")] = "transformers",
    tools: Annotated[
        Literal["text", "native"],
        typer.Option(help="endpoint: tools in our prompt and calls as text, or both in the server's own way."),
    ] = "text",
    concurrency: Annotated[int, typer.Option(min=1, help="endpoint: requests at a time.")] = 8,
    retries: Annotated[int, typer.Option(min=0, help="endpoint: tries after the first.")] = 5,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="endpoint: longest wait for an answer, in seconds.")
    ] = 600.0,
    temperature: Annotated[float, typer.Option(min=0, help="Of sampling; 0 is greedy.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each entry, for pass@k.")] = 1,
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
        bench=bench, output=output, model=model, endpoint=endpoint, served_model=served_model, predictions=predictions,
        data=data, reward=reward,
        categories=tuple(category or ()), bfcl_wheel=bfcl_wheel, limit=limit, max_new_tokens=max_new_tokens,
        batch_size=batch_size, engine=engine, tools=tools, concurrency=concurrency, retries=retries, timeout=timeout,
        temperature=temperature, samples=samples, format=format, template=template, seed=seed,
        allow_mismatch=allow_mismatch, resume=resume, overwrite=overwrite,
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
