"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from toolrl_cli.benches.registry import find_bench, owners
from toolrl_cli.errors import ConfigError, UsageError
from toolrl_cli.training.config import FormatName

OPTIONS = {"data": "--data FILE", "categories": "--category"}
"""Fields whose option is not spelled as they are."""
USED_BY = {
    "engine": ("model",),
    "batch_size": ("model",),
    "allow_mismatch": ("model",),
    "concurrency": ("endpoint",),
    "retries": ("endpoint",),
    "timeout": ("endpoint",),
    "temperature": ("model", "endpoint"),
    "max_new_tokens": ("model", "endpoint"),
}
"""The sources of completions for which a field does something, where it does not for all."""


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, on what, and where the results go.

    Either `model` (a name, a folder or a run of toolrl), `endpoint` (a server's URL, with the name of the model
    there) or `predictions` (a JSONL file) is the source of completions. Without a `format` it is that of the
    model's training, else toolrl, which `template`, a Jinja file, words. `max_new_tokens` is the longest completion
    in tokens, `limit` the number of entries, of those with `ids` if any are given, `samples` the number of
    completions of each. `concurrency`, `retries` and `timeout` (seconds) are for the endpoint, see
    `inference.endpoint.Endpoint`, and so is `tools`: `native` hands it the tools and takes its tool calls, `text`
    takes its text as it is.

    Some fields belong to some benches: `data` to all but bfcl, `reward` to examples, `categories` and `bfcl_wheel` to
    bfcl, `own_prompt` (show the prompts of the data as they are) to api-bank, `search` (the engine behind the tool),
    `record` (a file that keeps its answers) and `judge` (what decides whether an answer is right) to bamboogle.

    Raises:
        UsageError: the values contradict each other.
    """

    bench: str
    output: Path
    model: str | None = None
    endpoint: str | None = None
    served_model: str | None = None
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
    engine: Literal["transformers", "vllm"] = "transformers"
    tools: Literal["text", "native"] = "text"
    concurrency: int = 8
    retries: int = 5
    timeout: float = 600.0
    temperature: float = 0.0
    samples: int = 1
    format: FormatName | None = None
    template: Path | None = None
    seed: int = 0
    allow_mismatch: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        kind = find_bench(self.bench)
        check_source(self)
        if self.resume and self.overwrite:
            raise UsageError("--resume continues what --overwrite would delete; leave one out")
        if "data" in kind.options and self.data is None:
            raise UsageError(f"--data FILE is what --bench {self.bench} evaluates on; give the two together")
        for field in fields(self):
            others = owners(field.name)
            if others and self.bench not in others and getattr(self, field.name) != field.default:
                option = OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
                raise UsageError(f"{option} belongs to --bench {' and '.join(others)}; leave it out")
        kind.check(self)


def check_source(config: EvalConfig) -> None:
    """Raise `UsageError` when the options that say where completions come from contradict each other."""
    if [config.model, config.endpoint, config.predictions].count(None) != 2:
        raise UsageError("completions need one source; give either --model or --endpoint or --predictions")
    if (config.endpoint is None) != (config.served_model is None):
        raise UsageError("--served-model NAME is what --endpoint URL is asked for; give the two together")
    if config.endpoint is not None:
        from toolrl_cli.inference.endpoint import completions_url

        try:
            completions_url(config.endpoint)
        except ConfigError as error:
            raise UsageError(str(error)) from error
    if config.endpoint is None and config.tools == "native":
        raise UsageError("--tools native belongs to --endpoint; for a local model give --format native")
    if config.tools == "native" and config.template is not None:
        raise UsageError("--template words a prompt that --tools native leaves to the server; leave one out")
    refuse_idle(config)
    if min(config.samples, config.concurrency) < 1 or config.retries < 0:
        raise UsageError("--samples and --concurrency are at least 1, --retries at least 0")
    if config.samples > 1 and not config.temperature and config.predictions is None:
        raise UsageError("greedy samples are all the same; give --temperature, such as 0.7, with --samples")


def refuse_idle(config: EvalConfig) -> None:
    """Raise `UsageError` for an option that does nothing for the source of completions."""
    for field in fields(config):
        sources = USED_BY.get(field.name, ())
        idle = sources and all(getattr(config, source) is None for source in sources)
        if idle and getattr(config, field.name) != field.default:
            option, owners = field.name.replace("_", "-"), " and ".join(f"--{source}" for source in sources)
            raise UsageError(f"--{option} belongs to {owners}; leave it out")
