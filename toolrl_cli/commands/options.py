"""The options that commands share, each worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolrl_cli.errors import ConfigError


def load_config(ctx: typer.Context, path: Path | None) -> None:
    """Take option values from a YAML file; what stands on the command line wins.

    Raises:
        ConfigError: the file is missing or no mapping, or names an option the command has not.
    """
    if path is None:
        return
    import yaml

    try:
        values: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of option names to values")
    known = {opt.lstrip("-"): param.name for param in ctx.command.params for opt in (*param.opts, param.name or "")}
    for name in values:
        if name not in known:
            raise ConfigError(f"{path}: no option {name!r} in toolrl {ctx.info_name}{nearest(str(name), list(known))}")
    ctx.default_map = {str(known[name]): value for name, value in values.items()}


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?` when something known is close, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", callback=load_config, is_eager=True, expose_value=False, help="YAML file with options."),
]
Debug = Annotated[bool, typer.Option("--debug", expose_value=False, help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in the same output folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only this many examples.")]
