"""`toolrl audit`."""

from pathlib import Path
from typing import Annotated

import typer

from toolrl_cli.commands import options
from toolrl_cli.console import print_json, print_table, print_text


def audit(
    reward: Annotated[str, typer.Argument(help="Preset, .yaml file of a reward spec, or module:function.")],
    data: Annotated[
        Path | None, typer.Option(readable=False, help="Examples from toolrl prepare (else held-out sample data).")
    ] = None,
    limit: options.Limit = None,
    step: options.Step = 0,
    format: Annotated[
        options.CompletionFormat, typer.Option("--format", help="Text format of the answers.")
    ] = "toolrl",
    matching: options.MatchingName = None,
    set_reward: options.RewardSettings = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
    debug: options.Debug = False,
) -> None:
    """Try to cheat a reward. Degenerate and hostile answers are set against the honest one."""
    from toolrl_cli.auditing import audit_reward, check
    from toolrl_cli.rewards import find_reward

    settings = options.parse_settings(set_reward or [], "--set-reward")
    found = audit_reward(find_reward(reward, matching=matching, settings=settings), data, limit, step, format)
    if as_json:
        print_json(found.to_json())
    else:
        print_table(*found.table())
        print_text("\n".join(found.lines()))
    check(found)
