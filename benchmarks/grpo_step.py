"""A GRPO step: stock TRL beside the shared prefix, in time and in peak memory.

    python benchmarks/grpo_step.py ROWS.jsonl [--generations 8] [--tuning lora] [--rounds 2]

ROWS is what `toolrl prepare` reads, for instance ToolRL's own rows. Each measurement is a process of
its own, stock and shared by turns: it takes an optimizer step over short prompts and completions to
warm up, and one over the rows' prompts, which counts and in which every completion is NEW tokens
long. The reward is a number made of the tokens, so that every completion has a gradient. Peak memory
is that of the process. The arithmetic is counted from the shapes; its share is of the largest matrix
product's speed in the same number format.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe_machine, show_spread

PARTS = ("generation", "update", "step")
SHORT = 8
"""New tokens of the step that warms up."""


def main() -> None:
    """Measure and print; with `--measure`, one process's part of it."""
    options = parse_options()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    print(describe_machine())
    for tuning in options.tuning:
        for size in options.generations:
            compare(options, tuning, size)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--generations", type=int, nargs="+", default=[8])
    parser.add_argument("--tuning", nargs="+", default=["lora"])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--length", type=int, default=766, help="take the prompts nearest to so many tokens")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--greedy", action="store_true", help="decode greedily, and compare the tokens")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16 under autocast")
    parser.add_argument("--measure", choices=["stock", "shared"], help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(options: argparse.Namespace, tuning: str, size: int) -> None:
    """Pairs of measurements, and a table of their ratios."""
    pairs = [{kind: run(options, kind, tuning, size) for kind in ("stock", "shared")} for _ in range(options.rounds)]
    one = pairs[0]["shared"]
    print(
        f"\n{tuning}, G={size}, {options.prompts} prompts of {one['prompts']} tokens, {options.new} new, "
        f"median of {options.rounds} pairs (range)"
    )
    print(f"{'':12} {'stock TRL':>22} {'shared prefix':>22} {'ratio':>20}")
    for part in (*PARTS, "peak"):
        stock, shared = ([pair[kind][part] for pair in pairs] for kind in ("stock", "shared"))
        ratios = [a / b for a, b in zip(stock, shared, strict=True)]
        unit = "GB" if part == "peak" else "s"
        columns = (f"{show_spread(values)} {unit}" for values in (stock, shared))
        print(f"{part:12} {next(columns):>22} {next(columns):>22} {show_spread(ratios, 2):>20}")
    for kind in ("stock", "shared"):
        work, peak = one[f"{kind}_flops"], one["matmul"]
        share = show_spread([100 * work / pair[kind]["update"] / peak for pair in pairs])
        print(f"{kind}: update of {work / 1e12:.2f} TFLOP, at {share}% of {peak / 1e9:.0f} GFLOP/s")
    if options.greedy:
        same = all(pair["stock"]["tokens"] == pair["shared"]["tokens"] for pair in pairs)
        print(f"greedy tokens identical: {same}")


def run(options: argparse.Namespace, kind: str, tuning: str, size: int) -> Any:
    """One measurement in a process of its own."""
    words = [options.rows, "--model", options.model, "--tuning", tuning, "--generations", size, "--measure", kind]
    words += ["--prompts", options.prompts, "--new", options.new, "--length", options.length]
    words += [f"--{name}" for name in ("greedy", "checkpointing", "float32") if getattr(options, name)]
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the parts of the second step, and what else the parent wants to know."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(options, Path(folder))
        spent = dict.fromkeys(PARTS, 0.0)
        tokens: list[list[int]] = []
        generate, step = trainer._generate_single_turn, trainer.training_step

        def generate_timed(*args: Any) -> Any:
            length = options.new if started else SHORT
            trainer.generation_config.max_new_tokens = trainer.generation_config.min_new_tokens = length
            with timed(spent, "generation"):
                result = generate(*args)
            tokens[:] = result[0]
            return result

        def step_timed(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == 1 and not started:
                started.append(True)
                spent.update(dict.fromkeys(PARTS, 0.0))
            with timed(spent, "step"):
                return step(*args, **kwargs)

        started: list[bool] = []
        trainer._generate_single_turn, trainer.training_step = generate_timed, step_timed
        trainer.train()
        measured = list(trainer.train_dataset["prompt"])[options.prompts :]
        prompts = sum(map(len, trainer._tokenize_prompts(measured)[0])) // options.prompts
        spent["update"] = spent["step"] - spent["generation"]
        counted = count_operations(trainer.model, prompts, options.new, options.generations[0], options.prompts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        return {
            **spent,
            **counted,
            "peak": peak,
            "prompts": prompts,
            "tokens": tokens,
            "matmul": measure_matmul(options.float32),
        }


@contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[None]:
    """Add the seconds of a block to a part."""
    synchronize()
    start = time.perf_counter()
    yield
    synchronize()
    spent[part] += time.perf_counter() - start


def synchronize() -> None:
    """Wait for the accelerator, if there is one."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_memory() -> int:
    """Bytes: of the process on a CPU, of tensors on an accelerator."""
    import torch

    if torch.accelerator.is_available():
        return int(torch.accelerator.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build_trainer(options: argparse.Namespace, folder: Path) -> Any:
    """The trainer, stock or ours, with the model as `toolrl grpo` loads it."""
    from trl import GRPOConfig, GRPOTrainer

    from toolrl_cli.formats import find_format
    from toolrl_cli.inference.transformers_engine import tokenize_prompt
    from toolrl_cli.prepare import PrepareConfig, prepare_examples
    from toolrl_cli.training.arguments import build_arguments
    from toolrl_cli.training.compat import project_in_small_tiles, score_labelled_positions_only
    from toolrl_cli.training.config import GrpoConfig
    from toolrl_cli.training.data import grpo_dataset, read_examples
    from toolrl_cli.training.grpo import own_arguments
    from toolrl_cli.training.models import quiet_libraries, resolve_model
    from toolrl_cli.training.run import load_materials
    from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer

    quiet_libraries()
    path = folder / "examples.jsonl"
    prepare_examples(PrepareConfig(inputs=(options.rows,), output=path))
    size = options.generations[0]
    config = GrpoConfig(
        data=path,
        model=options.model,
        output=folder / "run",
        tuning=options.tuning[0],
        batch_size=size * options.prompts,
        micro_batch_size=size,
        num_generations=size,
        max_completion_length=options.new,
        max_steps=2,
    )
    own = own_arguments(config) | {
        "generation_kwargs": {"do_sample": not options.greedy},
        "gradient_checkpointing": options.checkpointing,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "bf16": not options.float32,
    }
    kind: Callable[..., Any] = GRPOTrainer
    if options.measure == "shared":
        score_labelled_positions_only()
        project_in_small_tiles()
        kind = SharedPrefixGRPOTrainer
    materials = load_materials(config, resolve_model(options.model))
    if options.float32:
        materials.model.float()
    text_format = find_format("toolrl")

    def tokens(example: Any) -> int:
        return len(tokenize_prompt(materials.tokenizer, *text_format.render_prompt(example.tools, example.messages)))

    nearest = sorted(read_examples(path, text_format), key=lambda example: abs(tokens(example) - options.length))
    examples = nearest[: options.prompts]
    warm_up = [replace(example, tools=(), messages=({"role": "user", "content": example.id},)) for example in examples]
    return kind(
        materials.model,
        number_of_tokens,
        build_arguments(GRPOConfig, config, own),
        train_dataset=grpo_dataset([*warm_up, *examples], text_format, materials.tokenizer, as_messages=True),
        processing_class=materials.tokenizer,
        peft_config=materials.peft_config,
    )


def number_of_tokens(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that differs from completion to completion, and in greedy decoding from row to row."""
    return [float((sum(ids) + 7 * row) % 101) for row, ids in enumerate(completion_ids)]


def count_operations(model: Any, prompt: int, new: int, size: int, prompts: int) -> dict[str, float]:
    """Floating-point operations of forward and backward of a step, stock and shared.

    A weight takes two a token forward; a backward takes as many for the activations, and as many again
    where the weight is trained. A pair of tokens that attend takes four times the width of all heads in
    each layer. Stock TRL projects every position on the vocabulary on a CPU, the shared one those that
    it scores.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = inner.get_output_embeddings().weight
    weights = [module.weight for module in inner.modules() if isinstance(module, torch.nn.Linear)]
    linear = sum(weight.numel() for weight in weights if weight is not head)
    passes = 3 if any(weight.requires_grad and weight.numel() > 10**5 for weight in weights) else 2
    width = inner.config.num_hidden_layers * inner.config.num_attention_heads * inner.config.head_dim
    total = prompt + new
    tokens = {"stock": size * total, "shared": prompt + size * new}
    everything = head.device.type == "cpu"
    scored = {"stock": size * (total if everything else new), "shared": size * new}
    pairs = {"stock": size * total**2 / 2, "shared": prompt**2 / 2 + size * new * (prompt + new / 2)}
    return {
        f"{kind}_flops": prompts
        * (2 * passes * (linear * tokens[kind] + head.numel() * scored[kind]) + 3 * 4 * width * pairs[kind])
        for kind in ("stock", "shared")
    }


def measure_matmul(float32: bool, size: int = 2048) -> float:
    """Operations a second of a large matrix product in the number format of the step; the best of 5."""
    import torch

    from toolrl_cli.training.models import find_device

    matrix = torch.randn(size, size, dtype=torch.float32 if float32 else torch.bfloat16, device=find_device())
    speeds = []
    for _ in range(5):
        spent = {"product": 0.0}
        with timed(spent, "product"):
            matrix @ matrix
        speeds.append(2 * size**3 / spent["product"])
    return max(speeds)


if __name__ == "__main__":
    main()
