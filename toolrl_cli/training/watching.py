"""Watching a run: a line a step, and samples of the completions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from toolrl_cli.console import log_beside, print_sections, progress_bar
from toolrl_cli.records import Example, Json
from toolrl_cli.training.completions import Sampled, Sink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerControl, TrainerState, TrainingArguments

NUMBERS = {
    "mean_token_accuracy": "accuracy {:.1%}",
    "exact": "exact {:.0%}",
    "completions/mean_length": "length {:.0f}",
    "frac_reward_zero_std": "flat {:.0%}",
    "flat_groups/dropped": "dropped {:.0%}",
}
"""How other numbers are shown, in the order of the line."""
PROMPT_TAIL = 400
"""Characters of a prompt's end that a sample shows."""


class Progress(TrainerCallback):
    """A line a step with what it logged, in a terminal above a bar over all steps; `closing` takes the bar away."""

    def __init__(self, description: str, closing: ExitStack) -> None:
        self._description = description
        self._closing = closing

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run stands."""
        self._bar = self._closing.enter_context(progress_bar())
        self._task = self._bar.add_task(self._description, total=state.max_steps, completed=state.global_step, note="")
        self._start = self._last = time.perf_counter()
        self._first_step = state.global_step
        self._tokens: float | None = None if state.global_step else 0.0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Json, **kwargs: Any
    ) -> None:
        """Show what a step logged; the summary after the last one is left out."""
        if "train_runtime" in logs or not state.is_world_process_zero:
            return
        self._bar.update(self._task, completed=state.global_step)
        place = f"{self._description}: step {state.global_step}/{state.max_steps}"
        log_beside(self._bar, "  ".join([place, *describe_step(logs), *self._speed(logs), *self._left(state)]))

    def _speed(self, logs: Json) -> Iterator[str]:
        """Tokens of prompts and completions a second since the last line."""
        now, tokens, before = time.perf_counter(), logs.get("num_tokens"), self._tokens
        if tokens is not None and before is not None:
            yield f"{(tokens - before) / (now - self._last):.0f} tokens/s"
        self._last, self._tokens = now, tokens

    def _left(self, state: TrainerState) -> Iterator[str]:
        """The time left at the mean pace of this process."""
        done = state.global_step - self._first_step
        if done and state.global_step < state.max_steps:
            pace = (time.perf_counter() - self._start) / done
            yield f"{timedelta(seconds=round(pace * (state.max_steps - state.global_step)))} left"


def describe_step(logs: Json) -> Iterator[str]:
    """The numbers of a step that a person follows: the reward with its parts, else the loss, and what goes with it."""
    if logs.get("reward") is not None:
        parts = [f"{name} {value:.2f}" for name, value in part_means(logs).items()]
        yield f"reward {logs['reward']:.3f}" + (f" ({', '.join(parts)})" if parts else "")
    elif isinstance(logs.get("loss"), float):
        yield f"loss {logs['loss']:.3f}"
    yield from (form.format(logs[name]) for name, form in NUMBERS.items() if isinstance(logs.get(name), float))


def part_means(logs: Json) -> dict[str, float]:
    """The mean of each reward part that a step logged."""
    return {
        name.split("/")[1]: value
        for name, value in logs.items()
        if name.startswith("rewards/") and name.endswith("/mean") and value is not None
    }


def show_samples(examples: Sequence[Example], every: int) -> Sink:
    """A function that, every so many steps, prints the best and the worst completion that the step scored first."""
    prompts = {example.id: str(example.messages[-1].get("content") or "") for example in examples}
    shown = -1

    def show(rows: Sequence[Sampled]) -> None:
        nonlocal shown
        step = rows[0].rollout.step
        if step % every or step == shown:
            return
        shown = step
        for name, row in best_and_worst(rows).items():
            print_sections(f"step {step}: {name} of {len(rows)}, {row.id}", describe_sample(row, prompts), stderr=True)

    return show


def best_and_worst(rows: Sequence[Sampled]) -> dict[str, Sampled]:
    """The first completions of the highest and of the lowest total; one where all are equal."""
    best, worst = (pick(rows, key=lambda row: row.score.total) for pick in (max, min))
    return {"best": best, "worst": worst} if best.score.total > worst.score.total else {"all equal, the first": best}


def describe_sample(row: Sampled, prompts: Mapping[str, str]) -> list[dict[str, str]]:
    """A scored completion as named texts: the end of its prompt, itself, its score and why."""
    prompt, score = prompts[row.id], row.score
    parts = [f"{name} {value:g}" for name, value in score.parts.items() if value is not None]
    total = f"{score.total:g} ({', '.join(parts)}), {score.outcome.value}" + (", dropped" if row.dropped else "")
    cut = " [cut off]" if row.rollout.truncated else ""
    return [
        {"prompt": ("..." if len(prompt) > PROMPT_TAIL else "") + prompt[-PROMPT_TAIL:]},
        {"completion": row.rollout.text + cut, f"reward {total}": "\n".join(score.reasons) or "no fault found"},
    ]
