"""The only file that prints: results to stdout, progress and logs to stderr."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from textwrap import indent
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from toolrl_cli.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType
    from rich.progress import Progress

T = TypeVar("T")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Everything that is no printable text, a tab or the end of a line."""
PIPE_WIDTH = 1000
"""Columns of a table that no terminal shows: wide enough that no value is folded."""


def print_json(value: object) -> None:
    """Print one JSON object to stdout."""
    from toolrl_cli.jsonl import dump_json

    write(dump_json(value) + "\n")


def print_text(text: str) -> None:
    """Print plain text to stdout."""
    write(text + "\n")


def log(message: str) -> None:
    """Print one line to stderr."""
    write(message + "\n", stderr=True)


def write(text: str, *, stderr: bool = False) -> None:
    """Write to stdout or stderr; a reader that has gone, as `head` goes, changes nothing in how a command ends.

    Raises:
        SetupError: what stdout goes to takes no more, such as a full disk.
    """
    stream = sys.stderr if stderr else sys.stdout
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)
    except OSError as error:
        discard(stream)
        if not stderr:
            raise SetupError(f"standard output: {error.strerror}") from error


def fill_streams() -> None:
    """Put something behind each standard stream that is closed, lest the next file that is opened take its number.

    What goes to standard error then goes nowhere; reading standard input, or writing to standard output, fails.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def discard(stream: TextIO) -> None:
    """Let what is still written to a stream, also what its buffer holds, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush_or_discard(stream: TextIO) -> None:
    """Write what a stream's buffer holds, or let it go where the stream takes no more."""
    try:
        stream.flush()
    except OSError:
        discard(stream)


def render(console: Console, item: RenderableType) -> str:
    """What a console shows of an item."""
    with console.capture() as captured:
        console.print(item)
    return captured.get()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout; the first column is text, the others align right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.file.isatty():
        console.width = PIPE_WIDTH
    write(render(console, table))


def results_to(*, stderr: bool) -> AbstractContextManager[object]:
    """Send what is printed in a block to stderr, when stdout carries the rows."""
    return redirect_stdout(sys.stderr if stderr else sys.stdout)


def print_record(title: str, record: dict[str, Any], *, as_json: bool, stderr: bool = False) -> None:
    """Print a record: as JSON, or as a table with a row a field, nested names dotted.

    It goes to stdout, or to stderr when stdout carries the rows.
    """
    from toolrl_cli.jsonl import flatten

    with results_to(stderr=stderr):
        if as_json:
            return print_json(record)
        return print_table(title, ("", "value"), [(name, str(value)) for name, value in flatten(record).items()])


@contextmanager
def progress_bar(*, in_bytes: bool = False) -> Iterator[Progress]:
    """A bar on stderr with time left; silent when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.file.isatty()) as progress:
        yield progress


def log_beside(progress: Progress, message: str) -> None:
    """Print one line to stderr, in a terminal above the bar and with its numbers in colour."""
    if progress.disable:
        return log(message)
    return progress.console.print(message, markup=False, soft_wrap=True)


@contextmanager
def progress_counter(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told the number done and the number of all."""
    with progress_bar() as progress:
        task = progress.add_task(description, total=None, note="")
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def byte_progress(description: str, path: Path) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of a file, moved on by the number read; nothing is loaded when nobody would see it."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with progress_bar(in_bytes=True) as progress:
        total = path.stat().st_size if path.is_file() else None
        task = progress.add_task(description, total=total, note="")
        yield lambda count: progress.advance(task, count)


@contextmanager
def row_progress(description: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """A bar over `total` bytes, moved on by the bytes and rows done, with the rows a second."""
    if not sys.stderr.isatty():
        yield lambda size, rows: None
        return
    start, done = time.perf_counter(), 0
    with progress_bar(in_bytes=True) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(size: int, rows: int) -> None:
            nonlocal done
            done += rows
            rate = done / (time.perf_counter() - start)
            progress.update(task, advance=size, note=f"{rate:,.0f} rows/s")

        yield advance


def print_diff(lines: Iterable[str], *, stderr: bool = False) -> None:
    """Print the lines of a diff in colour: `-` red, `+` green, headings bold."""
    from rich.console import Console
    from rich.text import Text

    styles = {"@": "bold", "  -": "red", "  +": "green", "  #": "dim"}
    console = Console(stderr=stderr, soft_wrap=True, highlight=False)
    for line in lines:
        style = next((style for start, style in styles.items() if line.startswith(start)), "")
        printable = line.removeprefix("@ ").encode(errors="backslashreplace").decode()
        write(render(console, Text(printable, style=style)), stderr=stderr)


def print_sections(title: str, rows: Sequence[Mapping[str, str]], *, stderr: bool = False) -> None:
    """Print a title and named texts: the texts of a row beside each other in a terminal, all below each other else.

    They go to stdout, or to stderr when it is for a person alone.
    """
    from rich.console import Console
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, stderr=stderr)
    if not console.file.isatty():
        sections = [f"{name}:\n{indent(printable(text), '  ')}\n" for row in rows for name, text in row.items()]
        return write("\n".join([f"== {printable(title)}", "", *sections, ""]), stderr=stderr)
    write(render(console, Rule(Text(printable(title)), align="left")), stderr=stderr)
    for row in rows:
        table = Table(expand=True)
        for name in row:
            table.add_column(Text(name), ratio=1, overflow="fold")
        table.add_row(*(Text(printable(text)) for text in row.values()))
        write(render(console, table), stderr=stderr)
    return None


def printable(text: str) -> str:
    """The text with control characters and lone surrogates as escapes, so that it cannot steer a terminal."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items under a progress bar."""
    with progress_bar() as progress:
        task = progress.add_task(description, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)
