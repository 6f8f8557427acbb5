"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from toolrl_cli.benches.registry import find_bench, owners
from toolrl_cli.errors import ConfigError
from toolrl_cli.training.config import FormatName

OPTIONS = {"data": "--data FILE", "categories": "--category"}
"""Fields whose option is not spelled as they are."""


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, on what, and where the results go.

    Either `model` (a name, a folder or a run of toolrl) or `predictions` (a JSONL file) is the
    source of completions. Without a `format` it is that of the model's training, else toolrl, which
    `template`, a Jinja file, words. `max_new_tokens` is the longest completion in tokens, `limit` the number
    of entries, of those with `ids` if any are given.

    Some fields belong to some benches: `data` to all but bfcl, `reward` to examples, `categories` and `bfcl_wheel` to
    bfcl, `own_prompt` (show the prompts of the data as they are) to api-bank, `search` (the engine behind the tool),
    `record` (a file that keeps its answers) and `judge` (what decides whether an answer is right) to bamboogle.

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
    own_prompt: bool = False
    search: str | None = None
    record: Path | None = None
    judge: str | None = None
    ids: tuple[str, ...] = ()
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
        kind = find_bench(self.bench)
        if (self.model is None) == (self.predictions is None):
            raise ConfigError("completions need one source; give either --model or --predictions")
        if "data" in kind.options and self.data is None:
            raise ConfigError(f"--data FILE is what --bench {self.bench} evaluates on; give the two together")
        for field in fields(self):
            others = owners(field.name)
            if others and self.bench not in others and getattr(self, field.name) != field.default:
                option = OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
                raise ConfigError(f"{option} belongs to --bench {' and '.join(others)}; leave it out")
        kind.check(self)
