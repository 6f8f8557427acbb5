"""What a GRPO run will be like, told by a few of its own completions before it begins."""

from __future__ import annotations

import copy
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import comb, isnan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback

from toolrl_cli.console import log
from toolrl_cli.errors import GateFailed
from toolrl_cli.jsonl import write_json
from toolrl_cli.records import Json
from toolrl_cli.scoring.groups import Groups
from toolrl_cli.scoring.tally import Tally
from toolrl_cli.training.adapters import starting_point
from toolrl_cli.training.completions import Recorder, Sampled
from toolrl_cli.training.launch import gather_rows, planned_processes
from toolrl_cli.training.memory import peak_memory
from toolrl_cli.training.models import resolve_model
from toolrl_cli.training.run import PREFLIGHT_FILE, construct, prepare
from toolrl_cli.training.shared_prefix import select_rows

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from toolrl_cli.training.config import GrpoConfig
    from toolrl_cli.training.run import Materials

PROMPTS = 32
"""Prompts that are sampled, at most."""
GROUP_SIZES = (2, 4, 8, 16, 32)
ENOUGH = 0.9
"""A group size is large enough when this share of the prompts that have signal at all shows it."""
MOST_WITHOUT_SIGNAL = 0.9
"""A run with a larger share of groups without signal is refused."""
BARS = " ▁▂▃▄▅▆▇█"
DECIMALS = 6
"""Rewards that agree so far are equal."""
KEPT = (
    "_metrics",
    "_logs",
    "num_generations",
    "rounds",
    "entropy_coef",
    "_last_world_entropy",
    "_entropy_window_stats",
)
"""What sampling and a loss change in TRL's trainer."""


@dataclass(frozen=True)
class Cost:
    """What the sample took on a process.

    `seconds` and `tokens` are those of generating and scoring the `completions`; `training` is the
    seconds of a forward and backward for one of them, None where that is not measured; `memory` the
    bytes at the peak, None where nobody counts.
    """

    seconds: float
    completions: int
    tokens: int
    training: float | None
    memory: int | None


class Rehearsed(Exception):
    """Ends a training that was begun for its preflight alone."""

    def __init__(self, report: Json) -> None:
        self.report = report
        super().__init__()


class Preflight(TrainerCallback):
    """Samples before the first step, reports, and refuses a run without signal.

    The trainer is wrapped and on its device by then, so that all is generated as in the run. Nothing
    of the training changes: its random stream, its counters and its logs are put back.
    """

    def __init__(self, trainer: Any, recorder: Recorder, config: GrpoConfig) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._config = config

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report, and keep the report in the run folder; a resumed run has begun already.

        Raises:
            GateFailed: too many groups have no signal, and `force` is not given.
            Rehearsed: it is a dry run.
        """
        if state.global_step:
            return
        report = self._measure(state.max_steps)
        if self._config.dry_run:
            raise Rehearsed(report)
        if state.is_world_process_zero:
            log("\n".join(report_lines(report)))
            write_json(self._config.output / PREFLIGHT_FILE, report)
        require_signal(report, self._config)

    def _measure(self, steps: int) -> Json:
        trainer, config = self._trainer, self._config
        assert config.preflight
        with training_untouched(trainer, config.preflight, config.seed), self._recorder.aside() as sampled:
            cost, values = sample_prompts(trainer, config.preflight, config.seed)
        report = describe_rewards(gather_rows(sampled), gather_rows(values), config)
        rounds = 1 + config.resample_rounds * config.drop_flat_groups
        again = sampled_share(report["no_signal"], rounds)
        return report | {"cost": describe_cost(cost, trainer, steps, again, planned_processes(config))}


@contextmanager
def training_untouched(trainer: Any, samples: int, seed: int) -> Iterator[None]:
    """Let a block generate groups of `samples` with a seed of its own, and put back what that changes."""
    import numpy as np

    device, process = trainer.accelerator.device, trainer.accelerator.process_index
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in KEPT if hasattr(trainer, name)}
    streams, seen = (random.getstate(), np.random.get_state()), trainer.state.num_input_tokens_seen
    trainer.num_generations, trainer.rounds = samples, 0
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.model.train()
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed + process)
        yield
    random.setstate(streams[0])
    np.random.set_state(streams[1])
    trainer.state.num_input_tokens_seen = seen
    for name, value in kept.items():
        setattr(trainer, name, value)


def sample_prompts(trainer: Any, samples: int, seed: int) -> tuple[Cost, list[Hashable]]:
    """Generate and score completions of some prompts, in batches of the run's size.

    Returns: what that took, and for each completion of this process what its advantage is made of.
    """
    data, world = trainer.train_dataset, trainer.accelerator.num_processes
    order = random.Random(seed).sample(range(len(data)), len(data))
    count = max(1, min(PROMPTS, len(data)) // world)
    own = [order[place % len(order)] for place in range(trainer.accelerator.process_index, count * world, world)]
    size = max(1, trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation // samples)
    start, tokens, batch = time.perf_counter(), 0.0, {}
    values: list[Hashable] = []
    for first in range(0, count, size):
        rows = [data[index] for index in own[first : first + size] for _ in range(samples)]
        batch = trainer._generate_and_score_completions(rows)
        tokens += trainer._metrics["train"]["completions/mean_length"][-1] * len(rows)
        values += advantage_values(trainer, len(rows))
    seconds = time.perf_counter() - start
    training = None if trainer.is_deepspeed_enabled else time_micro_batch(trainer, batch)
    memory = peak_memory(trainer.accelerator.device)
    return Cost(seconds, count * samples, round(tokens), training, memory), values


def advantage_values(trainer: Any, rows: int) -> list[Hashable]:
    """What must differ within a group for an advantage: the total of each completion scored last, or all its parts."""
    own = trainer.scored[rows * trainer.accelerator.process_index :][:rows]
    weighed = own * trainer.reward_weights.to(own.device)
    if trainer.multi_objective_aggregation == "sum_then_normalize":
        weighed = weighed.nansum(dim=1, keepdim=True)
    return [tuple(None if isnan(value) else round(value, DECIMALS) for value in row) for row in weighed.tolist()]


def time_micro_batch(trainer: Any, batch: Json) -> float:
    """Seconds that a completion takes in a forward and backward of a micro-batch; the gradients are thrown away."""
    rows: int = min(trainer.args.per_device_train_batch_size, len(batch["completion_ids"]))
    micro = select_rows(batch, torch.arange(rows))
    micro["advantages"] = torch.ones_like(micro["advantages"])  # without any, a backward may be spared
    seconds: list[float] = []
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model_wrapped, micro)
        trainer.accelerator.backward(loss)
        trainer.model_wrapped.zero_grad()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds) / rows


def describe_rewards(rows: Sequence[Sampled], values: Sequence[Hashable], config: GrpoConfig) -> Json:
    """What the rewards of the sampled groups say of the run.

    Args:
        rows: groups of `config.preflight` completions, one after the other.
        values: for each completion what its advantage is made of.
        config: of the run.
    """
    samples = config.preflight or 1
    starts = range(0, len(rows), samples)
    groups = [rows[first : first + samples] for first in starts]
    worth = [values[first : first + samples] for first in starts]
    sizes = (*GROUP_SIZES, config.num_generations)
    flat = {size: fmean(flat_chance(group, size) for group in worth) for size in sizes}
    signal = {size: 1 - flat[size] for size in GROUP_SIZES}
    tally, seen = Tally(tuple(rows[0].score.parts)), Groups()
    for place, group in enumerate(groups):
        seen.add((b"%d" % place, row.score.total, row.score.succeeds) for row in group)
        for row in group:
            tally.add(row.score)
    return {
        "prompts": len(groups),
        "samples": samples,
        "seed": config.seed,
        "group_size": config.num_generations,
        "no_signal": round(flat[config.num_generations], 4),
        "signal_by_group_size": {str(size): round(share, 4) for size, share in signal.items() if size <= samples},
        "suggested_group_size": suggest_group_size(signal, samples),
        "truncated": round(fmean(row.rollout.truncated for row in rows), 4),
        "rewards": {name: value for name, value in tally.to_json().items() if name != "malformed_rows"},
        "histograms": {name: tally.histogram(name) for name in tally.names()},
        "groups": seen.to_json(),
    }


def flat_chance(values: Sequence[Hashable], size: int) -> float:
    """The chance that `size` completions of a prompt earn the same, from the values of n sampled ones.

    The share of the subsets of the sample whose values are all equal: the sum of C(c, size) / C(n, size) over the
    values with their counts c, without bias as pass@k is (Chen et al. 2021, arXiv 2107.03374). Larger groups than the
    sample are flat at most as often as the sample itself, which is what stands for them.
    """
    n = len(values)
    size = min(size, n)
    return sum(comb(count, size) for count in Counter(values).values()) / comb(n, size)


def suggest_group_size(signal: dict[int, float], samples: int) -> int | None:
    """The smallest group size that shows nine tenths of the signal that all samples show; None where they show none.

    Args:
        signal: the share of groups with signal by their size.
        samples: completions of a prompt; what larger groups show is not known.
    """
    most = signal[GROUP_SIZES[-1]]
    enough = (size for size in GROUP_SIZES if size >= samples or signal[size] >= ENOUGH * most)
    return next(enough, GROUP_SIZES[-1]) if most else None


def sampled_share(no_signal: float, rounds: int) -> float:
    """Groups that are sampled for one that a step takes: each round replaces the flat groups of the one before."""
    return sum(no_signal**done for done in range(rounds))


def describe_cost(cost: Cost, trainer: Any, steps: int, sampled: float, processes: int) -> Json:
    """What a step and the run will take at the pace of the sample.

    Args:
        cost: what the sample took.
        trainer: of the run.
        steps: optimizer steps of the run.
        sampled: groups that are sampled for one that a step takes.
        processes: that the run will have, of which the sample, in a dry run, had one.
    """
    share = processes // trainer.accelerator.num_processes
    rows = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps / share
    generation = cost.seconds / cost.completions * rows / trainer.num_iterations * sampled
    training = None if cost.training is None else cost.training * rows
    return {
        "sampling_seconds": round(cost.seconds, 2),
        "mean_length": round(cost.tokens / cost.completions, 1),
        "tokens_per_second": round(processes * cost.tokens / cost.seconds, 1),
        "generation_seconds_per_step": round(generation, 3),
        "training_seconds_per_step": None if training is None else round(training, 3),
        "steps": steps,
        "hours": round((generation + (training or 0.0)) * steps / 3600, 4),
        "peak_memory_gib": None if cost.memory is None else round(cost.memory / 2**30, 2),
    }


def require_signal(report: Json, config: GrpoConfig) -> None:
    """Raise `GateFailed` when hardly a group would have any signal and the run is not forced."""
    if config.force or report["no_signal"] <= MOST_WITHOUT_SIGNAL:
        return
    size, samples = report["group_size"], report["samples"]
    bound = f"as far as {samples} completions tell, up to " if size > samples else ""
    raise GateFailed(
        f"preflight: {bound}{report['no_signal']:.0%} of the groups of {size} would have no signal, over "
        f"{MOST_WITHOUT_SIGNAL:.0%}; begin from a model after sft, or change the data, --reward or --temperature; "
        "--force trains anyway"
    )


def rehearse(config: GrpoConfig, arguments: Any, build_trainer: Callable[[Materials], Trainer]) -> Json:
    """The report of the preflight of a run that is not to begin; leaves nothing on disk.

    Raises:
        ConfigError: the trainer refuses an argument or the data.
        SetupError: the model cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="toolrl-") as folder:
        arguments.output_dir, arguments.report_to = folder, []
        elsewhere, source = replace(config, output=Path(folder)), resolve_model(config.model)
        materials = prepare(elsewhere, source, starting_point(elsewhere, source), lambda: None)
        trainer = construct(build_trainer, materials, elsewhere)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except Rehearsed as end:
            return end.report
    raise AssertionError("a training began without its preflight")


def report_lines(report: Json) -> Iterator[str]:
    """The report for a person."""
    size, suggested, cost = report["group_size"], report["suggested_group_size"], report["cost"]
    yield (
        f"preflight: {report['prompts']} prompts, {report['samples']} completions each, "
        f"in {cost['sampling_seconds']:.1f} s"
    )
    for name, histogram in report["histograms"].items():
        yield f"  {name:<12} mean {report['rewards']['mean'][name]:6.3f}  {sparkline(histogram)}"
    outcomes = [f"{name} {count}" for name, count in report["rewards"]["outcomes"].items() if count]
    yield f"  outcomes: {', '.join(outcomes)}; cut off {report['truncated']:.0%}"
    yield "  " + ", ".join(f"pass@{k} {value:.2f}" for k, value in report["groups"]["pass_at"].items())
    bound = "at most " if size > report["samples"] else ""
    yield f"  groups of {size} without signal: {bound}{report['no_signal']:.0%}"
    shares = ", ".join(f"{k}: {share:.0%}" for k, share in report["signal_by_group_size"].items())
    yield f"  with signal by group size: {shares}; suggested: {suggested or 'none, no prompt has any'}"
    training = cost["training_seconds_per_step"]
    yield (
        f"  {cost['mean_length']:g} tokens a completion, {cost['tokens_per_second']:g} generated a second; a step: "
        f"{cost['generation_seconds_per_step']:.1f} s generation, "
        + ("training not measured" if training is None else f"{training:.1f} s training")
    )
    memory = cost["peak_memory_gib"]
    yield (
        f"  {cost['steps']} steps: about {cost['hours']:.2f} hours"
        + (" of generation alone" if training is None else "")
        + ("" if memory is None else f"; peak memory {memory:g} GiB before the first optimizer step")
    )


def sparkline(histogram: Json) -> str:
    """The counts of a histogram as bars between its lowest and highest value."""
    counts, edges = histogram["counts"], histogram["edges"]
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // max(counts))] for count in counts)
    return f"{edges[0]:g} {bars} {edges[-1]:g}"
