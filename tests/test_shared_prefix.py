"""The shared prefix against TRL's own computation: same log-probabilities, entropies, gradients and tokens.

Models are random, in float64; TRL's fused head works in float32 inside, which sets the bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl.trainer.utils
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from toolrl_cli.inference.shared_prefix import supports_shared_prefix
from toolrl_cli.training.compat import score_labelled_positions_only
from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer, distinct_rows

BOUND = 1e-6
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
}
FALLING_BACK: dict[str, dict[str, Any]] = {
    "Gemma3Text": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Mamba": {"state_size": 4},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Bloom": {},
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
OWNERS = [0, 1, 1, 2, 0, 2, 2]
COMPLETIONS = [[20, 21, 22, 2], [23, 2], [24, 25, 26], [27, 28, 2], [29], [30, 31, 32, 33], [34, 35, 36, 37]]


def build_model(kind: str, options: dict[str, Any]) -> Any:
    """A random causal language model of an architecture, in float64."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    architecture = {"Gemma3Text": "Gemma3"}.get(kind, kind)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).double()
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
    """Builds a trainer around a model, rewarding by length; TRL's head is left as TRL has it."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"prompt": text} for text in ("abc", "defghi", "jklm", "no")]

    def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    def build(model: Any, kind: type[GRPOTrainer] = SharedPrefixGRPOTrainer, **options: Any) -> Any:
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
        arguments = GRPOConfig(str(tmp_path / "out"), **settings)
        return kind(model, length, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)

    return build


def padded_batch() -> tuple[Tensor, Tensor, int]:
    """Token ids and mask of seven completions: prompts padded left, completions right, groups not in order."""
    width, length = max(map(len, PROMPTS)), max(map(len, COMPLETIONS))
    ids = torch.zeros(len(OWNERS), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (owner, completion) in enumerate(zip(OWNERS, COMPLETIONS, strict=True)):
        start = width - len(PROMPTS[owner])
        tokens = PROMPTS[owner] + completion
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    return ids, mask, length


def compute(trainer: Any, kind: type[GRPOTrainer]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Log-probabilities, entropies and the gradients of a loss over both, in chunks of four rows."""
    trainer.model.zero_grad()
    logps, entropies, _ = kind._get_per_token_logps_and_entropies(
        trainer, trainer.model, *padded_batch(), batch_size=4, compute_entropy=True
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
        logps, entropies, gradients = compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(3, 6), (4, 4), (2, 6), (3, 4)], "each chunk computes its distinct prompts once"
    stock_logps, stock_entropies, stock_gradients = compute(trainer, GRPOTrainer)
    assert gradients.keys() == stock_gradients.keys() != set()
    assert largest_difference([logps, entropies], [stock_logps, stock_entropies]) < BOUND
    assert largest_difference(gradients.values(), stock_gradients.values()) < BOUND
    assert min(stock_logps.abs().max().item(), *(g.abs().max().item() for g in stock_gradients.values())) > BOUND


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


@pytest.mark.parametrize("kind", SHARING)
def test_greedy_tokens_are_those_of_trl(
    kind: str, wrap: Callable[[Any], Any], build_trainer: Callable[..., Any]
) -> None:
    trainer = build_trainer(wrap(build_model(kind, SHARING[kind])), max_completion_length=12)
    trainer.generation_config.do_sample = False
    prompts = [PROMPTS[owner] for owner in OWNERS]
    with counted_rows(trainer) as rows:
        tokens, _ = trainer._generate_single_turn(prompts, None, {}, 2)
    stock, _ = GRPOTrainer._generate_single_turn(trainer, prompts, None, {}, 2)
    assert tokens == stock
    assert rows[:2] == [(3, 6), (7, 1)]
    assert [tokens[row] for row in (0, 1, 3)] == [tokens[row] for row in (4, 2, 5)]
    assert "generate" not in vars(trainer.model)


@pytest.mark.parametrize("kind", FALLING_BACK)
def test_models_that_forget_or_take_no_positions_fall_back(kind: str) -> None:
    assert not supports_shared_prefix(build_model(kind, FALLING_BACK[kind]))


def test_a_sliding_window_computes_as_trl_does(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Mistral", FALLING_BACK["Mistral"]))
    with counted_rows(trainer) as rows:
        ours = compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(4, 11), (3, 11)]
    assert largest_difference(ours[:2], compute(trainer, GRPOTrainer)[:2]) == 0.0


def test_gradient_checkpointing_computes_as_trl_does_and_still_generates_shared(
    build_trainer: Callable[..., Any],
) -> None:
    trainer = build_trainer(build_model("Llama", {}), gradient_checkpointing=True)
    with counted_rows(trainer) as rows:
        compute(trainer, SharedPrefixGRPOTrainer)
    assert rows == [(4, 11), (3, 11)]
    with counted_rows(trainer) as rows:
        trainer._generate_single_turn([PROMPTS[owner] for owner in OWNERS], None, {}, 2)
    assert rows[:2] == [(3, 6), (7, 1)]


def test_a_static_cache_generates_as_trl_does(build_trainer: Callable[..., Any]) -> None:
    trainer = build_trainer(build_model("Llama", {}), cache_implementation="static")
    tokens, _ = trainer._generate_single_turn([PROMPTS[owner] for owner in OWNERS], None, {}, 2)
    assert len(tokens) == len(OWNERS)


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
    assert rows == [(3, 6), (7, 4)]
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
        model.lm_head.weight.register_hook(lambda grad, done=done: done.update(backward=1))
        trainer.train()
        backwards.append(done["backward"])
        weights.append({name: value.detach() for name, value in model.named_parameters()})
    ours, stock = weights
    assert 0 < backwards[0] < backwards[1] == 12
    assert largest_difference(ours.values(), stock.values()) < BOUND


def some_equal(prompts: list[str], completion_ids: list[list[int]]) -> list[float]:
    """Rewards that differ within the groups of two prompts only."""
    flat = {"abc", "no"}
    return [1.0 if p in flat else float(sum(ids)) for p, ids in zip(prompts, completion_ids, strict=True)]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_steps_of_training_give_the_weights_of_trl(build_trainer: Callable[..., Any], accumulated: int) -> None:
    weights = []
    start = build_model("Llama", {}).state_dict()
    for kind in (SharedPrefixGRPOTrainer, GRPOTrainer):
        options = {"optim": "sgd", "gradient_accumulation_steps": accumulated}  # Adam would enlarge rounding errors
        trainer = build_trainer(build_model("Llama", {}), kind, learning_rate=1.0, **options)
        trainer.train()
        weights.append({name: value.detach() for name, value in trainer.model.named_parameters()})
    ours, stock = weights
    assert max((stock[name] - start[name]).abs().max().item() for name in stock) > 1e-3
    assert largest_difference(ours.values(), stock.values()) < BOUND


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
