"""What `toolrl grpo` adds to a plain TRL script that does the same work.

    python benchmarks/overhead.py ROWS.jsonl [--rounds 3] [--steps 12]

Both are processes of their own, by turns: the same model, prompts, seed and trainer, the same number
of steps and completions. The plain script's reward is a number made of the tokens and it logs nothing;
`toolrl grpo` scores by the ToolRL reward and writes metrics, completions and the run folder. A step is
the time from its beginning to that of the next one, so that rewards, callbacks and logs are in it. The
rest of the process goes from start-up to the files of the finished run; the first and the last step
count to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe_machine, show_spread

SIZE, NEW = 4, 48
ENTROPY_COEF = 1e-6
"""Above 0, so that a backward is computed on both sides whatever the rewards are."""
SIDES = ("toolrl grpo", "plain script")


def main() -> None:
    """Measure pairs by turns and print their ratio; with `--measure`, one side of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    print(describe_machine())
    steps: dict[str, list[float]] = {side: [] for side in SIDES}
    rest: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples = folder / "examples.jsonl"
        prepare = [sys.executable, "-m", "toolrl_cli", "prepare", options.rows, "-o", examples]
        subprocess.run(prepare, check=True, capture_output=True)
        for number in range(options.rounds):
            for side in SIDES if number % 2 else reversed(SIDES):
                common = [examples, "--model", options.model, "--steps", options.steps]
                whole, durations = run(*common, "--measure", side, "--output", folder / f"{number}-{side}")
                steps[side].append(median(durations))
                rest[side].append(whole - sum(durations))
    print(f"{options.steps} steps of 2 prompts, G={SIZE}, {NEW} new, median of {options.rounds} pairs (range)")
    for name, seconds in (("a step", steps), ("the rest", rest)):
        for side in SIDES:
            print(f"{name:<9} {side:<13} {show_spread(seconds[side])} s")
    added = [100 * (ours / plain - 1) for ours, plain in zip(*steps.values(), strict=True)]
    print(f"added to a step {show_spread(added)}%")


def run(*words: object) -> tuple[float, list[float]]:
    """Seconds of one side's process, and of its steps but the first and the last."""
    start = time.perf_counter()
    output = subprocess.run([sys.executable, __file__, *map(str, words)], check=True, capture_output=True).stdout
    return time.perf_counter() - start, json.loads(output.splitlines()[-1])


def measure(options: argparse.Namespace) -> list[float]:
    """Seconds of each step but the first and the last, which no other follows."""
    from transformers import Trainer

    begins: list[float] = []
    original = Trainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._step % self.args.gradient_accumulation_steps:
            begins.append(time.perf_counter())
        return original(self, *args, **kwargs)

    Trainer.training_step = training_step
    train = train_with_toolrl if options.measure == SIDES[0] else train_plainly
    train(options.rows, options.model, options.steps, options.output)
    return [after - before for before, after in pairwise(begins[1:])]


def train_with_toolrl(data: Path, model: str, steps: int, folder: Path) -> None:
    """`toolrl grpo` in this process."""
    from toolrl_cli.cli import app

    words = ["grpo", data, "--model", model, "-o", folder, "--max-steps", steps, "--save-steps", 1000]
    words += ["--batch-size", 2 * SIZE, "--micro-batch-size", SIZE, "--num-generations", SIZE]
    words += ["--max-completion-length", NEW, "--set", f"generation_kwargs={{min_new_tokens: {NEW}}}"]
    words += ["--set", f"entropy_coef={ENTROPY_COEF}"]
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


if __name__ == "__main__":
    main()
