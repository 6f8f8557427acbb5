"""GRPO on prompts whose tokens are those of SFT and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolrl_cli.inference.transformers_engine import write_prompt
from toolrl_cli.records import Json
from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer


class WrittenPromptsGRPOTrainer(SharedPrefixGRPOTrainer):
    """Takes the text of each prompt as it is, or writes its messages with `tool_schemas`.

    TRL knows no tools that differ between rows, would add the special tokens of the tokenizer to a text, and hands
    completions of messages to the tokenizer's own parser, which takes thoughts and calls out of the text. That parser
    belongs to its tool loop, for which prompts have to be messages.
    """

    def __init__(self, *args: Any, tool_schemas: Sequence[Json] = (), **options: Any) -> None:
        self._tool_schemas = list(tool_schemas)
        super().__init__(*args, **options)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        tokenizer = self.processing_class
        texts = [
            prompt if isinstance(prompt, str) else write_prompt(tokenizer, prompt, self._tool_schemas)
            for prompt in prompts
        ]
        return tokenizer(text=texts, add_special_tokens=False)["input_ids"], None, {}
