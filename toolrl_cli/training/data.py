"""Examples to the columns that TRL trains on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolrl_cli.errors import DataError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import dump_json, read_records
from toolrl_cli.records import Example

if TYPE_CHECKING:
    from datasets import Dataset


def read_examples(path: Path, limit: int | None = None) -> list[Example]:
    """The examples of a file, the first `limit` of them.

    Raises:
        DataError: the file is missing, malformed or empty.
    """
    examples: list[Example] = []
    for example in read_records(path, Example.from_json):
        examples.append(example)
        if len(examples) == limit:
            break
    if not examples:
        raise DataError(f"{path}: no examples; run toolrl prepare first")
    return examples


def sft_dataset(examples: list[Example], text_format: TextFormat) -> Dataset:
    """Columns `prompt` (messages) and `completion` (one assistant message), one row an example."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": text_format.render_prompt(example.tools, example.messages),
                "completion": [{"role": "assistant", "content": text_format.render_target(example.target)}],
            }
            for example in examples
        ]
    )


def grpo_dataset(examples: list[Example], text_format: TextFormat) -> Dataset:
    """Columns `prompt` (messages), `id`, and `target` as a JSON string.

    The target crosses as a string because Arrow would pad differing arguments with nulls.
    """
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": text_format.render_prompt(example.tools, example.messages),
                "id": example.id,
                "target": dump_json(example.target.to_json()),
            }
            for example in examples
        ]
    )
