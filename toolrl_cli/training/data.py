"""Examples to the columns that TRL trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli.errors import ConfigError, DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.hermes import CLOSE_THINK, OPEN_THINK
from toolrl_cli.inference.stops import end_of_turn
from toolrl_cli.inference.transformers_engine import opened_thought, write_prompt
from toolrl_cli.jsonl import dump_json, read_records
from toolrl_cli.records import Example
from toolrl_cli.sources.validation import require_unicode

if TYPE_CHECKING:
    from datasets import Dataset


def read_examples(path: Path, text_format: TextFormat, limit: int | None = None) -> list[Example]:
    """The examples of a file, the first `limit` of them.

    Raises:
        DataError: the file is missing, malformed or empty, the format cannot render a line of it,
            or a line holds what no tokenizer takes.
    """

    def parse(raw: object) -> Example:
        example = Example.from_json(raw)
        require_unicode(json.dumps(example.to_json(), ensure_ascii=False))
        try:
            text_format.render_prompt(example.tools, example.messages)
            text_format.render_target(example.target)
        except FormatError as error:
            raise DataError(str(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"tools or messages are malformed ({error!r}); run toolrl prepare first") from error
        return example

    examples: list[Example] = []
    for example in read_records(path, parse):
        examples.append(example)
        if len(examples) == limit:
            break
    if not examples:
        raise DataError(f"{path}: no examples; run toolrl prepare first")
    return examples


def sft_dataset(examples: list[Example], text_format: TextFormat, tokenizer: Any) -> Dataset:
    """Columns `input_ids` and `completion_mask` (1 on the target and the end of its turn), one row an example.

    The target follows the very tokens that GRPO and evaluation prompt with. Rendered as an assistant
    message it would lose its thought, or parts of it, to the chat template of a reasoning model.

    Raises:
        ConfigError: as `require_fitting_template`.
    """
    from datasets import Dataset

    require_fitting_template(examples, text_format, tokenizer)
    end = end_of_turn(tokenizer)
    rows = []
    for example in examples:
        written = write_prompt(tokenizer, *text_format.render_prompt(example.tools, example.messages))
        text = continue_thought(opened_thought(written), text_format.render_target(example.target)) + end
        prompt, target = tokenizer([written, text], add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": prompt + target, "completion_mask": [0] * len(prompt) + [1] * len(target)})
    return Dataset.from_list(rows)


def require_fitting_template(examples: list[Example], text_format: TextFormat, tokenizer: Any) -> None:
    """Refuse a chat template that the format's texts do not fit.

    Raises:
        ConfigError: the format leaves the tools to the template, and that leaves them out, or the
            template opens a thought that the format's completions open themselves.
    """
    first = write_prompt(tokenizer, *text_format.render_prompt(examples[0].tools, examples[0].messages))
    if text_format.name == "toolrl" and opened_thought(first):
        raise ConfigError(
            "the model's chat template ends a prompt with <think>, and completions of the toolrl format begin with it; "
            "use --format native, or a copy of the model whose template leaves it to the completion"
        )
    prompts = (text_format.render_prompt(example.tools, example.messages) for example in examples)
    messages, tools = next((prompt for prompt in prompts if prompt.tools), ([], None))
    if tools and write_prompt(tokenizer, messages, tools) == write_prompt(tokenizer, messages, None):
        raise ConfigError(
            f"the model's chat template shows no tools, and the {text_format.name} format leaves them to it; "
            "use --format toolrl"
        )


def continue_thought(opened: str, completion: str) -> str:
    """The completion behind a thought that the prompt has opened, if it has: one without a thought closes it first."""
    if not opened:
        return completion
    ended = opened.endswith("\n")
    if completion.startswith(OPEN_THINK):
        return completion.removeprefix(OPEN_THINK).removeprefix("\n" if ended else "")
    return ("" if ended else "\n") + f"{CLOSE_THINK}\n\n{completion}"


def grpo_dataset(
    examples: list[Example], text_format: TextFormat, tokenizer: Any, *, as_messages: bool = False
) -> Dataset:
    """Columns `prompt`, `id`, `target` and `tools` as JSON strings, and the gold as text, `ground_truth`.

    A prompt is its text, or its messages where a tool loop will run. JSON crosses as strings because Arrow would
    pad differing arguments with nulls.

    Raises:
        ConfigError: as `require_fitting_template`.
    """
    from datasets import Dataset

    require_fitting_template(examples, text_format, tokenizer)

    def prompt(example: Example) -> Any:
        rendered = text_format.render_prompt(example.tools, example.messages)
        return rendered.messages if as_messages else write_prompt(tokenizer, *rendered)

    return Dataset.from_list(
        [
            {
                "prompt": prompt(example),
                "id": example.id,
                "target": dump_json(example.target.to_json()),
                "tools": dump_json(list(example.tools)),
                "ground_truth": text_format.render_target(example.target),
            }
            for example in examples
        ]
    )
