"""The vLLM engine without vLLM: its refusal, what it hands over, what it makes of outputs; and with it, where it is."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from conftest import EXAMPLES, Cli, InProcess, build_tokenizer, example, read_rows, refusal, write_lines

from toolrl_cli.errors import DataError, SetupError
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.transformers_engine import tokenize_prompt
from toolrl_cli.inference.vllm_engine import CHUNK, RANKS, VllmEngine, llm_arguments, sampling_arguments
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
    assert sampling_arguments(Sampling(64), PROMPT, [2]) == {
        "max_tokens": 64, "temperature": 0.0, "stop_token_ids": [2],
    }  # fmt: skip
    warm = Sampling(64, 0.7, seed=3)
    expected = {"max_tokens": 64, "temperature": 0.7, "stop_token_ids": [], "seed": warm.seed_of(PROMPT)}
    assert sampling_arguments(warm, PROMPT, []) == expected


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

    def __init__(self, longest: int = 2048, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = error
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=longest))

    def generate(self, prompts: Any, sampling_params: Any, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, sampling_params, lora_request, use_tqdm))
        if self.error:
            raise self.error
        texts = [str(prompt["prompt_token_ids"]) for prompt in prompts]
        reasons = ["length" if params["temperature"] else "stop" for params in sampling_params]
        outputs = [SimpleNamespace(text=t, finish_reason=r) for t, r in zip(texts, reasons, strict=True)]
        return [SimpleNamespace(outputs=[output]) for output in outputs]


@pytest.fixture
def scripted_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for vLLM's records."""
    vllm, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.SamplingParams = dict  # type: ignore[attr-defined]
    request.LoRARequest = lambda *given: given  # type: ignore[attr-defined]
    for name, module in {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("scripted_vllm")
def test_a_prompt_without_room_for_an_answer_costs_itself_alone(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenize_prompt(tokenizer, PROMPT.messages, None)
    long = Prompt("long", ({"role": "user", "content": "How is Oslo, and Rome?"},))
    engine = VllmEngine(ScriptedLLM(len(ids) + 1), tokenizer, Sampling(5))
    results = {prompt.id: outcome for prompt, outcome in engine.generate([long, PROMPT])}
    count = len(tokenize_prompt(tokenizer, long.messages, None))
    assert results["p"] == Completion(str(ids))
    assert results["long"] == Failure(f"the prompt has {count} tokens, and the model takes {len(ids)}", refused=True)


@pytest.mark.usefixtures("scripted_vllm")
def test_a_vllm_that_dies_ends_the_run_with_its_words(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    engine = VllmEngine(
        ScriptedLLM(error=Exception("out of memory\nlong")), AutoTokenizer.from_pretrained(tiny_model), Sampling(5)
    )
    with pytest.raises(SetupError, match=r"vLLM failed \(out of memory\); continue with --resume"):
        list(engine.generate([PROMPT]))


@pytest.mark.usefixtures("scripted_vllm")
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_vllm_gets_the_token_ids_of_the_local_engine(tmp_path: Path, tiny_model: Path, temperature: float) -> None:
    from transformers import AutoTokenizer

    tokenizer, llm = AutoTokenizer.from_pretrained(tiny_model), ScriptedLLM()
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(CHUNK + 2)]
    sampling = Sampling(5, temperature)
    results = list(VllmEngine(llm, tokenizer, sampling, write_adapter(tmp_path, 8)).generate(prompts))
    ids = {p.id: tokenize_prompt(tokenizer, p.messages, p.tools) for p in prompts}
    assert results == [(p, Completion(str(ids[p.id]), truncated=temperature > 0)) for p in prompts]
    assert [len(given) for given, *_ in llm.calls] == [CHUNK, 2]
    assert llm.calls[1] == (
        [{"prompt_token_ids": ids[p.id]} for p in prompts[CHUNK:]],
        [sampling_arguments(sampling, p, [tokenizer.eos_token_id]) for p in prompts[CHUNK:]],
        ("adapter", 1, str(tmp_path.resolve())),
        False,
    )


# --- where vLLM is installed -----------------------------------------------------------------------------------------


def test_every_call_fits_the_installed_vllm(tmp_path: Path) -> None:
    vllm = pytest.importorskip("vllm")
    from vllm.config.lora import MaxLoRARanks
    from vllm.engine.arg_utils import EngineArgs
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput, RequestOutput

    arguments = llm_arguments(Path("m"), write_adapter(tmp_path, 8))
    inspect.signature(vllm.LLM).bind(**arguments)
    assert arguments.keys() <= {field.name for field in fields(EngineArgs)}
    assert set(RANKS) == set(get_args(MaxLoRARanks)) - {1}
    inspect.signature(vllm.LLM.generate).bind(None, [], [], lora_request=None, use_tqdm=False)
    warm = Sampling(64, 0.7, seed=3)
    params = vllm.SamplingParams(**sampling_arguments(warm, PROMPT, [2]))
    assert (params.max_tokens, params.temperature, params.stop_token_ids) == (64, 0.7, [2])
    assert params.seed == warm.seed_of(PROMPT)
    assert (params.n, params.top_p, params.skip_special_tokens) == (1, 1.0, True)
    assert LoRARequest("adapter", 1, "folder").lora_path == "folder"
    assert "prompt_token_ids" in TokensPrompt.__annotations__
    assert {"text", "finish_reason"} <= {field.name for field in fields(CompletionOutput)}
    assert "outputs" in inspect.signature(RequestOutput).parameters


@pytest.mark.slow
def test_vllm_answers_as_transformers_do(tmp_path: Path, toolrl: Cli) -> None:
    """A model that vLLM has kernels for, on a CPU too; its log stays out of the result."""
    pytest.importorskip("vllm")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, model = build_tokenizer(), tmp_path / "model"
    tokenizer.save_pretrained(model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(model)
    long = example("long", "word " * 2000, {"thought": None, "tool_calls": [], "response": "No."})
    data = write_lines(tmp_path / "ex.jsonl", [*EXAMPLES, long])
    words = ["eval", "--bench", "examples", "--data", data, "--model", model, "--max-new-tokens", 12, "--json"]
    done = toolrl(*words, "--engine", "vllm", "-o", tmp_path / "vllm", VLLM_CPU_KVCACHE_SPACE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["errors"]["shown"][0]["error"].endswith("and the model takes 2047")
    write_lines(data, EXAMPLES)
    assert toolrl(*words, "-o", tmp_path / "local").returncode == 0
    mine, theirs = (
        {row["id"]: (row["completion"], row["truncated"]) for row in read_rows(tmp_path / name / "results.jsonl")}
        for name in ("vllm", "local")
    )
    assert mine.pop("long") == (None, False)
    assert mine == theirs
