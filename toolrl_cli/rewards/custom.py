"""A reward that the user wrote: a function with TRL's reward signature."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from toolrl_cli.errors import ConfigError, DataError, FormatError, first_line
from toolrl_cli.formats import stock_format
from toolrl_cli.jsonl import dump_json
from toolrl_cli.records import Rollout, Score, Target
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import LARGEST

Function = Callable[..., Sequence[float | None]]


@dataclass(frozen=True)
class FunctionReward:
    """A reward function of TRL's signature, called with one batch at a time.

    It gets `completions` (one assistant message each) and the columns `target` (JSON text),
    `ground_truth` (the gold as text in the format of the completions), `tools` (JSON text) and those of the rows,
    beside `prompts`, `completion_ids`, `trainer_state`, `log_metric` and `log_extra` as TRL names them.
    Outcome and reasons are those of `judge`.
    """

    name: str
    function: Function
    judge: SpecReward

    reads_tools = True

    @property
    def digest(self) -> str:
        """Hash of the module's source and the function's name; a run records it."""
        try:
            source = Path(inspect.getfile(inspect.unwrap(self.function))).read_bytes()
        except (OSError, TypeError):
            source = b""
        return hashlib.sha256(source + self.name.rpartition(":")[2].encode()).hexdigest()[:16]

    @property
    def weights(self) -> dict[str, float]:
        """Its one part, named after the function."""
        return {self.name.rpartition(":")[2]: 1.0}

    def full_format(self, step: int) -> None:
        """A function does not tell how it judges the format."""

    def applies(self, part: str, target: Target) -> bool:
        """The function itself says where it does not apply, by returning None."""
        return True

    def score_batch(self, rollouts: Sequence[Rollout], *, explain: bool = True) -> list[Score]:
        """Score a batch; None, where the reward does not apply, adds nothing to the total.

        Raises:
            DataError: the function raises, or returns something else than one number up to `LARGEST` in size, or None,
                a completion.
        """
        (part,) = self.weights
        values = self.call(rollouts)
        judged = self.judge.score_batch(rollouts, explain=explain)
        return [
            Score(value or 0.0, {part: value}, score.outcome, score.reasons)
            for value, score in zip(values, judged, strict=True)
        ]

    def score(self, rollout: Rollout, *, explain: bool = True) -> Score:
        """Score one completion; see `score_batch`."""
        return self.score_batch([rollout], explain=explain)[0]

    def call(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """What the function returns; raise `DataError` as `score_batch` does."""
        arguments = trl_arguments(rollouts)
        try:
            with redirect_stdout(sys.stderr):
                returned = self.function(**arguments)
        except (Exception, SystemExit) as error:
            raise DataError(f"reward {self.name} raises {type(error).__name__}: {first_line(error)}") from error
        values = read_rewards(returned)
        if values is None or len(values) != len(rollouts):
            raise DataError(
                f"reward {self.name}: must return a list of one number up to {LARGEST:g} in size, or None, "
                f"for each completion, not {' '.join(repr(returned).split())[:60]}"
            )
        return values


def read_rewards(returned: Any) -> list[float | None] | None:
    """The numbers of a list, or of an array or a tensor of any library; None when something in it is no reward."""
    if not isinstance(returned, (list, tuple)) and not hasattr(returned, "tolist"):
        return None
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        return [None if value is None else read_reward(value) for value in returned]
    return None


def read_reward(value: Any) -> float:
    """A number of any library as a float; raise `ValueError`, or what the library raises, for anything else."""
    number = math.nan if isinstance(value, (str, bytes)) else float(value)
    if not abs(number) <= LARGEST:
        raise ValueError
    return number


def trl_arguments(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The keyword arguments that TRL's GRPOTrainer would call a reward function with.

    A column that a row has not is None there, and so is a gold that its text format cannot express.
    """
    columns = {name for rollout in rollouts for name in rollout.fields} - {"prompt", "completion"}
    return {
        **{name: [rollout.fields.get(name) for rollout in rollouts] for name in sorted(columns)},
        "prompts": [rollout.fields.get("prompt") or [] for rollout in rollouts],
        "completions": [[{"role": "assistant", "content": rollout.text}] for rollout in rollouts],
        "completion_ids": [rollout.fields.get("completion_ids") or [] for rollout in rollouts],
        "target": [dump_json(rollout.target.to_json()) for rollout in rollouts],
        "ground_truth": [render_gold(rollout) for rollout in rollouts],
        "tools": [dump_json(list(rollout.tools)) for rollout in rollouts],
        "trainer_state": SimpleNamespace(global_step=max((rollout.step for rollout in rollouts), default=0)),
        "log_metric": lambda name, value: None,
        "log_extra": lambda name, values: None,
    }


def render_gold(rollout: Rollout) -> str | None:
    """The text of the gold, None where the text format cannot express it."""
    with suppress(FormatError):
        return stock_format(rollout.text_format).render_target(rollout.target)
    return None


def load_function(reference: str) -> Function:
    """The function that `module:function` or `file.py:function` names.

    Raises:
        ConfigError: there is no such module or function, importing it fails, or the function is async.
    """
    place, _, name = reference.rpartition(":")
    load = partial(load_file, Path(place)) if place.endswith(".py") else partial(load_module, place)
    module = import_quietly(load, reference)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{reference}: {place} has no function {name!r}")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{reference}: is an async function; a reward must be one that returns its numbers (def)")
    return function  # type: ignore[no-any-return]


def import_quietly(load: Callable[[], ModuleType], named: str) -> ModuleType:
    """A module of the user's, whose output goes to stderr; raise `ConfigError` that begins as named when it fails."""
    try:
        with redirect_stdout(sys.stderr):
            return load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{named}: cannot be imported ({type(error).__name__}: {first_line(error)})") from error


def load_file(path: Path) -> ModuleType:
    """A Python file as a module."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    name = f"toolrl_file_{path.stem}"  # beside the modules of other packages, one of which may have the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up the types of their fields
    spec.loader.exec_module(module)
    return module


def load_module(name: str) -> ModuleType:
    """An importable module; the working folder counts, as with `python -m`."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)
