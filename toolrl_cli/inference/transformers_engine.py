"""Completions of a local model through transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from jinja2 import TemplateError

from toolrl_cli.errors import DataError, first_line
from toolrl_cli.formats.hermes import OPEN_THINK
from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.inference.stops import stop_token_ids
from toolrl_cli.records import Completion, Json

OPENED_THOUGHT = re.compile(rf"{OPEN_THINK}\s*\Z")


class TransformersEngine:
    """Decodes batches of prompts of similar length; what the prompts of a batch share is computed once.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        sampling: how completions are drawn.
        batch_size: prompts in one batch.
    """

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling, *, batch_size: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._batch_size = batch_size
        self._stops = set(stop_token_ids(tokenizer, model.generation_config))

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        """Yield each prompt with its completion, the longest prompts first so that memory peaks early."""
        requests = [(tokenize_prompt(self._tokenizer, prompt.messages, prompt.tools), prompt) for prompt in prompts]
        # Prompts of one length stand in the order of their tokens, so that equal ones share a batch.
        requests.sort(key=lambda request: (-len(request[0]), request[0]))
        for start in range(0, len(requests), self._batch_size):
            rows, batch = zip(*requests[start : start + self._batch_size], strict=True)
            yield from zip(batch, self._complete(rows, batch), strict=True)

    def _complete(self, rows: Sequence[list[int]], batch: Sequence[Prompt]) -> list[Completion]:
        import torch

        from toolrl_cli.inference.shared_prefix import generate_behind

        prefixes, shared = self._prefixes(rows)
        inputs = self._lay_out(rows, shared)
        columns = inputs["input_ids"].shape[1]
        options = {
            "logits_processor": self._draws(batch),
            "max_new_tokens": self._sampling.max_new_tokens,
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "pad_token_id": self._tokenizer.pad_token_id,
            "eos_token_id": sorted(self._stops) or None,
        }
        with torch.inference_mode():
            if prefixes:
                width = shared or columns - 1
                output = generate_behind(self._model, prefixes, width, **inputs, **options)
            else:
                output = self._model.generate(**inputs, **options)
        return [self._decode(row.tolist()) for row in output[:, columns:]]

    def _prefixes(self, rows: Sequence[list[int]]) -> tuple[list[Sequence[int]], int]:
        """What is computed ahead of the batch: one beginning of all rows, with its length, or each distinct prompt.

        Prompts that all differ are computed ahead on a CPU, where padding costs more than single rows do.
        """
        from toolrl_cli.inference.shared_prefix import common_length, prefix_obstacle, prompts_of_groups

        longest = max(map(len, rows)) + self._sampling.max_new_tokens
        shared = common_length(rows)
        if len(rows) == 1 or len(rows[-1]) == 1 or prefix_obstacle(self._model, longest):
            return [], 0
        distinct = [len(ids) for ids, _ in groupby(rows)]
        together = shared + sum(len(row) - shared for row in rows)
        if 2 * shared > max(distinct) and together <= sum(distinct):
            return [rows[0][:shared]], shared
        ahead = len(distinct) < len(rows) or self._model.device.type == "cpu"
        return (prompts_of_groups(rows) if ahead else []), 0

    def _lay_out(self, rows: Sequence[list[int]], shared: int) -> Json:
        """Token ids and mask: a beginning that all rows share stands before the padding."""
        import torch

        rest = self._pad([row[shared:] for row in rows])
        prefix = torch.tensor(rows[0][:shared], dtype=torch.long, device=self._model.device).expand(len(rows), -1)
        return {
            "input_ids": torch.cat([prefix, rest["input_ids"]], dim=1),
            "attention_mask": torch.cat([torch.ones_like(prefix), rest["attention_mask"]], dim=1),
        }

    def _pad(self, rows: Sequence[list[int]]) -> Any:
        padded = self._tokenizer.pad({"input_ids": list(rows)}, padding_side="left", return_tensors="pt")
        return padded.to(self._model.device)

    def _draws(self, batch: Sequence[Prompt]) -> list[Any]:
        """What makes greedy decoding draw; nothing at temperature 0."""
        from toolrl_cli.inference.drawing import InverseTransform

        if not self._sampling.temperature:
            return []
        seeds = [self._sampling.seed_of(prompt) for prompt in batch]
        return [InverseTransform(self._sampling.temperature, seeds, self._model.device)]

    def _decode(self, ids: list[int]) -> Completion:
        """A row ends with a stop token, then padding; without one it ran into the limit."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(text, truncated=self._stops.isdisjoint(ids))


def write_prompt(tokenizer: Any, messages: Sequence[Json], tools: Sequence[Json] | None) -> str:
    """The text of a prompt, whose tokens (no special ones added) are those of `tokenize_prompt`; raise as it does."""
    text: str = apply_chat_template(tokenizer, messages, tools, tokenize=False)
    return text


def opened_thought(prompt: str) -> str:
    """The `<think>` and the white space behind it with which a reasoning model's template ends a prompt, or nothing."""
    opened = OPENED_THOUGHT.search(prompt)
    return opened[0] if opened else ""


def tokenize_prompt(tokenizer: Any, messages: Sequence[Json], tools: Sequence[Json] | None) -> list[int]:
    """The token ids of a prompt, up to where the assistant begins.

    Raises:
        DataError: the tokenizer's chat template refuses the dialogue.
    """
    ids: list[int] = apply_chat_template(tokenizer, messages, tools, return_dict=True)["input_ids"]
    return ids


def apply_chat_template(tokenizer: Any, messages: Sequence[Json], tools: Sequence[Json] | None, **options: Any) -> Any:
    """What the tokenizer's method gives for a prompt; raise `DataError` when its template refuses the dialogue."""
    try:
        return tokenizer.apply_chat_template(
            list(messages), tools=None if tools is None else list(tools), add_generation_prompt=True, **options
        )
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses a dialogue: {first_line(error)}") from error
