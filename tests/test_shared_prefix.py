"""The shared prefix against TRL's own computation: same log-probabilities, entropies, gradients and tokens.

Models are random, in float64; TRL's fused head works in float32 inside, which sets the bound.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl.trainer.utils
from noise import drawn_by_row
from prefix_lengths import own_lengths
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from toolrl_cli.errors import ConfigError
from toolrl_cli.inference.shared_attention import ATTENTION
from toolrl_cli.inference.shared_prefix import prefix_obstacle, prompts_of_groups
from toolrl_cli.training.compat import project_in_small_tiles, score_labelled_positions_only
from toolrl_cli.training.packed import distinct_rows
from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer

pytestmark = pytest.mark.slow

BOUND = 1e-6
FLOAT32_BOUND = 1e-5
"""Relative, of log-probabilities, entropies and gradients alike."""
SMOLLM2_BOUND = 1e-4
"""The same, through thirty layers."""
VOCABULARY = 800
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FULL = ["full_attention", "full_attention"]
SHARING: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma": {},
    "Gemma3Text": {"layer_types": FULL, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "GPTNeoX": {},
    "Mistral": {"sliding_window": 19},
}
SLIDING = "the model's sliding window of 4 tokens is shorter than prompt and completion"
STATE = "a layer of the model keeps a state instead of keys and values"
FALLING_BACK: dict[str, tuple[dict[str, Any], str]] = {
    "Gemma3Text": ({"sliding_window": 4, "query_pre_attn_scalar": 8}, SLIDING),
    "Mistral": ({"sliding_window": 4}, SLIDING),
    "Qwen2": ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, SLIDING),
    "Mamba": ({"state_size": 4}, "the model takes no cache or no positions"),
    "Lfm2": ({"layer_types": ["conv", "full_attention"]}, STATE),
    "Bloom": ({}, "the model takes no cache or no positions"),
    "GPT2": ({}, "the model's positions are not rotary, or change with the length"),
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
OWNERS = [0, 1, 1, 2, 0, 2, 2]
PACKED = [(1, 6 + 2 + 4 + 12), (1, 6 + 4 + 9)]
"""Prefixes and completions of the first four rows, and of the other three, in one sequence each."""
COMPLETIONS = [[20, 21, 22, 2], [23, 2], [24, 25, 26], [27, 28, 2], [29], [30, 31, 32, 33], [34, 35, 36, 37]]


Values = tuple[Tensor, Tensor, dict[str, Tensor]]


def build_model(kind: str, options: dict[str, Any]) -> Any:
    """A random causal language model of an architecture, in float64."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    architecture = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, architecture)(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def add_lora(model: Any) -> Any:
    """A LoRA adapter that is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config).double()


@pytest.fixture
def build_trainer(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Builds a trainer around a model, rewarding by length, that takes its own word for its first batch.

    TRL's head is left as TRL has it.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer

    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"prompt": text} for text in ("abc", "defghi", "jklm", "no")]

    def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    def build(
        model: Any,
        kind: type[GRPOTrainer] = SharedPrefixGRPOTrainer,
        *,
        folder: Path,
        shared_prefix: str = "auto",
        unchecked: bool = True,
        **options: Any,
    ) -> Any:
        settings: dict[str, Any] = {
            "bf16": False,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 6,
            "gradient_checkpointing": False,
            "learning_rate": 1e-2,
            "max_steps": 2,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            **options,
        }
        arguments = GRPOConfig(str(folder), **settings)
        own = {"shared_prefix": shared_prefix} if kind is SharedPrefixGRPOTrainer else {}
        trainer = kind(
            model, length, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **own
        )
        trainer._checked = unchecked
        return trainer

    return partial(build, folder=tmp_path / "out")


def padded_batch(prompts: list[list[int]] = PROMPTS) -> tuple[Tensor, Tensor, int]:
    """Token ids and mask of seven completions: prompts padded left, completions right, groups not in order."""
    width, length = max(map(len, prompts)), max(map(len, COMPLETIONS))
    ids = torch.zeros(len(OWNERS), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (owner, completion) in enumerate(zip(OWNERS, COMPLETIONS, strict=True)):
        start = width - len(prompts[owner])
        tokens = prompts[owner] + completion
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    return ids, mask, length


def compute(trainer: Any, kind: type[GRPOTrainer], prompts: list[list[int]] = PROMPTS) -> Values:
    """Log-probabilities, entropies and the gradients of a loss over both, in chunks of four rows."""
    trainer.model.zero_grad()
    logps, entropies, _ = kind._get_per_token_logps_and_entropies(
        trainer, trainer.model, *padded_batch(prompts), batch_size=4, compute_entropy=True
    )
    weights = torch.linspace(-1, 1, logps.numel(), dtype=logps.dtype).view_as(logps)
    (weights * logps + weights.flip(0) * entropies).sum().backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return logps.detach(), entropies.detach(), gradients


def largest_difference(ours: Any, stock: Any) -> float:
    """Over all tensors, relative to the largest entry of each."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(ours, stock, strict=True))


@pytest.fixture(params=["plain", "lora"])
def wrap(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """A model as it is, and under LoRA."""
    return add_lora if request.param == "lora" else lambda model: model


@pytest.mark.parametrize("kind", SHARING)
def test_values_and_gradients_are_those_of_trl(
    kind: str, wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]
) -> None:
    trainer = build_trainer(wrap(build_model(kind, SHARING[kind])))
    with counted_rows(trainer) as rows:
        ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == PACKED, "each chunk holds its distinct prompts once, and no padding"
    assert_equal(ours, compute(trainer, GRPOTrainer))


def assert_equal(ours: Values, stock: Values, bound: float = BOUND) -> None:
    """Log-probabilities, entropies and gradients are the same up to a relative bound, and are not trivial."""
    assert ours[2].keys() == stock[2].keys() != set()
    assert largest_difference(ours[:2], stock[:2]) < bound
    assert largest_difference(ours[2].values(), stock[2].values()) < bound
    assert min(stock[0].abs().max().item(), *(g.abs().max().item() for g in stock[2].values())) > bound


@pytest.mark.parametrize("kind", SHARING)
def test_float32_differs_by_rounding_alone(kind: str, build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model(kind, SHARING[kind]).float())
    assert_equal(compute(trainer, SharedPrefixGRPOTrainer), compute(trainer, GRPOTrainer), FLOAT32_BOUND)


def test_smollm2_gives_the_same(build_trainer: Callable[..., Any]) -> None:
    from toolrl_cli.training.models import load_model, resolve_model

    model = load_model(resolve_model("smollm2-135m"), full_precision=True)
    trainer = build_trainer(model, max_completion_length=24)
    chance = torch.Generator().manual_seed(0)
    prompts = [torch.randint(100, 40_000, (length,), generator=chance).tolist() for length in (300, 120, 230)]
    ours, stock = (compute(trainer, kind, prompts) for kind in KINDS)
    assert_equal(ours, stock, SMOLLM2_BOUND)
    trainer.generation_config.do_sample = False
    rows = [prompts[owner] for owner in OWNERS]
    tokens, same = (kind._generate_single_turn(trainer, rows, None, {}, 2)[0] for kind in KINDS)
    assert tokens == same


def test_eager_attention_gives_the_same(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {"attn_implementation": "eager"}).float())
    stock = compute(trainer, GRPOTrainer)
    with counted_rows(trainer) as rows:
        assert_equal(compute(trainer, SharedPrefixGRPOTrainer), stock, FLOAT32_BOUND)
    assert rows == PACKED


def test_prompts_of_one_token_have_no_prefix(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}))
    ids, mask = torch.tensor([[5, 6, 7], [5, 8, 0], [9, 6, 7]]), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    with counted_rows(trainer) as rows:
        ours, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 2)
    stock, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, 2)
    assert rows == [(1, 5)]
    assert largest_difference([ours], [stock]) < BOUND


@contextmanager
def counted_layers(trainer: Any) -> Iterator[Counter[str]]:
    """Counts the calls of the first layer's attention."""
    calls = Counter[str]()
    layer = next(module for name, module in trainer.model.named_modules() if name.endswith("layers.0.self_attn"))
    handle = layer.register_forward_pre_hook(lambda module, args: calls.update(forward=1))
    yield calls
    handle.remove()


class counted_rows:  # noqa: N801
    """Collects the (rows, tokens) of every forward through a trainer's backbone."""

    def __init__(self, trainer: Any) -> None:
        model = trainer.model
        self._backbone = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model

    def __enter__(self) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        note = lambda module, args, options: shapes.append(tuple((args or [options["input_ids"]])[0].shape))  # noqa: E731
        self._handle = self._backbone.register_forward_pre_hook(note, with_kwargs=True)
        return shapes

    def __exit__(self, *exc_info: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("owners", [OWNERS, [2, 2, 0, 0, 0, 0, 1, 1]], ids=["scattered", "grouped"])
@pytest.mark.parametrize("kind", SHARING)
def test_greedy_tokens_are_those_of_trl(
    kind: str, owners: list[int], wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]
) -> None:
    trainer = build_trainer(wrap(build_model(kind, SHARING[kind])), max_completion_length=12)
    trainer.generation_config.do_sample = False
    prompts = [PROMPTS[owner] for owner in owners]
    with counted_rows(trainer) as rows:
        tokens, _ = trainer._generate_single_turn(prompts, None, {}, 2)
    stock, _ = GRPOTrainer._generate_single_turn(trainer, prompts, None, {}, 2)
    assert tokens == stock
    assert rows[:4] == [*((1, length) for length in own_lengths(PROMPTS)), (len(owners), 1)]
    assert [tokens[owners.index(owner)] for owner in owners] == tokens
    assert "generate" not in vars(trainer.model)


@pytest.mark.parametrize("kind", SHARING)
def test_prompts_that_begin_alike_share_it_and_decode_as_in_trl(kind: str, build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model(kind, SHARING[kind]), max_completion_length=12)
    trainer.generation_config.do_sample = False
    prompts = [[5, 6, 7, 8, 9, 10], [5, 6, 12], [5, 6, 7, 13, 14], [5, 6, 7, 8, 9]]
    with counted_rows(trainer) as rows:
        tokens, _ = trainer._generate_single_turn([ids for ids in prompts for _ in range(2)], None, {}, 2)
    stock, _ = GRPOTrainer._generate_single_turn(trainer, [ids for ids in prompts for _ in range(2)], None, {}, 2)
    assert tokens == stock
    assert rows[:5] == [(1, 2), (1, 2), (1, 1), (1, 1), (8, 1)]


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}], ids=["softmax", "top-k"])
def test_tokens_are_drawn_from_the_softmax_of_the_policy(
    settings: dict[str, Any], build_trainer: Callable[..., Any]
) -> None:
    """4,000 first tokens at temperature 0.7; the standard deviation of a share is at most 0.008."""
    trainer = build_trainer(build_model("Llama", {}), max_completion_length=1, temperature=0.7, **settings)
    torch.manual_seed(0)
    tokens, _ = trainer._generate_single_turn([PROMPTS[0]] * 4000, None, {}, 1)
    with torch.no_grad():
        scores = trainer.model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7
    scores[scores < scores.topk(settings.get("top_k", len(scores))).values[-1]] = -torch.inf
    shares = torch.bincount(torch.tensor(tokens).flatten(), minlength=len(scores)) / 4000
    assert (shares - scores.softmax(-1)).abs().max() < 0.035
    assert shares.max() < 0.9


@pytest.mark.parametrize(
    "setting", [{"num_beams": 2}, {"prompt_lookup_num_tokens": 2}, {"cache_implementation": "static"}]
)
def test_other_ways_of_decoding_are_left_to_trl(setting: dict[str, Any], build_trainer: Callable[..., Any]) -> None:
    prompts = [PROMPTS[0]] * 2
    assert build_trainer(build_model("Llama", {}))._generates_shared(prompts)
    assert not build_trainer(build_model("Llama", {}), generation_kwargs=setting)._generates_shared(prompts)


def test_prompts_that_differ_are_left_to_trl(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}))
    with counted_rows(trainer) as rows:
        trainer._generate_single_turn(PROMPTS, None, {}, 1)
    assert rows[:2] == [(3, 7), (3, 1)]


def test_rows_are_cut_into_equal_groups_of_equal_prompts() -> None:
    one, two = [1, 2, 3], [1, 4]
    assert prompts_of_groups([one] * 4 + [two] * 2) == [[1, 2], [1, 2], [1]]
    assert prompts_of_groups([one, two, one]) == [[1, 2], [1], [1, 2]]
    assert prompts_of_groups([one] * 3) == [[1, 2]]


@pytest.mark.parametrize("kind", FALLING_BACK)
def test_models_that_forget_or_take_no_positions_fall_back(
    kind: str, build_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = FALLING_BACK[kind][1]
    assert prefix_obstacle(build_model(kind, FALLING_BACK[kind][0]), 11) == reason
    with pytest.raises(ConfigError, match=f"^--shared-prefix on: {reason}$"):
        compute(build_trainer(build_model(kind, FALLING_BACK[kind][0]), shared_prefix="on"), SharedPrefixGRPOTrainer)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["Mistral", "Gemma3Text"])
def test_a_sliding_window_computes_as_trl_does(
    kind: str, build_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options, reason = FALLING_BACK[kind]
    trainer = build_trainer(build_model(kind, options))
    with counted_rows(trainer) as rows:
        ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(4, 11), (3, 11)]
    assert largest_difference(ours[:2], compute(trainer, GRPOTrainer)[:2]) == 0.0
    assert capsys.readouterr().err == f"each prompt is computed once a completion, not once a group: {reason}\n"


OBSTACLES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "compiled": ({}, {"torch_compile": True}, "torch.compile would compile anew for each length"),
    "dropout": ({"attention_dropout": 0.1}, {}, "dropout is on, and a group would share it"),
    "capped": ({"attn_logit_softcapping": 30.0}, {}, "the model's attention caps its scores"),
    "attention": ({"attn_implementation": "flex_attention"}, {}, "the model's attention is flex_attention"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_settings_that_forbid_sharing_are_named(
    name: str, build_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, options, reason = OBSTACLES[name]
    trainer = build_trainer(build_model("Llama", model), **options)
    assert not trainer._shares_prefix(100)
    assert capsys.readouterr().err == f"each prompt is computed once a completion, not once a group: {reason}\n"
    with pytest.raises(ConfigError, match=reason):
        build_trainer(build_model("Llama", model), shared_prefix="on", **options)


def test_lora_dropout_forbids_sharing(build_trainer: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = build_trainer(get_peft_model(build_model("Llama", {}), config))
    assert trainer._obstacle == "dropout is on, and a group would share it"
    model = get_peft_model(build_model("Llama", {}), config)
    assert build_trainer(model, disable_dropout=True)._obstacle is None


def test_off_leaves_everything_to_trl(build_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    trainer = build_trainer(build_model("Llama", {}), shared_prefix="off")
    with counted_rows(trainer) as rows:
        compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(4, 11), (3, 11)]
    assert capsys.readouterr().err == ""


def test_the_first_batch_is_compared_with_trl(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}), unchecked=False)
    state = torch.get_rng_state()
    with counted_rows(trainer) as rows:
        ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(2, 11), (1, 6 + 4 + 1), *PACKED]
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(ours, compute(trainer, GRPOTrainer))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda query, key, value, scaling: query * 2, r"log-probabilities differ by \S+ on average"),
        (lambda query, key, value, scaling: query @ value, r"it fails on this model \(.+\)"),
    ],
)
def test_a_wrong_result_is_found_before_it_is_used(
    wrong: Callable[..., Any],
    reason: str,
    build_trainer: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolrl_cli.inference.shared_attention.attend_rows", wrong)
    trainer = build_trainer(build_model("Llama", {}), unchecked=False)
    ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert largest_difference(ours[:2], compute(trainer, GRPOTrainer)[:2]) == 0.0
    assert re.search(f"not once a group: {reason}", capsys.readouterr().err)
    with pytest.raises(ConfigError, match=reason):
        compute(build_trainer(build_model("Llama", {}), unchecked=False, shared_prefix="on"), SharedPrefixGRPOTrainer)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_shares_too(
    reentrant: bool, wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]
) -> None:
    trainer = build_trainer(wrap(build_model("Llama", {})), gradient_checkpointing=True)
    trainer.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    trainer.model.train()
    with counted_rows(trainer) as rows, counted_layers(trainer) as layers:
        ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert (rows, layers["forward"]) == (PACKED, 2 * len(PACKED)), "each layer is computed again in the backward"
    assert_equal(ours, compute(trainer, GRPOTrainer))
    with counted_rows(trainer) as rows:
        trainer._generate_single_turn([PROMPTS[owner] for owner in OWNERS], None, {}, 2)
    assert rows[:4] == [(1, 6), (1, 2), (1, 4), (7, 1)]


def test_a_static_cache_generates_as_trl_does(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}), cache_implementation="static")
    tokens, _ = trainer._generate_single_turn([PROMPTS[owner] for owner in OWNERS], None, {}, 2)
    assert len(tokens) == len(OWNERS)


def test_continuous_batching_generates_in_its_own_way_and_training_shares(build_trainer: Callable[..., Any]) -> None:
    model = build_model("Llama", {}).float()
    trainer = build_trainer(model, use_transformers_continuous_batching=True)
    scored: list[tuple[int, ...]] = []
    compute_logps = trainer._get_per_token_logps_and_entropies

    def noted(*args: Any, **options: Any) -> Any:
        with counted_rows(trainer) as rows:
            result = compute_logps(*args, **options)
        scored.extend(rows)
        return result

    trainer._get_per_token_logps_and_entropies = noted
    trainer.train()
    assert [rows for rows, _ in scored] == [1, 1]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == ATTENTION


def test_continuous_batching_rounds_nothing_for_good(build_trainer: Callable[..., Any]) -> None:
    """TRL has the model generate in bfloat16."""
    model = build_model("Llama", {}).float()
    trainer = build_trainer(model, use_transformers_continuous_batching=True, bf16=True)
    before = [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers())]
    assert len(trainer._generate_single_turn([PROMPTS[owner] for owner in OWNERS], None, {}, 2)[0]) == len(OWNERS)
    now = (*model.parameters(), *model.buffers())
    assert all(tensor is kept and torch.equal(tensor, old) for tensor, (kept, old) in zip(now, before, strict=True))


def test_no_entropy_is_computed_where_none_is_asked(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}))
    logps, entropies, aux_loss = trainer._get_per_token_logps_and_entropies(trainer.model, *padded_batch())
    assert (logps.shape, entropies, aux_loss) == ((7, 4), None, None)


def test_padding_that_all_rows_share_is_not_computed(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}))
    ids, mask, length = padded_batch()
    wide = [torch.nn.functional.pad(tensor, (3, 2)) for tensor in (ids, mask)]
    with counted_rows(trainer) as rows:
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *wide, length + 2)
    assert rows == [(1, 6 + 2 + 4 + 21)]
    stock, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length)
    assert torch.equal(logps[:, :-2], stock)
    assert not logps[:, -2:].any()


def test_completions_without_a_token_that_counts_have_no_log_probability(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}))
    ids, mask, length = padded_batch()
    mask[:, -length:] = 0
    logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length)
    assert logps.shape == (7, length)
    assert not logps.any()


def test_micro_batches_hold_whole_groups(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}), per_device_train_batch_size=2, gradient_accumulation_steps=4)
    seen: list[list[int]] = []
    inputs = trainer._prepare_inputs

    def noted(batch: Any) -> Any:
        prepared = inputs(batch)
        _, owner = distinct_rows(prepared["prompt_ids"], prepared["prompt_mask"])
        seen.append(owner.tolist())
        return prepared

    trainer._prepare_inputs = noted
    trainer.train()
    assert seen == [[0, 0]] * 8


def test_groups_of_equal_rewards_cost_no_backward_and_change_no_gradient(build_trainer: Callable[..., Any]) -> None:
    weights, backwards = [], []
    for kind in (SharedPrefixGRPOTrainer, GRPOTrainer):
        model = build_model("Llama", {})
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "optim": "sgd"}
        trainer = build_trainer(model, kind, learning_rate=1.0, max_steps=3, **options)
        trainer.reward_funcs = [lambda prompts, completion_ids, **_: some_equal(prompts, completion_ids)]
        done = Counter[str]()
        model.model.norm.register_full_backward_hook(lambda *given, done=done: done.update(backward=1))
        with drawn_by_row(transformers.GenerationMixin):
            trainer.train()
        backwards.append(done["backward"])
        weights.append({name: value.detach() for name, value in model.named_parameters()})
    ours, stock = weights
    assert 0 < backwards[0] < backwards[1] == 12
    assert largest_difference(ours.values(), stock.values()) < BOUND


def test_a_step_of_groups_of_equal_rewards_moves_adam_as_in_trl(build_trainer: Callable[..., Any]) -> None:
    """A gradient of 0 leaves the momentum of the step before; Adam enlarges what the two round otherwise."""
    rate, weights = 1e-3, []
    for kind in KINDS:
        model = build_model("Llama", {})
        trainer = build_trainer(model, kind, learning_rate=rate, max_steps=3, lr_scheduler_type="constant")
        trainer.reward_funcs = [lambda completion_ids, trainer_state, **_: some_steps(completion_ids, trainer_state)]
        with drawn_by_row(transformers.GenerationMixin):
            trainer.train()
        weights.append({name: value.detach() for name, value in model.named_parameters()})
    ours, stock = weights
    assert max(float((ours[name] - stock[name]).abs().max()) for name in stock) < 0.1 * rate


def some_steps(completion_ids: list[list[int]], trainer_state: Any) -> list[float]:
    """Rewards that differ in every step but the second."""
    return [1.0 if trainer_state.global_step == 1 else float(sum(ids)) for ids in completion_ids]


def some_equal(prompts: list[str], completion_ids: list[list[int]]) -> list[float]:
    """Rewards that differ within the groups of two prompts only."""
    flat = {"abc", "no"}
    return [1.0 if p in flat else float(sum(ids)) for p, ids in zip(prompts, completion_ids, strict=True)]


VARIANTS: dict[str, dict[str, Any]] = {
    **{loss: {"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")},
    "accumulated": {"gradient_accumulation_steps": 2},
    "iterations": {"num_iterations": 2},
    "sequence": {"importance_sampling_level": "sequence", "steps_per_generation": 2, "num_iterations": 2},
    "kl": {"beta": 0.5},
    "entropy": {"top_entropy_quantile": 0.5, "entropy_coef": 0.1},
    "truncated": {"mask_truncated_completions": True},
    "checkpointed": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_gives_the_weights_and_metrics_of_trl(
    variant: str, wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]
) -> None:
    ours, stock = (run_training(wrap, build_trainer, kind, **VARIANTS[variant]) for kind in KINDS)
    assert largest_difference(ours.weights.values(), stock.weights.values()) < BOUND
    assert max((stock.weights[name] - start).abs().max().item() for name, start in stock.start.items()) > 1e-3
    assert ours.curve == pytest.approx(stock.curve, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("wrap", ["lora"], indirect=True)
def test_twenty_steps_give_the_curve_of_trl(wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]) -> None:
    ours, stock = (run_training(wrap, build_trainer, kind, max_steps=20, learning_rate=0.1) for kind in KINDS)
    assert len(ours.curve) == 20 * len(CURVES)
    assert ours.curve == pytest.approx(stock.curve, rel=1e-4, abs=1e-5)


def test_two_processes_give_the_weights_of_trl(tiny_model: Path, tmp_path: Path) -> None:
    kinds = ["ours", "stock", "ours-checkpointed", "stock-checkpointed"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [Path(__file__).parent / "ddp_training.py", tiny_model, tmp_path]
    done = subprocess.run([*launch, *script, *kinds], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    results = [torch.load(tmp_path / f"{kind}.pt") for kind in kinds]
    for ours, stock in (results[:2], results[2:]):
        assert largest_difference(ours["weights"].values(), stock["weights"].values()) < BOUND
        curves = ([log[name] for log in result["logs"] for name in CURVES] for result in (ours, stock))
        assert next(curves) == pytest.approx(next(curves), rel=1e-4, abs=1e-5)
        assert stock["rows"].count(4) > ours["rows"].count(4)
        assert ours["rows"].count(1) > 0, "one row holds the four completions of a process"


KINDS = (SharedPrefixGRPOTrainer, GRPOTrainer)
CURVES = ("loss", "grad_norm", "reward", "entropy", "completions/mean_length")


@dataclass(frozen=True)
class Trained:
    """Weights before and after a training, and its metrics, step after step."""

    start: dict[str, Tensor]
    weights: dict[str, Tensor]
    curve: list[float]


def run_training(
    wrap: Callable[[Any], Any], build_trainer: Callable[..., Any], kind: type[GRPOTrainer], **options: Any
) -> Trained:
    """Train by SGD, since Adam would enlarge rounding errors."""
    model = wrap(build_model("Llama", {}))
    if options.get("beta") and isinstance(model, transformers.PreTrainedModel):
        folder = build_trainer.keywords["folder"] / "reference"  # type: ignore[attr-defined]
        model.save_pretrained(folder)
        model.config._name_or_path = str(folder)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    defaults = {"optim": "sgd", "learning_rate": 1.0, "logging_steps": 1}
    trainer = build_trainer(model, kind, **defaults | options)
    trainer.eos_token_ids = list(range(VOCABULARY // 5))  # so that some completions end early
    trainer.generation_config.eos_token_id = trainer.eos_token_ids
    with drawn_by_row(transformers.GenerationMixin):
        trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    weights = {name: value.detach() for name, value in trainer.model.named_parameters()}
    return Trained(start, weights, [log[name] for log in logs for name in CURVES])


def test_equal_prompts_are_found_whatever_stands_under_the_padding() -> None:
    ids = torch.tensor([[9, 1, 2], [8, 1, 2], [0, 1, 2], [1, 1, 2]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]])
    first, owner = distinct_rows(ids, mask)
    assert (first.tolist(), owner.tolist()) == ([0, 2, 3], [0, 0, 1, 2])


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TRL as toolrl sets it, undone afterwards."""
    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: False)
    score_labelled_positions_only()
    yield
    monkeypatch.undo()


def fused_values(model: Any) -> list[Tensor]:
    """Loss, log-probabilities, entropies and a gradient from TRL's fused head."""
    ids, mask, length = padded_batch()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-length] = -100
    model.zero_grad()
    output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    (output.loss + output.entropy.sum()).backward()
    embedding = model.get_input_embeddings().weight.grad
    return [output.loss.detach(), output.log_probs.detach(), output.entropy.detach(), embedding.clone()]


def test_scoring_labelled_positions_only_changes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("Llama", {})
    trl.trainer.utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: False)
    stock = fused_values(model)
    score_labelled_positions_only()
    assert trl.trainer.utils._use_triton(torch.device("cpu"))
    assert largest_difference(fused_values(model), stock) < BOUND


def test_small_tiles_change_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("Llama", {"vocab_size": 3 * 1024 + 7})
    trl.trainer.utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32768)
    stock = fused_values(model)
    project_in_small_tiles()
    assert trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE == 1024
    assert largest_difference(fused_values(model), stock) < BOUND
