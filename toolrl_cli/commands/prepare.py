"""`toolrl prepare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolrl_cli.commands.options import AsJson, ConfigFile, Debug, DryRun, Format, Limit, Overwrite, Seed, Template
from toolrl_cli.console import log, print_json, print_table, print_text, results_to

if TYPE_CHECKING:
    from toolrl_cli.formats.base import TextFormat

STDOUT = Path("-")
READING, CHANGING, CHOOSING, LOOKING = "Reading", "Changing examples", "Choosing examples", "Looking at examples"


def prepare(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", readable=False, help="Files, folders, hf://ID[:CONFIG], or - for stdin."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", readable=False, help="Examples to write, - for stdout.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Source of the rows (else detected).", rich_help_panel=READING)
    ] = None,
    tools: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="Catalogue of the tools that rows only name (else beside them).",
            rich_help_panel=READING,
        ),
    ] = None,
    on_invalid: Annotated[
        Literal["reject", "keep", "repair"],
        typer.Option(help="What becomes of rows whose calls contradict their tools.", rich_help_panel=READING),
    ] = "reject",
    rejects: Annotated[
        Path | None,
        typer.Option(readable=False, help="Rejected rows (else beside the output).", rich_help_panel=READING),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; the result is the same.", rich_help_panel=READING)
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run stopped.", rich_help_panel=READING)
    ] = False,
    last_step: Annotated[
        bool,
        typer.Option(
            "--last-step/--step-wise", help="Only the last step of a dialogue, or all.", rich_help_panel=CHANGING
        ),
    ] = False,
    thought: Annotated[
        Literal["keep", "drop", "placeholder"],
        typer.Option(help="What becomes of thoughts; a placeholder is a stock sentence.", rich_help_panel=CHANGING),
    ] = "keep",
    max_tools: Annotated[
        int | None,
        typer.Option(min=1, help="Tools an example keeps: those called, others by chance.", rich_help_panel=CHANGING),
    ] = None,
    shuffle_tools: Annotated[
        bool, typer.Option("--shuffle-tools", help="Shuffle the tools of each example.", rich_help_panel=CHANGING)
    ] = False,
    mask_names: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of examples that get random names of tools and parameters.",
            rich_help_panel=CHANGING,
        ),
    ] = 0.0,
    irrelevance: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of examples that lose the tool they call, so that the answer is to say so.",
            rich_help_panel=CHANGING,
        ),
    ] = 0.0,
    dedupe: Annotated[
        Literal["exact", "near"] | None,
        typer.Option(help="Drop repeated examples, or also those that are nearly the same.", rich_help_panel=CHOOSING),
    ] = None,
    decontaminate: Annotated[
        str | None,
        typer.Option(
            help="Drop what overlaps these: bfcl, api-bank, bamboogle, FILE (commas between).",
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Drop examples with longer prompts.", rich_help_panel=CHOOSING)
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Model whose tokens count, and whose chat template --show uses.", rich_help_panel=CHOOSING),
    ] = None,
    keep_learnable: Annotated[
        Path | None,
        typer.Option(
            metavar="SCORED",
            readable=False,
            help="Drop examples whose scored completions all earned the same.",
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help="Examples to draw of each source: toolace=2000,xlam=1000.", rich_help_panel=CHOOSING),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="test=0.02: write that share beside the output, no dialogue or tool set in two files. "
            "Without a share: the split of an hf:// set to read.",
            rich_help_panel=CHOOSING,
        ),
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the examples.", rich_help_panel=CHOOSING)] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Count what examples hold, and write nothing.", rich_help_panel=LOOKING)
    ] = False,
    show: Annotated[
        int | None,
        typer.Option(
            min=1, help="Print so many in a --format, with --tokenizer as its model sees them.", rich_help_panel=LOOKING
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(readable=False, help="With --stats: histograms, as PNG.", rich_help_panel=LOOKING),
    ] = None,
    text_format: Format = None,
    template: Template = None,
    extract_template: Annotated[
        Path | None,
        typer.Option(readable=False, help="Write the --template that toolrl rows share.", rich_help_panel=LOOKING),
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Turn tool-call data into examples. Each assistant step is a line; rejected rows are kept with their reason."""
    from toolrl_cli.prepare import Changes, Choice, PrepareConfig, plan, prepare_examples
    from toolrl_cli.prepare.config import read_mix, read_splits, split_list
    from toolrl_cli.prepare.templates import write_template
    from toolrl_cli.training.text_format import choose_format

    changes = Changes(
        last_step=last_step,
        thought=thought,
        max_tools=max_tools,
        shuffle_tools=shuffle_tools,
        irrelevance=irrelevance,
        mask_names=mask_names,
    )
    hub_split, shares = read_splits(split or [])
    choice = Choice(
        dedupe=dedupe,
        decontaminate=tuple(split_list(decontaminate)),
        max_prompt_tokens=max_prompt_tokens,
        tokenizer=tokenizer,
        format=text_format,
        template=template,
        keep_learnable=keep_learnable,
        mix=read_mix(mix),
        split=shares,
        shuffle=shuffle,
    )
    if extract_template or stats or show:
        plain = Choice(tokenizer=tokenizer, format=text_format, template=template)
        if output or changes != Changes() or choice != plain:
            raise typer.BadParameter("rows are only looked at; leave out -o and what changes or chooses examples")
    if plot and not stats:
        raise typer.BadParameter("belongs to --stats", param_hint="--plot")
    if show and (stats or as_json):
        raise typer.BadParameter("prints texts; leave out --stats and --json", param_hint="--show")
    if (text_format or template) and not (show or tokenizer):
        name = "--format" if text_format else "--template"
        raise typer.BadParameter("belongs to --show or --tokenizer; examples are written in no format", param_hint=name)
    if extract_template:
        count = write_template(inputs, extract_template, overwrite=overwrite)
        return log(f"{extract_template}: the wording of {count} rows")
    if stats or show:
        wording = choose_format(tokenizer, text_format, template)
        if show:
            return print_examples(inputs, wording, show, tokenizer)
        return print_statistics(inputs, wording, tokenizer, limit, plot, overwrite=overwrite, as_json=as_json)
    if output is None:
        raise typer.BadParameter("needed, unless rows are only looked at", param_hint="--output")
    settings = PrepareConfig(
        inputs=tuple(inputs),
        output=output,
        source=source,
        hub_split=hub_split,
        tools=tools,
        on_invalid=on_invalid,
        rejects=rejects,
        changes=changes,
        choice=choice,
        limit=limit,
        seed=seed,
        workers=workers,
        resume=resume,
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
        return print_text("\n".join(summary.lines())) if summary.lines() else None


def print_examples(inputs: list[Path], wording: "TextFormat", count: int, model: str | None) -> None:
    """Print the prompts and targets of examples, prompts as the text that a model sees where one is named."""
    from toolrl_cli.prepare.statistics import find_tokenizer, read_all, show_example

    tokenizer = find_tokenizer(model) if model else None
    for example in read_all(inputs, count):
        print_text(show_example(example, wording, tokenizer))


def print_statistics(
    inputs: list[Path],
    wording: "TextFormat",
    tokenizer: str | None,
    limit: int | None,
    plot: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print what files of examples hold, and draw it."""
    from toolrl_cli.prepare.statistics import make_counter, read_statistics
    from toolrl_cli.report.plots import plot_lengths, refuse_picture

    if plot:
        refuse_picture(plot, overwrite=overwrite)
    found = read_statistics(inputs, make_counter(tokenizer, wording) if tokenizer else None, limit)
    if plot:
        plot_lengths(found.lengths, plot)
    if as_json:
        return print_json(found.to_json())
    print_table(f"{found.examples} examples", *found.table())
    return print_text("\n".join(found.lines()))
