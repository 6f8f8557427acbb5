"""What `prepare` is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from toolrl_cli.errors import UsageError
from toolrl_cli.jsonl import is_stream

RESERVED = ("rejects", "contaminated")
"""Names of files beside the output that are no splits."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How each example is changed; shares are probabilities in [0, 1]."""

    last_step: bool = False
    thought: Literal["keep", "drop", "placeholder"] = "keep"
    max_tools: int | None = None
    shuffle_tools: bool = False
    irrelevance: float = 0.0
    mask_names: float = 0.0

    @property
    def by_rule(self) -> Changes:
        """Those that leave equal examples equal."""
        return Changes(last_step=self.last_step, thought=self.thought)

    @property
    def by_chance(self) -> Changes:
        """Those that may part equal examples, made after the others."""
        return replace(self, last_step=False, thought="keep")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which examples are written, in what order, and to which files."""

    dedupe: Literal["exact", "near"] | None = None
    decontaminate: tuple[str, ...] = ()
    max_prompt_tokens: int | None = None
    tokenizer: str | None = None
    format: str | None = None
    template: Path | None = None
    keep_learnable: Path | None = None
    mix: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[str, float] = field(default_factory=dict)
    shuffle: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether every example is written as it comes."""
        return self == Choice(format=self.format, template=self.template)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare` is told; `source` forces a source that would else be detected.

    `tools` is a catalogue of tools, for sources whose rows only name them.
    """

    inputs: tuple[Path, ...]
    output: Path
    source: str | None = None
    hub_split: str | None = None
    tools: Path | None = None
    on_invalid: Literal["reject", "keep", "repair"] = "reject"
    rejects: Path | None = None
    changes: Changes = Changes()
    choice: Choice = Choice()
    limit: int | None = None
    seed: int = 0
    workers: int = 1
    resume: bool = False
    overwrite: bool = False

    @property
    def enough(self) -> int | None:
        """How many examples need to be converted, None for all."""
        return self.limit if self.choice.takes_all else None

    @property
    def early_changes(self) -> Changes:
        """The changes that rows get when they are converted."""
        return self.changes if self.choice.takes_all else self.changes.by_rule

    @property
    def late_changes(self) -> Changes:
        """The changes that only chosen examples get, so that the choice compares them as they were."""
        return Changes() if self.choice.takes_all else self.changes.by_chance

    @property
    def rejects_path(self) -> Path | None:
        """Where rejects go: as told, else beside the output, nowhere when that is no file."""
        return self.rejects if self.rejects is not None else self.beside_output("rejects")

    @property
    def contaminated_path(self) -> Path | None:
        """Where examples go that overlap a benchmark; nowhere when the output is no file."""
        return self.beside_output("contaminated") if self.choice.decontaminate else None

    @property
    def outputs(self) -> list[Path]:
        """All files that may be written, streams too."""
        paths = [self.output, self.rejects_path, self.contaminated_path, *self.split_paths.values()]
        return [path for path in paths if path]

    @property
    def split_paths(self) -> dict[str, Path]:
        """The files of the splits beside the output, by name."""
        paths = {name: self.beside_output(name) for name in self.choice.split}
        return {name: path for name, path in paths.items() if path}

    def beside_output(self, name: str) -> Path | None:
        """`<output stem>.<name>.jsonl` in the folder of the output, when that is a file."""
        return None if is_stream(self.output) else self.output.with_name(f"{self.output.stem}.{name}.jsonl")


def read_mix(text: str | None) -> dict[str, int]:
    """`toolace=2000,xlam=1000` as numbers by source; raise `UsageError` for anything else."""
    counts: dict[str, int] = {}
    for part in split_list(text):
        source, _, count = part.partition("=")
        if not count.isdecimal() or int(count) == 0 or source in counts:
            raise UsageError(f"--mix {part}: must be SOURCE=NUMBER, each source once, as in toolace=2000,xlam=1000")
        counts[source] = int(count)
    return counts


def read_splits(texts: Iterable[str]) -> tuple[str | None, dict[str, float]]:
    """The split to read of a data set on the Hub, and the shares of the splits to write.

    Raises:
        UsageError: a share is not between 0 and 1, the shares take everything, or a name is no file name.
    """
    hub_split: str | None = None
    shares: dict[str, float] = {}
    for part in (part for text in texts for part in split_list(text)):
        name, equals, share = part.partition("=")
        if not equals:
            hub_split = part
            continue
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = -1.0
        if not 0 < shares[name] < 1 or not name.replace("-", "").replace("_", "").isalnum() or name in RESERVED:
            raise UsageError(f"--split {part}: must be NAME=SHARE with a share between 0 and 1, as in test=0.02")
    if sum(shares.values()) >= 1:
        raise UsageError(f"--split: the shares are {sum(shares.values()):g} together, and leave nothing")
    return hub_split, shares


def split_list(text: str | None) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
