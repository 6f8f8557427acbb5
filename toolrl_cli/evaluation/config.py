"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolrl_cli.benches.bfcl.categories import choose_categories
from toolrl_cli.errors import ConfigError
from toolrl_cli.training.config import FormatName

BENCHES = ("bfcl", "examples")


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, on what, and where the results go.

    Either `model` (a name, a folder or a run of toolrl) or `predictions` (a JSONL file) is the
    source of completions; `data` and `reward` belong to the examples bench, `categories` and
    `bfcl_wheel` to bfcl. Without a `format` it is that of the model's training, else toolrl, which
    `template`, a Jinja file, words. `max_new_tokens` is the longest completion in tokens, `limit` the number
    of entries.

    Raises:
        ConfigError: the values contradict each other.
    """

    bench: str
    output: Path
    model: str | None = None
    predictions: Path | None = None
    data: Path | None = None
    reward: str = "fine-grained"
    categories: tuple[str, ...] = ()
    bfcl_wheel: Path | None = None
    limit: int | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    format: FormatName | None = None
    template: Path | None = None
    seed: int = 0
    allow_mismatch: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.bench not in BENCHES:
            raise ConfigError(f"unknown bench {self.bench!r}; choose from {', '.join(BENCHES)}")
        if (self.model is None) == (self.predictions is None):
            raise ConfigError("completions need one source; give either --model or --predictions")
        if (self.data is None) == (self.bench == "examples"):
            raise ConfigError("--data FILE is what --bench examples evaluates on; give the two together")
        if self.bench != "bfcl" and (self.categories or self.bfcl_wheel):
            raise ConfigError("--category and --bfcl-wheel belong to --bench bfcl; leave them out")
        choose_categories(self.categories)
