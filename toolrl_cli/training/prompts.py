"""GRPO on prompts that are written out, so that its tokens are those of SFT and evaluation."""

from __future__ import annotations

from typing import Any

from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer


class WrittenPromptsGRPOTrainer(SharedPrefixGRPOTrainer):
    """Takes the text of each prompt as it is.

    TRL knows no tools that differ between rows, would add the special tokens of the tokenizer to a text, and hands
    completions of messages to the tokenizer's own parser, which takes thoughts and calls out of the text.
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}
