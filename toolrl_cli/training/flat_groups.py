"""Groups without variance are replaced before they are trained on: DAPO's dynamic sampling (arXiv 2503.14476, 3.2).

A group whose rewards are all equal has no advantage anywhere, hence no gradient. The first round of
a step is what it is without this filter. As long as groups without signal are among it, further
rounds sample other prompts, as many groups as are missing, and the step trains on the first groups
with signal; flat ones fill what the last round leaves open. Which prompts come is decided by the
seed and the step, so that a resumed run draws the same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import torch

from toolrl_cli.errors import ConfigError
from toolrl_cli.training.completions import Recorder
from toolrl_cli.training.launch import gather_rows
from toolrl_cli.training.prompts import WrittenPromptsGRPOTrainer

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
Place = tuple[int, int]
"""A group of one process: its round and its position there."""
SMALLEST_DIFFERENCE = 1e-6
"""Rewards that differ by less are equal: the same parts, summed in another order, in float32."""


@dataclass(frozen=True)
class Round:
    """What one round sampled.

    `rows` and the lists of `generated` (token ids of prompts and completions, completions, their
    log-probabilities or None) are this process's, `rewards` (processes, rows, functions) those of all.
    """

    rows: Sequence[Row]
    generated: tuple[Sequence[Any] | None, ...]
    rewards: Tensor


class FlatGroupFilter(WrittenPromptsGRPOTrainer):
    """The trainer with DAPO's filter.

    `scored` holds the rewards of the batch that was scored last, of all processes (processes * rows, functions).

    Args:
        recorder: told which of the scored completions were dropped.
        rounds: further rounds in a step, at most; with 0 nothing is filtered.

    Raises:
        ConfigError: a group is split between processes.
    """

    _pending_metrics: dict[str, list[float]]
    scored: Tensor

    def __init__(self, *args: Any, recorder: Recorder, rounds: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rounds = rounds
        self._recorder = recorder
        self._replay: tuple[Any, Tensor] | None = None
        rows = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if rounds and rows % self.num_generations:
            raise ConfigError(
                f"--drop-flat-groups: the {rows} completions of a process are no whole groups of "
                f"{self.num_generations}; raise --batch-size, or lower --num-generations or the number of processes"
            )

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """TRL's batch, made of the groups that were chosen."""
        if not self.rounds or not self.model.training:
            return dict(super()._generate_and_score_completions(inputs))
        with self._recorder.aside() as sampled:
            rounds = self._sample_rounds(inputs)
        size = len(inputs) // self.num_generations
        signal = [self._has_signal(made.rewards) for made in rounds]
        chosen = [choose_groups([found[rank] for found in signal], size) for rank in range(len(signal[0]))]
        own = chosen[self.accelerator.process_index]
        kept = set(self._positions(rounds, own))
        self._recorder.pass_on([row._replace(dropped=i not in kept) for i, row in enumerate(sampled)])
        self._pending_extra_logs.clear()  # columns of all rounds, which fit no table of the chosen rows
        self._replay = self._merge(rounds, own), self._merge_rewards(rounds, chosen)
        try:
            batch = super()._generate_and_score_completions([row for place in own for row in self._rows(rounds, place)])
        finally:
            self._replay = None
        self._log_rounds(rounds, signal, size)
        return dict(batch)

    def _generate(self, prompts: list[Any]) -> Any:
        return self._replay[0] if self._replay else super()._generate(prompts)

    def _calculate_rewards(self, *args: Any) -> Tensor:
        if self._replay:
            return self._replay[1]
        self.scored = super()._calculate_rewards(*args)
        return self.scored

    def _sample_rounds(self, inputs: list[Row]) -> list[Round]:
        """Rounds until every process has a batch of groups with signal, or the last round."""
        rounds = [self._sample(inputs)]
        further = self._further_prompts(inputs)
        while len(rounds) <= self.rounds:
            found = torch.stack([self._has_signal(made.rewards).sum(dim=1) for made in rounds]).sum(dim=0)
            missing = len(inputs) // self.num_generations - int(found.min())
            if missing <= 0:
                break
            world, rank = self.accelerator.num_processes, self.accelerator.process_index
            drawn = list(islice(further, missing * world))[rank * missing : (rank + 1) * missing]
            rows = [self.train_dataset[index] for index in drawn for _ in range(self.num_generations)]
            with self._metrics_aside():
                rounds.append(self._sample(rows))
        return rounds

    def _sample(self, rows: Sequence[Row]) -> Round:
        """Generate and score the rows of this process."""
        prompts = [row["prompt"] for row in rows]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(rows, prompts, completions, completion_ids)
        return Round(
            rows,
            (prompt_ids, completion_ids, completions, logprobs),
            rewards.view(self.accelerator.num_processes, len(rows), -1),
        )

    def _further_prompts(self, inputs: list[Row]) -> Iterator[int]:
        """Examples that are not in the batch of any process, in an order that the seed and the step decide."""
        taken = set(gather_rows([row["id"] for row in inputs]))
        others = [index for index, id in enumerate(self.train_dataset["id"]) if id not in taken]
        order = others or list(range(len(self.train_dataset)))
        part = self._step % self.args.gradient_accumulation_steps
        random.Random(f"{self.args.seed} {self.state.global_step} {part}").shuffle(order)
        return cycle(order)

    @contextmanager
    def _metrics_aside(self) -> Iterator[None]:
        """Leave out what is logged in the block, so that lengths and the like tell of the first, unchosen round."""
        metrics, pending = self._metrics["train"], self._pending_metrics
        self._metrics["train"], self._pending_metrics = defaultdict(list), defaultdict(list)
        yield
        self._metrics["train"], self._pending_metrics = metrics, pending
        metrics["num_tokens"] = [self.state.num_input_tokens_seen]

    def _has_signal(self, rewards: Tensor) -> Tensor:
        """Whether completions of a group differ in what the advantages are made of (processes, groups)."""
        weighed = rewards * self.reward_weights.to(rewards.device)
        if self.multi_objective_aggregation == "sum_then_normalize":
            unscored = rewards.isnan().all(dim=-1, keepdim=True)
            weighed = weighed.nansum(dim=-1, keepdim=True).masked_fill(unscored, torch.nan)
        groups = weighed.unflatten(1, (-1, self.num_generations))
        highest = groups.nan_to_num(-torch.inf).amax(dim=2)
        lowest = groups.nan_to_num(torch.inf).amin(dim=2)
        return (highest - lowest > SMALLEST_DIFFERENCE).any(dim=-1)

    def _rows(self, rounds: Sequence[Round], place: Place) -> Sequence[Row]:
        rows: Sequence[Row] = self._group(rounds[place[0]].rows, place)
        return rows

    def _group(self, values: Any, place: Place) -> Any:
        """The values of a group among those of its round."""
        return values[place[1] * self.num_generations : (place[1] + 1) * self.num_generations]

    def _positions(self, rounds: Sequence[Round], places: Sequence[Place]) -> Iterator[int]:
        """Where the completions of groups stand among all that this process sampled, round after round."""
        for made, group in places:
            start = sum(len(earlier.rows) for earlier in rounds[:made]) + group * self.num_generations
            yield from range(start, start + self.num_generations)

    def _merge(self, rounds: Sequence[Round], places: Sequence[Place]) -> tuple[Any, ...]:
        """What TRL's `_generate` returns, for the groups that were chosen."""
        prompt_ids, completion_ids, completions, logprobs = (
            None
            if rounds[0].generated[i] is None
            else [value for place in places for value in self._group(rounds[place[0]].generated[i], place)]
            for i in range(4)
        )
        return prompt_ids, completion_ids, None, completions, logprobs, {}, None, []

    def _merge_rewards(self, rounds: Sequence[Round], chosen: Sequence[Sequence[Place]]) -> Tensor:
        """The rewards of the groups that each process chose (processes * rows, functions)."""
        return torch.cat(
            [
                self._group(rounds[place[0]].rewards[rank], place)
                for rank, places in enumerate(chosen)
                for place in places
            ]
        )

    def _log_rounds(self, rounds: Sequence[Round], signal: Sequence[Tensor], size: int) -> None:
        """Log how much was dropped, and reward and zero-variance share as they were before anything was."""
        metrics = self._metrics["train"]
        first = (rounds[0].rewards * self.reward_weights.to(rounds[0].rewards.device)).nansum(dim=-1)
        sampled = sum(found.shape[1] for found in signal)
        metrics["flat_groups/rounds"].append(len(rounds))
        metrics["flat_groups/dropped"].append(1 - size / sampled)
        metrics["unfiltered/reward"].append(first.mean().item())
        metrics["unfiltered/frac_reward_zero_std"].append(1 - signal[0].float().mean().item())


def choose_groups(signal: Sequence[Tensor], size: int) -> list[Place]:
    """The first `size` groups with signal of a process, in the order of their rounds, then the first without.

    Args:
        signal: for each round whether its groups have any (groups,).
        size: groups of a batch.
    """
    places = [(made, group) for made, found in enumerate(signal) for group in range(len(found))]
    return sorted(places, key=lambda place: not signal[place[0]][place[1]])[:size]
