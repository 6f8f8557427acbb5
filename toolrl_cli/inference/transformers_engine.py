"""Greedy completions from a local model through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from toolrl_cli.errors import DataError, first_line
from toolrl_cli.inference.base import Prompt
from toolrl_cli.records import Completion, Json


class TransformersEngine:
    """Decodes greedily in batches of prompts of similar length.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: the longest completion, in tokens.
        batch_size: prompts in one batch.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_new_tokens: int, batch_size: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        """Yield each prompt with its completion, the longest prompts first so that memory peaks early."""
        tokens = {prompt.id: tokenize_prompt(self._tokenizer, prompt.messages, prompt.tools) for prompt in prompts}
        ordered = sorted(prompts, key=lambda prompt: -len(tokens[prompt.id]))
        for start in range(0, len(ordered), self._batch_size):
            batch = ordered[start : start + self._batch_size]
            yield from zip(batch, self._complete([tokens[prompt.id] for prompt in batch]), strict=True)

    def _complete(self, batch: list[list[int]]) -> list[Completion]:
        import torch

        inputs = self._tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            output = self._model.generate(
                **inputs.to(self._model.device),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [self._decode(row.tolist()) for row in new]

    def _decode(self, ids: list[int]) -> Completion:
        """A row ends with a stop token, then padding; without one it ran into the limit."""
        declared = self._model.generation_config.eos_token_id
        stops = {self._tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])}
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(text, truncated=not any(token in stops for token in ids))


def tokenize_prompt(tokenizer: Any, messages: Sequence[Json], tools: Sequence[Json] | None) -> list[int]:
    """The token ids of a prompt, up to where the assistant begins.

    Raises:
        DataError: the tokenizer's chat template refuses the dialogue.
    """
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            list(messages), tools=None if tools is None else list(tools), add_generation_prompt=True, return_dict=True
        )["input_ids"]
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses a dialogue: {first_line(error)}") from error
    return ids
