"""The local engine: greedy, batched, in its own order, told where a completion was cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefix_lengths import own_lengths

from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.inference.shared_prefix import common_length
from toolrl_cli.inference.stops import declare_stops, stop_token_ids
from toolrl_cli.inference.transformers_engine import TransformersEngine, tokenize_prompt
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


def build_engine(
    loaded: tuple[Any, Any], *, batch_size: int = 2, temperature: float = 0.0, length: int = 6
) -> TransformersEngine:
    return TransformersEngine(*loaded, Sampling(length, temperature), batch_size=batch_size)


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


def test_the_end_of_the_tokenizer_ends_a_completion_too(tiny_model: Path) -> None:
    loaded = load_for_inference(str(tiny_model))
    model, tokenizer = loaded
    model.generation_config.eos_token_id = tokenizer.pad_token_id
    written = write_alone(loaded, PROMPTS[0], 6)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(written[2])
    results = {prompt.id: completion for prompt, completion in build_engine(loaded).generate(PROMPTS)}
    text = tokenizer.decode(written[: written.index(written[2]) + 1], skip_special_tokens=True)
    assert results["short"] == Completion(text, truncated=False)


def test_completions_end_where_the_chat_template_ends_a_turn(tiny_model: Path) -> None:
    """Base models declare the end of a text, and have a template whose turns end otherwise."""
    model, tokenizer = load_for_inference(str(tiny_model))
    tokenizer.eos_token = tokenizer.pad_token
    text, turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    for declared in (None, text, [text, 7]):
        model.generation_config.eos_token_id = declared
        declare_stops(model, tokenizer)
        assert model.generation_config.eos_token_id == sorted({text, turn, *([7] if declared == [text, 7] else [])})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert stop_token_ids(tokenizer) == [text]


SYSTEM = {"role": "system", "content": "Tools: " + "weather of a city, " * 12}
SHARING = [Prompt(id, (SYSTEM, *PROMPTS[i].messages)) for i, id in enumerate(("one", "two", "three", "four"))]


def build_random(kind: str, tokenizer: Any, **options: Any) -> Any:
    """A random model of an architecture over the tiny tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, **options}
    sizes |= {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes, **ids)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(
    ("kind", "options", "shares"),
    [
        ("Llama", {}, True),
        ("Qwen3", {}, True),
        ("Mistral", {"sliding_window": 16}, False),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}, False),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, False),
    ],
)
def test_a_shared_beginning_is_computed_once_and_changes_no_token(
    kind: str, options: dict[str, Any], shares: bool, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of a batch equals that of each prompt alone; where the cache allows it the beginning is one row."""
    import toolrl_cli.inference.shared_prefix as module

    model, prefilled = build_random(kind, loaded[1], **options), []
    compute = module.compute_prefixes

    def note(model: Any, prefixes: list[list[int]], width: int) -> Any:
        prefilled.append([len(prefix) for prefix in prefixes])
        return compute(model, prefixes, width)

    monkeypatch.setattr(module, "compute_prefixes", note)
    together = {p.id: c for p, c in build_engine((model, loaded[1]), batch_size=4).generate(SHARING)}
    for prompt in SHARING:
        [(_, alone)] = build_engine((model, loaded[1])).generate([prompt])
        assert together[prompt.id] == alone
    rows = [tokenize_prompt(loaded[1], prompt.messages, None) for prompt in SHARING]
    assert len({len(row) for row in rows}) == 4
    assert prefilled == ([[common_length(rows)]] if shares else [])


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_prompts_with_little_in_common_are_computed_without_padding(kind: str, loaded: tuple[Any, Any]) -> None:
    model = build_random(kind, loaded[1])
    forwards: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, options: forwards.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    together = list(build_engine((model, loaded[1]), batch_size=4).generate(PROMPTS))
    rows = [tokenize_prompt(loaded[1], prompt.messages, None) for prompt in PROMPTS]
    assert forwards[: len(PROMPTS)] == [(1, length) for length in own_lengths(rows)]
    assert forwards[len(PROMPTS)] == (len(PROMPTS), 1)
    for prompt, completion in together:
        [(_, alone)] = build_engine((model, loaded[1])).generate([prompt])
        assert completion == alone


def test_samples_of_a_prompt_share_all_of_it(loaded: tuple[Any, Any]) -> None:
    model = build_random("Llama", loaded[1])
    forwards: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, options: forwards.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    prompts = [replace(prompt, sample=sample) for sample in range(3) for prompt in SHARING[:2]]
    together = {p.key: c for p, c in build_engine((model, loaded[1]), batch_size=6, temperature=1.0).generate(prompts)}
    rows = [tokenize_prompt(loaded[1], prompt.messages, None) for prompt in SHARING[:2]]
    assert forwards[:2] == [(1, length) for length in own_lengths(rows)]
    assert forwards[2] == (6, 1)
    for prompt in prompts:
        [(_, alone)] = build_engine((model, loaded[1]), temperature=1.0).generate([prompt])
        assert together[prompt.key] == alone
    assert len({completion.text for completion in together.values()}) == 6


@pytest.mark.parametrize(("samples", "alike"), [(1, PROMPTS), (6, SHARING[:3]), (6, SHARING)])
def test_finished_rows_are_dropped_and_the_others_write_on(
    samples: int, alike: list[Prompt], loaded: tuple[Any, Any]
) -> None:
    """One token in eight ends a completion, so that rows end at different times."""
    model = build_random("Llama", loaded[1])
    model.generation_config.eos_token_id = [loaded[1].eos_token_id, *range(0, len(loaded[1]), 8)]
    forwards: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, options: forwards.append(len(options["input_ids"])), with_kwargs=True
    )
    prompts = [replace(prompt, sample=sample) for sample in range(samples) for prompt in alike]
    engine = build_engine((model, loaded[1]), batch_size=len(prompts), temperature=1.0, length=24)
    together = list(engine.generate(prompts))
    decoding = forwards[forwards.index(len(prompts)) :]
    assert decoding == sorted(decoding, reverse=True)
    assert decoding[-1] <= len(prompts) / 2
    for prompt, completion in together:
        [(_, alone)] = build_engine((model, loaded[1]), temperature=1.0, length=24).generate([prompt])
        assert completion == alone
    assert len({len(completion.text) for _, completion in together}) > 2


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2),
        ([[1, 2], [1, 2, 3]], 1),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1], [1]], 0),
        ([[1, 2], [3, 4]], 0),
        ([[5, 5, 1, 9], [5, 5, 2, 9], [5, 5, 1, 8]], 2),
    ],
)
def test_the_common_beginning_leaves_each_row_a_token(rows: list[list[int]], length: int) -> None:
    assert common_length(rows) == length
