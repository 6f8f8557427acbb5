"""A tiny random model with a real tokenizer, and a few literal examples, made once a session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

# Before torch is imported: one thread serves a tiny model best, and no test may meet a model hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell that runs the tests in the background has them ignore Ctrl-C, and their subprocesses would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
InProcess = Callable[..., Result]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIMER = {
    "type": "function",
    "function": {
        "name": "timer",
        "description": "Rings after some minutes.",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}


def example(id: str, question: str, target: dict[str, Any], tools: Sequence[dict[str, Any]] = (WEATHER,)) -> Any:
    """A line of examples.jsonl."""
    messages = [{"role": "user", "content": question}]
    return {"id": id, "source": "test", "tools": list(tools), "messages": messages, "target": target}


def call(name: str, **arguments: object) -> dict[str, Any]:
    """A target that calls one tool."""
    return {"thought": f"I need {name}.", "tool_calls": [{"name": name, "arguments": arguments}], "response": None}


EXAMPLES = (
    example("oslo", "How is Oslo?", call("weather", city="Oslo")),
    example("tea", "Tea in 4 minutes.", call("timer", minutes=4), (WEATHER, TIMER)),
    example("cook", "Cook for me.", {"thought": "No tool cooks.", "tool_calls": [], "response": "I cannot cook."}),
    example("rome", "And Rome, naïve friend?", call("weather", city="Rome")),
    example("egg", "An egg, 6 minutes.", call("timer", minutes=6), (TIMER,)),
    example("lima", "Lima, please.", call("weather", city="Lima")),
)


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    """Write rows as JSONL and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file, every line of it complete."""
    text = path.read_text("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def examples_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of six examples."""
    return write_lines(tmp_path_factory.mktemp("data") / "examples.jsonl", EXAMPLES)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers and a byte-level tokenizer that can spell any text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            **ids,
        )
    ).save_pretrained(folder)
    return folder


def build_tokenizer() -> Any:
    """A byte-level BPE tokenizer with ChatML, trained on the prompts of the examples."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from toolrl_cli.formats import find_format
    from toolrl_cli.records import Example

    text_format = find_format("toolrl")
    examples = [Example.from_json(raw) for raw in EXAMPLES]
    texts = [m["content"] for e in examples for m in text_format.render_prompt(e.tools, e.messages).messages]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def toolrl() -> Cli:
    """Runs the command line in a process of its own and returns what became of it."""

    def run(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toolrl_cli", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=300
        )

    return run


@pytest.fixture
def cli() -> InProcess:
    """Runs the command line in this process: for the many cases that end before a training begins."""

    def run(*words: object) -> Result:
        from toolrl_cli.cli import app

        return CliRunner().invoke(app, [str(word) for word in words], prog_name="toolrl")

    return run


def refusal(result: Result | subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line on stderr of a command that exits with this status, 2 for a wrong option, and prints no result."""
    found = result.exit_code if isinstance(result, Result) else result.returncode
    lines = result.stderr.splitlines()
    assert (found, result.stdout, len(lines)) == (status, "", 1), result.stderr
    return lines[0].removeprefix("toolrl: ")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Place:
    """A working folder in which commands ran: their outputs below `runs/`, and what each printed."""

    folder: Path
    printed: dict[str, Any]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at a trained model is slow, because of the training."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, toolrl: Cli, tiny_model: Path) -> Place:
    """`toolrl sft`, then `toolrl grpo` on its run, as a user runs them."""
    folder = tmp_path_factory.mktemp("work")
    write_lines(folder / "ex.jsonl", EXAMPLES)
    sft = ["sft", "ex.jsonl", "--model", tiny_model, "-o", "runs/sft", "--max-steps", 3, "--batch-size", 4]
    grpo = ["grpo", "ex.jsonl", "--model", "runs/sft", "-o", "runs/grpo", "--reward", "fine-grained", "--max-steps", 2]
    grpo += ["--num-generations", 2, "--batch-size", 4, "--micro-batch-size", 4, "--max-completion-length", 16]
    printed = {}
    for command in (sft, grpo):
        done = toolrl(*command, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        printed[str(command[0])] = {"stdout": json.loads(done.stdout), "stderr": done.stderr.splitlines()}
    return Place(folder, printed)


def change_trainer(monkeypatch: pytest.MonkeyPatch, command: str, change: Callable[[Any], None]) -> None:
    """Let a test look at, or add a callback to, the trainer that a command builds."""

    from toolrl_cli.training.run import run_training

    def run(name: str, config: Any, text_format: Any, hashes: Any, build: Callable[[Any], Any]) -> Any:
        def build_changed(materials: Any) -> Any:
            trainer = build(materials)
            change(trainer)
            return trainer

        return run_training(name, config, text_format, hashes, build_changed)

    monkeypatch.setattr(f"toolrl_cli.training.{command}.run_training", run)


def interrupt_at(steps: list[int], number: signal.Signals = signal.SIGINT) -> Any:
    """A callback that presses Ctrl-C, or sends another signal, while each of the steps runs."""
    from transformers import TrainerCallback

    class Press(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step + 1 in steps:
                steps.remove(state.global_step + 1)
                signal.raise_signal(number)

    return Press()
