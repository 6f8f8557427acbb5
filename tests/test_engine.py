"""The local engine: greedy, batched, in its own order, told where a completion was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.inference.transformers_engine import TransformersEngine
from toolrl_cli.records import Completion
from toolrl_cli.training.models import load_for_inference

PROMPTS = [
    Prompt(id, ({"role": "user", "content": text},))
    for id, text in (("short", "Hi"), ("long", "tools " * 40), ("middle", "How is Oslo?"), ("odd", "naïve ☃ 你好"))
]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    """The tiny model and its tokenizer."""
    return load_for_inference(str(tiny_model))


def build_engine(loaded: tuple[Any, Any], *, batch_size: int = 2, temperature: float = 0.0) -> TransformersEngine:
    return TransformersEngine(*loaded, Sampling(6, temperature), batch_size=batch_size)


def write_alone(loaded: tuple[Any, Any], prompt: Prompt, count: int) -> list[int]:
    """Greedy tokens by hand, without padding and without a cache."""
    import torch

    model, tokenizer = loaded
    given = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True, return_dict=True)
    tokens = list(given["input_ids"])
    for _ in range(count):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[-count:]


def test_each_prompt_gets_its_greedy_completion_longest_first(loaded: tuple[Any, Any]) -> None:
    results = list(build_engine(loaded).generate(PROMPTS))
    assert [prompt.id for prompt, _ in results] == ["long", "odd", "middle", "short"]
    decode = loaded[1].decode
    assert {prompt.id: completion for prompt, completion in results} == {
        prompt.id: Completion(decode(write_alone(loaded, prompt, 6)), truncated=True) for prompt in PROMPTS
    }


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_change_the_text(batch_size: int, loaded: tuple[Any, Any]) -> None:
    of_two, of_others = (
        {prompt.id: completion for prompt, completion in build_engine(loaded, batch_size=size).generate(PROMPTS)}
        for size in (2, batch_size)
    )
    assert of_others == of_two


def test_completions_come_as_soon_as_their_batch_is_done(loaded: tuple[Any, Any]) -> None:
    first = next(iter(build_engine(loaded, batch_size=1).generate(PROMPTS)))
    assert first[0].id == "long"


def test_no_prompts_give_no_completions(loaded: tuple[Any, Any]) -> None:
    assert list(build_engine(loaded).generate([])) == []


@pytest.mark.parametrize("declare", [lambda token: token, lambda token: [2, token]])
def test_a_stop_token_ends_a_completion_and_only_its_absence_is_truncation(declare: Any, tiny_model: Path) -> None:
    """The third token that the model writes is made a stop, as one number or in a list."""
    loaded = load_for_inference(str(tiny_model))
    model, tokenizer = loaded
    stop = write_alone(loaded, PROMPTS[0], 3)[-1]
    model.generation_config.eos_token_id = declare(stop)
    results = {prompt.id: completion for prompt, completion in build_engine(loaded, batch_size=4).generate(PROMPTS)}
    assert not results["short"].truncated
    for prompt in PROMPTS:
        written = write_alone(loaded, prompt, 6)
        kept = written[: written.index(stop) + 1] if stop in written else written
        text = tokenizer.decode(kept, skip_special_tokens=True)
        assert results[prompt.id] == Completion(text, truncated=stop not in written)
