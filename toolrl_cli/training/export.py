"""`toolrl export`: a run as plain weights, as something that vLLM serves, or as the same training for verl."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolrl_cli.errors import ConfigError, UsageError
from toolrl_cli.inference.vllm_engine import room_for
from toolrl_cli.manifest import Manifest, open_output, read_manifest, refuse_output_over_inputs
from toolrl_cli.records import Json
from toolrl_cli.training.card import write_card
from toolrl_cli.training.models import ModelSource, load_model, load_tokenizer, quiet_libraries, resolve_model
from toolrl_cli.training.run import METRICS_FILE
from toolrl_cli.training.text_format import TEMPLATE_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kind = Literal["hf", "vllm", "verl"]
DType = Literal["float32", "bfloat16", "float16"]
SERVING = """\
## Serving it by vLLM

```bash
vllm serve {folder} --served-model-name {name} --chat-template {folder}/chat_template.jinja
```

{adapter}Its prompts are those of the `{format}` format, which `toolrl eval` makes:

```bash
toolrl eval --bench bfcl --endpoint http://localhost:8000 --served-model {name} --format {format}{template} \\
    -o evaluation/
```"""
UNMERGED = """\
Or the adapter, unmerged, beside others on the same base:

```bash
vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={run} \\
    --chat-template {folder}/chat_template.jinja
```

"""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and to where.

    `dtype` is that of the weights (None: the base's own); `data` is where the run's examples lie now, and `test` are
    held-out ones, both for verl alone.
    """

    run: Path
    to: Kind
    output: Path
    dtype: DType | None = None
    data: Path | None = None
    test: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what the kind cannot use; raise `UsageError`."""
        if self.to == "verl" and self.dtype:
            raise UsageError("--dtype: is for --to hf and vllm")
        if self.to != "verl" and (self.data or self.test):
            raise UsageError("--data and --test are for --to verl")
        if self.output.resolve() in (self.run.resolve(), *self.run.resolve().parents):
            raise UsageError(f"{self.output}: the output folder holds the run; choose another output")


def export_run(config: ExportConfig) -> Json:
    """Write a run in another form into `config.output`; return what was written.

    Raises:
        ConfigError: the run or an option is of another kind, or the output folder is refused.
        DataError: there is no such run, or it is not finished.
        SetupError: the weights cannot be had.
    """
    quiet_libraries()
    run = read_manifest(config.run)
    if run.command not in ("sft", "grpo"):
        raise ConfigError(f"{config.run}: is a folder of toolrl {run.command}; give a run of sft or grpo")
    if config.to == "verl":
        from toolrl_cli.training.verl import export_verl

        export_verl(config, run)
    else:
        export_weights(config, run)
    return {"output": str(config.output), "files": sorted(path.name for path in config.output.iterdir())}


def export_weights(config: ExportConfig, run: Manifest) -> None:
    """Full weights, tokenizer, card and manifest: a model that every library loads, and again a run for toolrl."""
    source = resolve_model(str(config.run))
    refuse_output_among_inputs(config, (source.base, source.adapter))
    manifest = replace(run, parent=str(config.run), finished=False)
    open_output(config.output, manifest, overwrite=config.overwrite)
    merge(source, config.dtype).save_pretrained(config.output)
    load_tokenizer(source).save_pretrained(config.output)
    for name in (TEMPLATE_FILE, METRICS_FILE):
        if (config.run / name).exists():
            shutil.copyfile(config.run / name, config.output / name)
    write_card(config.output, run, serving=describe_serving(config, run, source) if config.to == "vllm" else "")
    replace(manifest, finished=True).write(config.output)


def refuse_output_among_inputs(config: ExportConfig, inputs: Sequence[Path | None]) -> None:
    """Raise `UsageError` for an output that is an input, holds one, or lies in one other than the run."""
    refuse_output_over_inputs(config.output, inputs)
    for given in inputs:
        place = given.resolve() if given else None
        if place in config.output.resolve().parents and place != config.run.resolve():
            raise UsageError(f"{config.output}: the output folder lies in the input {given}; choose another output")


def merge(source: ModelSource, dtype: DType | None = None) -> PreTrainedModel:
    """The model with its adapter merged in float32, then rounded to `dtype`, or the base's own."""
    import torch
    from transformers import AutoConfig

    wanted = getattr(torch, dtype) if dtype else AutoConfig.from_pretrained(source.base).dtype
    model: Any = load_model(source, full_precision=True, on_cpu=True)
    merged: PreTrainedModel = model.merge_and_unload() if source.adapter else model
    return merged.to(wanted or torch.float32)


def describe_serving(config: ExportConfig, run: Manifest, source: ModelSource) -> str:
    """The section of the card with the command lines that serve and evaluate."""
    folder, name = config.output, shlex.quote(config.output.resolve().name)
    template = f" --template {folder / TEMPLATE_FILE}" if (config.output / TEMPLATE_FILE).exists() else ""
    adapter = ""
    if source.adapter:
        adapter = UNMERGED.format(
            base=source.base, rank=room_for(source.adapter), name=name, run=config.run, folder=folder
        )
    return SERVING.format(folder=folder, name=name, format=run.format, template=template, adapter=adapter)
