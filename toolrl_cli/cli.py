"""The Typer app: registers the commands and turns every failure into one line and an exit status."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from toolrl_cli import __version__
from toolrl_cli.commands import eval as eval_command
from toolrl_cli.commands import grpo, prepare, quickstart, score, sft
from toolrl_cli.console import log
from toolrl_cli.errors import SetupError, ToolrlError

TRAIN_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf", "matplotlib")


class ToolrlGroup(TyperGroup):
    """The command group with the one error handler."""

    def get_help_option(self, ctx: Any) -> Any:
        """The `--help` flag, with a default: an unset flag would make Typer import pydantic (80 ms)."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def invoke(self, ctx: Any) -> Any:
        """Run the command; on a failure print where, what and the fix, and exit with its status."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            log("interrupted; finished work is kept")
            raise typer.Exit(130) from None
        except (ToolrlError, ImportError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if "--debug" in sys.argv:
                traceback.print_exc()
            failure = explain(error)
            log(f"toolrl: {failure}")
            raise typer.Exit(failure.exit_status) from None


def explain(error: ToolrlError | ImportError | OSError) -> ToolrlError:
    """The error a user should read: a missing package becomes the line that installs its extra."""
    if isinstance(error, ToolrlError):
        return error
    if isinstance(error, ImportError):
        if error.name and error.name.split(".")[0] in TRAIN_PACKAGES:
            return SetupError(f"{error.name} is not installed; run: python -m pip install 'toolrl[train]'")
        return SetupError(f"{error}; reinstall with the pinned versions of constraints.txt")
    return SetupError(f"{error.filename or 'system'}: {error.strerror or error}")


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"toolrl {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=ToolrlGroup,
    name="toolrl",
    help="Train language models to call tools well, and prove it.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


@app.callback()
def main(version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True)) -> None:
    """Train language models to call tools well, and prove it."""


app.command("prepare")(prepare.prepare)
app.command("sft")(sft.sft)
app.command("grpo")(grpo.grpo)
app.command("score")(score.score)
app.command("eval")(eval_command.evaluate)
app.command("quickstart")(quickstart.quickstart)
