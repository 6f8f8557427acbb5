"""What only a CUDA device can show: a training step in bfloat16, the shared prefix there, vLLM, several devices."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, Cli, read_rows, write_lines

pytestmark = pytest.mark.gpu

SFT = ("--max-steps", 1, "--batch-size", 4, "--micro-batch-size", 2)
GRPO = ("--max-steps", 1, "--batch-size", 8, "--num-generations", 4, "--micro-batch-size", 4)


@pytest.fixture(scope="module", autouse=True)
def devices() -> int:
    """How many there are."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return int(torch.cuda.device_count())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, toolrl: Cli, tiny_model: Path) -> Path:
    """A folder with examples and a finished SFT run."""
    folder = tmp_path_factory.mktemp("gpu")
    write_lines(folder / "ex.jsonl", EXAMPLES)
    train(toolrl, folder, "sft", "--model", tiny_model, "-o", "sft", *SFT)
    return folder


def train(toolrl: Cli, folder: Path, command: str, *words: object) -> dict[str, Any]:
    """The metrics of the one step of a training."""
    done = toolrl(command, "ex.jsonl", *words, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads(done.stdout)["metrics"]
    assert metrics["step"] == 1
    assert math.isfinite(metrics["loss"])
    assert math.isfinite(metrics["grad_norm"])
    return metrics


def test_a_step_of_sft_and_of_grpo_in_bfloat16(place: Path, toolrl: Cli) -> None:
    train(toolrl, place, "grpo", "--model", "sft", "-o", "grpo", *GRPO, "--max-completion-length", 16)
    assert len(read_rows(place / "grpo/completions.jsonl")) == 8


def test_full_weights(place: Path, toolrl: Cli, tiny_model: Path) -> None:
    words = ("--model", tiny_model, "--tuning", "full", "-o", "full")
    train(toolrl, place, "grpo", *words, *GRPO, "--max-completion-length", 16)


def test_vllm_generates(place: Path, toolrl: Cli) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    words = ("--model", "sft", "-o", "vllm", "--vllm", "colocate", "--set", "vllm_max_model_length=1024")
    train(toolrl, place, "grpo", *words, *GRPO, "--max-completion-length", 16)
    assert len(read_rows(place / "vllm/completions.jsonl")) == 8


def test_two_devices(place: Path, toolrl: Cli, devices: int) -> None:
    if devices < 2:
        pytest.skip("one CUDA device")
    words = ("--model", "sft", "-o", "two", "--num-processes", 2)
    train(toolrl, place, "grpo", *words, *GRPO, "--max-completion-length", 16)
    assert len(read_rows(place / "two/completions.jsonl")) == 8


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_shared_prefix_computes_what_trl_does(dtype: str, bound: float, tiny_model: Path, tmp_path: Path) -> None:
    """Log-probabilities, in nats, of two groups whose prompts differ in length."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    arguments = GRPOConfig(
        str(tmp_path), num_generations=2, per_device_train_batch_size=2, bf16=dtype == "bfloat16", report_to="none",
        gradient_checkpointing=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype))
    data = Dataset.from_list([{"prompt": "How is Oslo?"}] * 2)
    trainer = SharedPrefixGRPOTrainer(
        model, lambda completions, **_: [0.0], arguments, data, processing_class=tokenizer
    )
    device = trainer.accelerator.device
    ids = torch.randint(10, 200, (4, 24), generator=torch.Generator().manual_seed(0)).to(device)
    ids[1, :16], ids[3, :16] = ids[0, :16], ids[2, :16]
    mask = torch.ones_like(ids)
    mask[2:, :5] = 0
    mask[1, 20:] = 0
    ours, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 8)
    stock, *_ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, 8)
    kept = mask[:, -8:].bool()
    assert trainer._shares_prefix()
    assert float((ours - stock)[kept].detach().abs().max()) < bound
