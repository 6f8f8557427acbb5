"""The Typer app: registers the commands and turns every failure into one line and an exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from toolrl_cli import __version__
from toolrl_cli.console import discard, fill_streams, flush_or_discard, log
from toolrl_cli.errors import SetupError, Terminated, ToolrlError, UsageError

COMMANDS = {
    "prepare": "prepare",
    "sft": "sft",
    "grpo": "grpo",
    "score": "score",
    "eval": "evaluate",
    "audit": "audit",
    "export": "export",
    "quickstart": "quickstart",
}
"""The function of each command, in the module of its name below `commands`; only the one that runs is imported."""
TRAINING = ("sft", "grpo", "quickstart")
"""Commands that handle SIGTERM themselves, to save the step that is under way."""
RESUMABLE = (*TRAINING, "prepare", "eval")
TRAIN_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf", "matplotlib")
OWN_PACKAGES = (
    "toolrl_cli",
    "typer",
    "rich",
    "jsonlines",
    "jinja2",
    "yaml",
    "jsonschema",
    "platformdirs",
    "msgspec",
    "json_repair",
)
"""What toolrl itself is made of; another package that is missing is one that a library or the user's code asks for."""
READER_GONE = 141
"""What a shell says of a program that SIGPIPE ended."""


class ToolrlGroup(TyperGroup):
    """The command group with the one error handler."""

    def get_help_option(self, ctx: Any) -> Any:
        """The `--help` flag, with a default: an unset flag would make Typer import pydantic (80 ms)."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of a training."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, imported now; for an unknown name all are, so that Typer can suggest one."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = load_command(name)
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the app, also where a standard stream is closed; help that cannot be printed ends with 1."""
        fill_streams()
        try:
            return super().main(*args, **options)
        except OSError as error:
            log(f"toolrl: standard output: {error.strerror}")
            sys.exit(1)
        finally:
            flush_or_discard(sys.stdout)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; on a failure print where, what and the fix, and exit with its status."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            log("interrupted; finished work is kept" if ctx.invoked_subcommand in RESUMABLE else "interrupted")
            raise typer.Exit(getattr(interrupt, "exit_status", 130)) from None
        except BrokenPipeError:
            discard(sys.stdout)
            raise typer.Exit(READER_GONE) from None
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            if "--debug" in sys.argv:
                traceback.print_exc()
            failure = explain(error)
            log(f"toolrl: {' '.join(str(failure).splitlines())}")
            raise typer.Exit(failure.exit_status) from None


class ToolrlCommand(TyperCommand):
    """A command that takes one preset: of two, the first would be passed over."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words behind the command; raise `UsageError` for a second preset."""
        if sum(word.partition("=")[0] == "--preset" for word in args) > 1:
            raise UsageError("--preset: is given twice; presets do not add up")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; SIGTERM unwinds it as Ctrl-C does, so that nothing half written is left."""
        if self.name in TRAINING:
            return super().invoke(ctx)
        before = signal.signal(signal.SIGTERM, terminate)
        try:
            return super().invoke(ctx)
        finally:
            signal.signal(signal.SIGTERM, before)


def terminate(number: int, frame: object) -> None:
    """Stop the command because a signal came."""
    raise Terminated


def load_command(name: str) -> Any:
    """The command of a name, as Typer builds it."""
    single = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    single.command(name, cls=ToolrlCommand)(getattr(import_module(f"toolrl_cli.commands.{name}"), COMMANDS[name]))
    return typer.main.get_command(single)


def explain(error: Exception) -> ToolrlError:
    """The error a user should read: a missing package becomes the line that installs it."""
    if isinstance(error, ToolrlError):
        return error
    if isinstance(error, ImportError):
        package = missing_package(error)
        if package in TRAIN_PACKAGES:
            return SetupError(
                f"{package} is not installed; run: python -m pip install -c constraints.txt -e '.[train]'"
            )
        if package and package not in OWN_PACKAGES:
            return SetupError(f"{package} is not installed; run: python -m pip install {package}")
        advice = "" if "install" in str(error) else "; reinstall with the pinned versions of constraints.txt"
        return SetupError(f"{error}{advice}")
    if isinstance(error, OSError):
        return SetupError(f"{error.filename or 'system'}: {error.strerror or error}")
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return ToolrlError(f"internal error: {what}; run again with --debug for the traceback")


def missing_package(error: BaseException | None) -> str | None:
    """The package at the root of a failed import; transformers hides it behind an error of its own."""
    name = error.name.split(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else None
    return missing_package(error.__cause__) or name if error else None


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
