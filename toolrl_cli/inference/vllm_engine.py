"""Completions of a local model through vLLM without a server: the token ids that every local engine is given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolrl_cli.errors import DataError, SetupError, first_line
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.stops import stop_token_ids
from toolrl_cli.inference.transformers_engine import tokenize_prompt
from toolrl_cli.jsonl import read_json
from toolrl_cli.records import Completion, Json, expect

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has room for."""
CHUNK = 256
"""Prompts handed to vLLM at a time, which returns when all are done: what a kill can cost."""


class VllmEngine:
    """Lets vLLM schedule the prompts, some hundred at a time; one that leaves no room for an answer is a `Failure`.

    Args:
        llm: a `vllm.LLM`.
        tokenizer: the model's, with a chat template.
        sampling: how completions are drawn.
        adapter: a folder with a LoRA adapter on top of the model, or None.
    """

    def __init__(self, llm: Any, tokenizer: Any, sampling: Sampling, adapter: Path | None = None) -> None:
        self._llm = llm
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._adapter = adapter
        self._stops = stop_token_ids(tokenizer)
        self._longest: int = llm.llm_engine.model_config.max_model_len - 1

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion | Failure]]:
        """Yield each prompt with its completion.

        Raises:
            SetupError: vLLM fails, out of memory for example.
        """
        for start in range(0, len(prompts), CHUNK):
            fitting: list[tuple[Prompt, list[int]]] = []
            for prompt in prompts[start : start + CHUNK]:
                ids = tokenize_prompt(self._tokenizer, prompt.messages, prompt.tools)
                if len(ids) <= self._longest:
                    fitting.append((prompt, ids))
                else:  # one of them and vLLM answers none
                    reason = f"the prompt has {len(ids)} tokens, and the model takes {self._longest}"
                    yield prompt, Failure(reason, refused=True)
            if fitting:
                yield from self._complete(fitting)

    def _complete(self, chunk: Sequence[tuple[Prompt, list[int]]]) -> Iterator[tuple[Prompt, Completion]]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        lora = LoRARequest("adapter", 1, str(self._adapter.resolve())) if self._adapter else None
        prompts = [{"prompt_token_ids": ids} for _, ids in chunk]
        params = [SamplingParams(**sampling_arguments(self._sampling, prompt, self._stops)) for prompt, _ in chunk]
        try:
            outputs = self._llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        except Exception as error:
            raise SetupError(f"vLLM failed ({first_line(error)}); continue with --resume") from error
        for (prompt, _), output in zip(chunk, outputs, strict=True):
            yield prompt, Completion(output.outputs[0].text, truncated=output.outputs[0].finish_reason == "length")


def load_llm(base: Path, adapter: Path | None) -> Any:
    """A `vllm.LLM` of a folder with weights, with room for the adapter.

    Raises:
        DataError: the adapter's configuration names no rank that vLLM has room for.
        SetupError: vLLM is not installed, or cannot load the model.
    """
    arguments = llm_arguments(base, adapter)
    # It would log to stdout, in the middle of the result.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "vllm":
            raise
        raise SetupError(
            "vllm is not installed; run: python -m pip install vllm, or leave out --engine vllm, "
            "or serve the model elsewhere and give --endpoint"
        ) from error
    try:
        return LLM(**arguments)
    except Exception as error:
        raise SetupError(f"{base}: vLLM cannot load it ({first_line(error)})") from error


def llm_arguments(base: Path, adapter: Path | None) -> Json:
    """What `vllm.LLM` is given; raise `DataError` as `load_llm`."""
    if adapter is None:
        return {"model": str(base)}
    return {"model": str(base), "enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(adapter)}


def room_for(adapter: Path) -> int:
    """The smallest rank of vLLM that holds an adapter's; raise `DataError` when there is none."""
    path = adapter / "adapter_config.json"
    rank = expect(expect(read_json(path), dict, f"{path}").get("r"), int, f"{path}: r")
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise DataError(f"{path}: rank {rank} is above vLLM's {RANKS[-1]}; leave out --engine vllm")
    return fitting[0]


def sampling_arguments(sampling: Sampling, prompt: Prompt, stops: Sequence[int]) -> Json:
    """What `vllm.SamplingParams` is given for a prompt; vLLM itself stops where the model's generation config says."""
    fixed: Json = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "stop_token_ids": list(stops),
    }
    return {**fixed, "seed": sampling.seed_of(prompt)} if sampling.temperature else fixed
