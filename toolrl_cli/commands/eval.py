"""`toolrl eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolrl_cli.commands import options
from toolrl_cli.errors import UsageError

if TYPE_CHECKING:
    from toolrl_cli.evaluation import Exhibit, Recorded, ReviewConfig


READING = "Looking at a finished evaluation"
GATING = "Comparing and gating"


SHOWING = {"show", "category", "limit", "bfcl_wheel"}
LOOKING = {"baseline", "fail_under", "max_drop", "junit"}
RESCORING = LOOKING | {"rescore", "bfcl_wheel"}
"""The options that do something for a finished evaluation."""


def evaluate(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", readable=False, help="A finished evaluation to look at, compare or gate."),
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option("--bench", help="What to evaluate on: api-bank, bamboogle, bfcl, bfcl-v3, examples."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", readable=False, help="Folder for results.jsonl and summary.json.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, local folder or run of sft or grpo.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server, instead of a model; key in TOOLRL_API_KEY.")
    ] = None,
    served_model: Annotated[str | None, typer.Option(help="endpoint: name of the model there.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            readable=False, help="JSONL of id and completion, tool_calls or turns, instead of a model; - for stdin."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(readable=False, help="All but bfcl: the file to evaluate on; api-bank takes a folder too."),
    ] = None,
    reward: Annotated[str, typer.Option(help="examples: the reward that scores.")] = "fine-grained",
    category: Annotated[
        list[str] | None,
        typer.Option("--category", help="bfcl and --show: a category; repeat for more. Default: all supported."),
    ] = None,
    bfcl_wheel: Annotated[
        Path | None, typer.Option(readable=False, help="bfcl: local wheel of bfcl-eval, for use offline.")
    ] = None,
    own_prompt: Annotated[
        bool, typer.Option("--own-prompt", help="api-bank: show the prompts of processed rows as they are.")
    ] = False,
    search: Annotated[
        str | None,
        typer.Option(
            help="bamboogle: the engine behind the search tool; bm25:CORPUS.jsonl, recorded:FILE, serper, wikipedia "
            "or none."
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(readable=False, help="bamboogle: keep what the engine answers in this file.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="bamboogle: what is right; exact (default), or endpoint:URL#MODEL."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option(help="Only these entries: ids with commas between, or a file with one a line.")
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
    show: Annotated[
        Literal["wrong", "right", "all"] | None,
        typer.Option("--show", help="Print single entries of DIR, at most --limit.", rich_help_panel=READING),
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore", help="Grade the completions of DIR again, by today's rules.", rich_help_panel=READING
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            readable=False, help="Another evaluation of the bench, to compare with by id.", rich_help_panel=GATING
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 3 when a metric or category is lower, as name=value, shares in percent; repeat for more.",
            rich_help_panel=GATING,
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 3 when one fell by more points since the baseline; repeat for more.", rich_help_panel=GATING
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(readable=False, help="JUnit XML to write, a test case an entry.", rich_help_panel=GATING),
    ] = None,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Evaluate a model on a benchmark, or look at an evaluation. Recorded predictions do as well as a model."""
    from toolrl_cli import console, evaluation

    categories, wheel = tuple(category or ()), bfcl_wheel
    checks = evaluation.ReviewConfig(
        baseline=baseline, fail_under=evaluation.read_gates(evaluation.FAIL_UNDER, fail_under or []),
        max_drop=evaluation.read_gates(evaluation.MAX_DROP, max_drop or []), junit=junit,
    )  # fmt: skip
    if folder is not None and show:
        refuse_idle(ctx, SHOWING, "--show")
        found = evaluation.find_exhibits(folder, show, categories=categories, limit=limit, bfcl_wheel=wheel)
        return print_exhibits(found, as_json=as_json)
    if folder is not None:
        refuse_idle(ctx, RESCORING if rescore else LOOKING, "a finished evaluation")
        return report(look(folder, wheel, anew=rescore), checks, as_json=as_json)
    if bench is None or output is None or show or rescore:
        raise UsageError("give --bench and -o to evaluate, or the DIR of a finished evaluation to look at")
    settings = evaluation.EvalConfig(
        bench=bench, output=output, model=model, endpoint=endpoint, served_model=served_model, predictions=predictions,
        data=data, reward=reward, categories=categories, bfcl_wheel=wheel, own_prompt=own_prompt, search=search,
        record=record, judge=judge, ids=evaluation.read_ids(ids or ()), limit=limit,
        max_new_tokens=max_new_tokens, batch_size=batch_size, engine=engine, tools=tools, concurrency=concurrency,
        retries=retries, timeout=timeout, temperature=temperature, samples=samples, format=format, template=template,
        seed=seed, allow_mismatch=allow_mismatch, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    if dry_run:
        return console.print_record("plan", evaluation.plan(settings, checks=checks), as_json=as_json)
    for note in evaluation.note_mismatch(settings):
        console.log(f"note: {note}")
    with console.progress_counter("grading") as progress:
        evaluation.evaluate(settings, checks=checks, progress=progress)
    return report(evaluation.read_recorded(output), checks, as_json=as_json)


def refuse_idle(ctx: typer.Context, used: set[str], what: str) -> None:
    """Raise `UsageError` for an option that was given, on the command line or in YAML, and does nothing here."""
    for param in ctx.command.params:
        name = str(param.name)
        source = ctx.get_parameter_source(name)
        given = source is not None and source.name != "DEFAULT" and ctx.params.get(name) is not None
        if given and name not in used | {"folder", "as_json"}:
            hint = "; a gate names its category, as in --fail-under parallel=40" if name == "category" else ""
            raise UsageError(f"{param.opts[0]} does nothing with {what}; leave it out{hint}")


def look(folder: Path, wheel: Path | None, *, anew: bool) -> "Recorded":
    """A finished evaluation, graded anew if that is asked for."""
    from toolrl_cli import console, evaluation

    if not anew:
        return evaluation.read_recorded(folder)
    with console.progress_counter("grading") as progress:
        return evaluation.rescore(folder, bfcl_wheel=wheel, progress=progress)


def report(recorded: "Recorded", checks: "ReviewConfig", *, as_json: bool) -> None:
    """Print a finished evaluation with its comparison and its gates; raise `GateFailed` when one is not met."""
    from toolrl_cli import console, evaluation

    found = evaluation.review(recorded, checks)
    if as_json:
        console.print_json(found.to_json())
    else:
        for table in found.tables():
            console.print_table(*table)
        console.print_text("\n".join(found.lines()))
    found.enforce()


def print_exhibits(exhibits: "list[Exhibit]", *, as_json: bool) -> None:
    """Print single entries."""
    from toolrl_cli import console

    if as_json:
        return console.print_json({"entries": [found.to_json() for found in exhibits]})
    for found in exhibits:
        console.print_sections(found.title(), found.sections())
    return None if exhibits else console.log("no such entries")
