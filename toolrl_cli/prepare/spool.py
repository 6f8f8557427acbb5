"""Converted examples on their way to the output, in a hidden file that an interrupted run leaves to be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Self

from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.jsonl import dump_json, load_json, make_folder, write_json
from toolrl_cli.prepare.converting import Converted
from toolrl_cli.prepare.summary import SourceCounts, Summary
from toolrl_cli.records import Json

SAVE_EVERY = 32
"""Pieces between two notes of how far the run is."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is: whole pieces done, and what they left in the two files and in the summary."""

    plan: str
    pieces: int = 0
    examples_size: int = 0
    rejects_size: int = 0
    sources: Json = field(default_factory=dict)
    changed: Json = field(default_factory=dict)


class Spool:
    """Examples and rejects of the pieces done so far, in `.<output>.part` and `.<output>.rejects.part`.

    What was written behind the last note of progress is cut off when a run is resumed, and done again.
    """

    def __init__(self, output: Path, plan: Json, summary: Summary) -> None:
        self.examples = output.with_name(f".{output.name}.part")
        self.rejects = output.with_name(f".{output.name}.rejects.part")
        self._progress = output.with_name(f".{output.name}.part.json")
        self._output, self._summary = output, summary
        digest = hashlib.sha256(dump_json(plan).encode()).hexdigest()
        self._state = State(digest)
        make_folder(output.parent, output)

    @property
    def pieces(self) -> int:
        """How many pieces are done."""
        return self._state.pieces

    def resume(self) -> None:
        """Go on where an interrupted run of the same plan stopped, or start anew where there was none.

        Raises:
            ConfigError: an interrupted run of other inputs or options is in the way.
        """
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = State(**load_json(self._progress.read_bytes()))
            if found.plan != self._state.plan:
                why = "the interrupted run had other inputs or options; repeat them, or leave --resume out"
                raise ConfigError(f"{self._progress}: {why}")
            self._summary.sources = {name: SourceCounts.from_json(counts) for name, counts in found.sources.items()}
            self._summary.changed.update(found.changed)
            self._state = found

    def __enter__(self) -> Self:
        try:
            self._examples = self._open(self.examples, self._state.examples_size)
            self._rejects = self._open(self.rejects, self._state.rejects_size)
        except OSError as error:
            raise SetupError(f"{self._output}: cannot write here ({error.strerror}); choose another output") from error
        return self

    def _open(self, path: Path, size: int) -> IO[bytes]:
        stream = path.open("ab")
        stream.truncate(size)
        stream.seek(size)
        return stream

    def lines(self) -> Iterator[bytes]:
        """The examples written so far."""
        self._examples.flush()
        with self.examples.open("rb") as stream:
            yield from stream

    def append(self, done: Converted) -> None:
        """Add what became of a piece, which the summary counts already."""
        self._examples.writelines(done.lines)
        self._rejects.writelines(dump_json(reject.to_json()).encode() + b"\n" for reject in done.rejects)
        self._state = State(
            self._state.plan,
            self._state.pieces + 1,
            self._examples.tell(),
            self._rejects.tell(),
            {name: counts.to_json() for name, counts in self._summary.sources.items()},
            dict(self._summary.changed),
        )
        if self._state.pieces % SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        """Note how far the run is; of a piece that was interrupted nothing counts."""
        for stream in (self._examples, self._rejects):
            stream.flush()
        write_json(self._progress, asdict(self._state))

    def __exit__(self, *exc_info: object) -> None:
        self.save()
        self._examples.close()
        self._rejects.close()

    def remove(self) -> None:
        """Leave nothing behind."""
        for path in (self.examples, self.rejects, self._progress):
            path.unlink(missing_ok=True)
