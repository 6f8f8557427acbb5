"""Where a catalogue is that defines the tools of rows which only name them."""

from __future__ import annotations

from pathlib import Path

from toolrl_cli.sources.base import RowError


def find_catalogue(path: Path, tools: Path | None, name: str, above: int = 0) -> Path:
    """The catalogue that was given, else the file `name` beside a data file or in up to `above` folders over it.

    Raises:
        RowError: there is none; the message says where it was sought.
    """
    if tools is not None:
        return tools
    for folder in path.absolute().parents[: above + 1]:
        if (folder / name).is_file():
            return folder / name
    folders = f"beside it or in the {above} folders above" if above else "beside it"
    raise RowError("no catalogue", f"{path} needs {name}, which is not {folders}; pass it with --tools")
