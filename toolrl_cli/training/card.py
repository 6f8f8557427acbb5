"""A run's README.md: the model card, from what its folder says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolrl_cli.errors import DataError
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.jsonl import open_atomic, read_json, read_records
from toolrl_cli.manifest import Manifest, hash_file
from toolrl_cli.records import Json, expect
from toolrl_cli.training.text_format import TEMPLATE_FILE

CARD_FILE = "README.md"
SHOWN = ("loss", "mean_token_accuracy", "reward", "exact", "completions/mean_length", "completions/clipped_ratio")
USE = """\
```python
{adapter}from transformers import {classes}AutoTokenizer

from toolrl_cli.formats import find_format

tools = [{{"type": "function", "function": {{"name": "weather", "parameters": {{
    "type": "object", "properties": {{"city": {{"type": "string"}}}}, "required": ["city"]}}}}}}]
messages = [{{"role": "user", "content": "How is the weather in Oslo?"}}]

folder = "{folder}"
text_format = find_format("{format}"{template})
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {model}.from_pretrained(folder)
prompt = text_format.render_prompt(tools, messages)
inputs = tokenizer.apply_chat_template(
    prompt.messages, tools=prompt.tools, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
text = tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
print(text)
print(text_format.parse_tool_calls(text))
```"""


def write_card(folder: Path, manifest: Manifest, *, serving: str = "") -> None:
    """Write `README.md` into a folder with a trained model, in place of one that the trainer left there.

    Args:
        folder: holds an adapter or a full model, and for the results `metrics.jsonl` and any evaluations.
        manifest: of the run that trained it.
        serving: a section on serving it, in Markdown.
    """
    adapter = (folder / "adapter_config.json").exists()
    sections = (
        front_matter(manifest, adapter),
        f"# {folder.resolve().name}\n\n{introduce(manifest, adapter)}",
        f"## How to use it\n\n{describe_use(folder, manifest, adapter)}",
        serving,
        f"## Training\n\n{describe_training(manifest)}",
        describe_results(folder),
        f"## Configuration\n\n{yaml_block({'seed': manifest.seed, **manifest.config})}",
        f"## Versions\n\n{table(('package', 'version'), manifest.versions)}",
    )
    with open_atomic(folder / CARD_FILE) as stream:
        stream.write("\n\n".join(filter(None, sections)) + "\n")


def front_matter(manifest: Manifest, adapter: bool) -> str:
    """What the Hub reads; a base that is a folder of this machine is not named there."""
    from toolrl_cli.training.models import hub_id_of

    base = hub_id_of(str(manifest.config["base_model"]))
    fields: Json = {
        **({"base_model": base} if base else {}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["toolrl", "tool-calling", "trl", manifest.command, *(["lora"] if adapter else [])],
    }
    return f"---\n{to_yaml(fields)}---"


def introduce(manifest: Manifest, adapter: bool) -> str:
    """What it is, in a sentence."""
    what = "A LoRA adapter on" if adapter else "A model that began as"
    how = {"sft": "supervised fine-tuning", "grpo": "GRPO"}[manifest.command]
    return (
        f"{what} `{manifest.config['base_model']}`, trained by {how} to call tools in the `{manifest.format}` format, "
        f"with toolrl {manifest.versions['toolrl']}."
    )


def describe_use(folder: Path, manifest: Manifest, adapter: bool) -> str:
    """How a prompt is made and an answer read: the format is as much a part of the model as its weights."""
    template = folder / TEMPLATE_FILE
    code = USE.format(
        folder=folder,
        format=manifest.format,
        template=f', Path("{template}")' if template.exists() else "",
        adapter=("from pathlib import Path\n\n" if template.exists() else "")
        + ("from peft import AutoPeftModelForCausalLM\n" if adapter else ""),
        classes="" if adapter else "AutoModelForCausalLM, ",
        model="AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM",
    )
    own = " The tools stand in the prompt as the format words them." if manifest.format == ToolrlFormat.name else ""
    return (
        f"It was trained on prompts of the `{manifest.format}` format and answers well to no other.{own}\n\n{code}\n\n"
        f"`toolrl eval --bench bfcl --model {folder} -o evaluation/` measures it."
    )


def describe_training(manifest: Manifest) -> str:
    """Data, reward and start."""
    config = manifest.config
    lines = [f"data: `{config['data']}` (SHA-256 begins {manifest.hashes['data']}){count_examples(manifest)}"]
    if "reward" in config:
        changed = {"matching": config.get("matching"), **config.get("reward_settings", {})}
        settings = ", ".join(f"{name} {value}" for name, value in changed.items() if value is not None)
        lines.append(f"reward: `{config['reward']}`{f' with {settings}' if settings else ''}")
    lines.append(f"started from: `{manifest.parent}`")
    if manifest.git_commit:
        lines.append(f"git commit: {manifest.git_commit}")
    return "\n".join(f"- {line}" for line in lines)


def count_examples(manifest: Manifest) -> str:
    """How many examples of which sources, where the data is still what was trained on."""
    path = Path(str(manifest.config["data"]))
    try:
        if hash_file(path) != manifest.hashes["data"]:
            return ""
        sources = [str(row.get("source")) for row in read_records(path, lambda raw: expect(raw, dict, "example"))]
    except DataError:
        return ""
    counts = Counter(sources[: manifest.config.get("limit")])
    of = ", ".join(f"{count} of {source}" for source, count in counts.most_common())
    return f", {counts.total()} examples: {of}"


def describe_results(folder: Path) -> str:
    """The last step's metrics, and the evaluations that lie in the folder."""
    sections = list(evaluation_sections(folder))
    path = folder / "metrics.jsonl"
    steps = list(read_records(path, lambda raw: expect(raw, dict, "metrics"))) if path.exists() else []
    if steps:
        last = steps[-1]
        shown = {name: last[name] for name in last if name in SHOWN or name.startswith("rewards/")}
        sections.insert(0, f"Step {last['step']}, the last:\n\n{table(('metric', 'value'), shown)}")
    return "## Results\n\n" + "\n\n".join(sections) if sections else ""


def evaluation_sections(folder: Path) -> Iterator[str]:
    """A table for each evaluation that `toolrl eval -o RUN/NAME` has put into the run's folder."""
    for path in sorted(folder.glob("*/summary.json")):
        summary = read_json(path)
        rows = {
            name: f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"
            for name, metric in summary["metrics"].items()
            if metric["value"] is not None
        }
        yield f"{summary['bench']}, {summary['n']} entries, with 95% intervals:\n\n{table(('metric', 'value'), rows)}"


def table(columns: tuple[str, str], rows: Mapping[str, Any]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {' | '.join(columns)} |", "|---|---|"]
    for name, value in rows.items():
        lines.append(f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    return "\n".join(lines)


def yaml_block(values: Json) -> str:
    """Values as YAML in a code block, those that are not set left out."""
    return f"```yaml\n{to_yaml({name: value for name, value in values.items() if value not in (None, {})})}```"


def to_yaml(values: Json) -> str:
    """Values as YAML, in their order."""
    import yaml

    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000))
