"""What `toolrl grpo` adds to a plain TRL script that does the same work.

    python benchmarks/overhead.py ROWS.jsonl [--steps 26]

Both are processes of their own, with the same model, prompts, seed, trainer and number of steps and
completions. They train by turns, a step at a time, so that the two durations of a step were measured
seconds apart. The plain script's reward is a number made of the tokens and it logs nothing; `toolrl
grpo` scores by the ToolRL reward and writes metrics, completions and the run folder. A step is the time
from its beginning to that of the next one, so that rewards, callbacks and logs are in it; on a machine
that does other things too, processor time tells more than that on the clock. The first step, in which the
shared prefix is checked, and the last one, which writes the files of the finished run, do not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from machine import describe_machine

SIZE, NEW = 4, 48
ENTROPY_COEF = 1e-6
"""Above 0, so that a backward is computed on both sides whatever the rewards are."""
SENTINELS_OFF = ("--sentinel", "zero-variance=off", "--sentinel", "length=off")
"""A raw model that has to fill its limit would be stopped."""
Train = Callable[[Path, str, int, Path], None]


def main() -> None:
    """Train by turns and print what a step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=26)
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        examples = Path(temporary) / "examples.jsonl"
        prepare = [sys.executable, "-m", "toolrl_cli", "prepare", options.rows, "-o", examples]
        subprocess.run(prepare, check=True, capture_output=True)
        clock, processor = train_by_turns(examples, options.model, options.steps)
    print(f"{options.steps} steps of 2 prompts, G={SIZE}, {NEW} new; median and the middle half, seconds a step")
    for kind, steps in (("clock", clock), ("processor", processor)):
        for name, seconds in zip(SIDES, steps, strict=True):
            print(f"{kind:<10} {name:<13} {show_middle(seconds)}")
        added = [100 * (ours / plain - 1) for ours, plain in zip(*steps, strict=True)]
        print(f"{kind:<10} added         {show_middle(added)}%")


def train_by_turns(examples: Path, model: str, count: int) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each side's steps on the clock and of its processors, but for the first and the last step."""
    context = get_context("spawn")
    processes, turns, used = [], [], []
    for train in SIDES.values():
        turn, theirs = context.Pipe()
        process = context.Process(target=take_turns, args=(train, examples, model, count, theirs), daemon=True)
        process.start()
        theirs.close()
        used.append([turn.recv()])
        turns.append(turn)
        processes.append(process)
    clock: list[list[float]] = [[] for _ in SIDES]
    for number in range(count - 1):
        for side in range(len(SIDES)) if number % 2 else reversed(range(len(SIDES))):
            start = time.perf_counter()
            turns[side].send(None)
            used[side].append(turns[side].recv())
            clock[side].append(time.perf_counter() - start)
    for turn, process in zip(turns, processes, strict=True):
        turn.send(None)
        process.join()
    processor = [[after - before for before, after in pairwise(times)] for times in used]
    return [seconds[1:] for seconds in clock], [seconds[1:] for seconds in processor]


def take_turns(train: Train, examples: Path, model: str, count: int, turn: Connection) -> None:
    """Train, and wait for a turn before each step."""
    from transformers import Trainer

    original = Trainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._step % self.args.gradient_accumulation_steps:
            turn.send(time.process_time())
            turn.recv()
        return original(self, *args, **kwargs)

    Trainer.training_step = training_step
    with redirect_stdout(sys.stderr):
        train(examples, model, count, examples.with_name(train.__name__))


def show_middle(values: list[float]) -> str:
    """The median, and the quartiles around it."""
    low, _, high = quantiles(values)
    return f"{median(values):.1f} ({low:.1f} to {high:.1f})"


def train_with_toolrl(data: Path, model: str, steps: int, folder: Path) -> None:
    """`toolrl grpo` in this process."""
    from toolrl_cli.cli import app

    words = ["grpo", data, "--model", model, "-o", folder, "--max-steps", steps, "--save-steps", 1000]
    words += ["--batch-size", 2 * SIZE, "--micro-batch-size", SIZE, "--num-generations", SIZE]
    words += ["--max-completion-length", NEW, "--set", f"generation_kwargs={{min_new_tokens: {NEW}}}"]
    words += ["--set", f"entropy_coef={ENTROPY_COEF}", *SENTINELS_OFF]
    app(list(map(str, words)), standalone_mode=False)


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


SIDES = {"toolrl grpo": train_with_toolrl, "plain script": train_plainly}


if __name__ == "__main__":
    main()
