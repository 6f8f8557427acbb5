"""The vLLM engine as far as it goes without vLLM: its refusal, what it hands over, what it makes of the outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import InProcess, refusal

from toolrl_cli.errors import DataError
from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.inference.transformers_engine import tokenize_prompt
from toolrl_cli.inference.vllm_engine import CHUNK, VllmEngine, llm_arguments, sampling_arguments
from toolrl_cli.records import Completion

PROMPT = Prompt("p", ({"role": "user", "content": "How is Oslo?"},))


def write_adapter(folder: Path, rank: object) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}), "utf-8")
    return folder


def test_the_model_is_its_folder() -> None:
    assert llm_arguments(Path("m"), None) == {"model": "m"}


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (24, 32), (512, 512)])
def test_an_adapter_gets_the_room_that_vllm_has(tmp_path: Path, rank: int, room: int) -> None:
    arguments = llm_arguments(Path("m"), write_adapter(tmp_path, rank))
    assert arguments == {"model": "m", "enable_lora": True, "max_loras": 1, "max_lora_rank": room}


@pytest.mark.parametrize(("rank", "message"), [(513, "rank 513 is above vLLM's 512"), (None, "r must be a number")])
def test_an_adapter_without_room_is_refused(tmp_path: Path, rank: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        llm_arguments(Path("m"), write_adapter(tmp_path, rank))


def test_sampling_is_greedy_unless_a_temperature_is_given() -> None:
    assert sampling_arguments(Sampling(64), PROMPT) == {"max_tokens": 64, "temperature": 0.0}
    warm = Sampling(64, 0.7, seed=3)
    expected = {"max_tokens": 64, "temperature": 0.7, "seed": warm.seed_of(PROMPT)}
    assert sampling_arguments(warm, PROMPT) == expected


def test_without_vllm_one_line_says_what_to_do(
    tmp_path: Path, examples_file: Path, tiny_model: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed, also where it is
    words = ["eval", "--bench", "examples", "--data", examples_file, "--model", tiny_model, "--engine", "vllm"]
    message = refusal(cli(*words, "-o", tmp_path / "out"))
    assert message.startswith("vllm is not installed; run: python -m pip install vllm, or leave out --engine vllm")
    assert not (tmp_path / "out").exists()


class ScriptedLLM:
    """Notes what it is given, and answers with the ids of each prompt."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def generate(self, prompts: Any, sampling_params: Any, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, sampling_params, lora_request, use_tqdm))
        texts = [str(prompt["prompt_token_ids"]) for prompt in prompts]
        reasons = ["length" if params["temperature"] else "stop" for params in sampling_params]
        outputs = [SimpleNamespace(text=t, finish_reason=r) for t, r in zip(texts, reasons, strict=True)]
        return [SimpleNamespace(outputs=[output]) for output in outputs]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_vllm_gets_the_token_ids_of_the_local_engine(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    from transformers import AutoTokenizer

    vllm, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.SamplingParams = dict  # type: ignore[attr-defined]
    request.LoRARequest = lambda *given: given  # type: ignore[attr-defined]
    for name, module in {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)
    tokenizer, llm = AutoTokenizer.from_pretrained(tiny_model), ScriptedLLM()
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(CHUNK + 2)]
    sampling = Sampling(5, temperature)
    results = list(VllmEngine(llm, tokenizer, sampling, write_adapter(tmp_path, 8)).generate(prompts))
    ids = {p.id: tokenize_prompt(tokenizer, p.messages, p.tools) for p in prompts}
    assert results == [(p, Completion(str(ids[p.id]), truncated=temperature > 0)) for p in prompts]
    assert [len(given) for given, *_ in llm.calls] == [CHUNK, 2]
    assert llm.calls[1] == (
        [{"prompt_token_ids": ids[p.id]} for p in prompts[CHUNK:]],
        [sampling_arguments(sampling, p) for p in prompts[CHUNK:]],
        ("adapter", 1, str(tmp_path.resolve())),
        False,
    )
