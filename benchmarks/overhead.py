"""What `toolrl grpo` adds to a plain TRL script that does the same work.

    python benchmarks/overhead.py ROWS.jsonl [--rounds 5] [--steps 4]

Both are whole processes from start to end: the same model, prompts, seed and trainer, the same
number of steps and completions. The plain script's reward is a number made of the tokens and it logs
nothing; `toolrl grpo` scores by the ToolRL reward and writes metrics, completions and the run folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, show_spread

SIZE, NEW = 4, 48
ENTROPY_COEF = 1e-6
"""Above 0, so that a backward is computed on both sides whatever the rewards are."""


def main() -> None:
    """Measure pairs by turns and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        train_plainly(options.rows, options.model, options.steps, options.plain)
        return
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples = folder / "examples.jsonl"
        toolrl("prepare", options.rows, "-o", examples)
        common = ("--model", options.model)
        ours, plain = [], []
        for number in range(options.rounds):
            output = folder / str(number)
            words = ["grpo", examples, *common, "-o", output, "--max-steps", options.steps, "--save-steps", 1000]
            words += ["--batch-size", 2 * SIZE, "--micro-batch-size", SIZE, "--num-generations", SIZE]
            words += ["--max-completion-length", NEW, "--set", f"generation_kwargs={{min_new_tokens: {NEW}}}"]
            words += ["--set", f"entropy_coef={ENTROPY_COEF}"]
            ours.append(toolrl(*words))
            plain.append(run(__file__, examples, *common, "--steps", options.steps, "--plain", folder / f"p{number}"))
    added = [100 * (a / b - 1) for a, b in zip(ours, plain, strict=True)]
    print(f"{options.steps} steps of 2 prompts, G={SIZE}, {NEW} new, median of {options.rounds} pairs (range)")
    print(f"toolrl grpo   {show_spread(ours)} s")
    print(f"plain script  {show_spread(plain)} s")
    print(f"added         {show_spread(added)}%")


def toolrl(*words: object) -> float:
    """Seconds of a command."""
    return run("-m", "toolrl_cli", *words)


def run(*words: object) -> float:
    """Seconds of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - start


def train_plainly(data: Path, model: str, steps: int, folder: Path) -> None:
    """Train as `toolrl grpo` does, without its reward, logs and run folder."""
    from trl import GRPOConfig

    from toolrl_cli.formats import find_format
    from toolrl_cli.training.arguments import build_arguments
    from toolrl_cli.training.compat import project_in_small_tiles, score_labelled_positions_only
    from toolrl_cli.training.config import GrpoConfig
    from toolrl_cli.training.data import grpo_dataset, read_examples
    from toolrl_cli.training.grpo import own_arguments
    from toolrl_cli.training.models import quiet_libraries, resolve_model
    from toolrl_cli.training.run import load_materials
    from toolrl_cli.training.shared_prefix import SharedPrefixGRPOTrainer

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [float(sum(ids) % 101) for ids in completion_ids]

    quiet_libraries()
    score_labelled_positions_only()
    project_in_small_tiles()
    text_format = find_format("toolrl")
    config = GrpoConfig(
        data=data,
        model=model,
        output=folder,
        batch_size=2 * SIZE,
        micro_batch_size=SIZE,
        num_generations=SIZE,
        max_completion_length=NEW,
        max_steps=steps,
    )
    own = own_arguments(config) | {"generation_kwargs": {"min_new_tokens": NEW}}
    own |= {"entropy_coef": ENTROPY_COEF, "save_strategy": "no"}
    materials = load_materials(config, resolve_model(model))
    tokenizer = materials.tokenizer
    trainer = SharedPrefixGRPOTrainer(
        materials.model,
        reward,
        build_arguments(GRPOConfig, config, own),
        train_dataset=grpo_dataset(read_examples(data, text_format), text_format, tokenizer, as_messages=True),
        processing_class=tokenizer,
        peft_config=materials.peft_config,
    )
    trainer.train()
    trainer.save_model(str(folder))


if __name__ == "__main__":
    main()
