"""A reward as data: parts with bounds and weights, read from YAML and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib.resources import files
from math import floor
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from toolrl_cli.errors import ConfigError, UsageError, nearest
from toolrl_cli.jsonl import read_yaml
from toolrl_cli.records import Json
from toolrl_cli.rewards.schedules import LAST_STEP, WRITTEN_FOR, Ramp, Scheduled, Switch, stretch, value_at

R = TypeVar("R")
PRESETS = (
    "fine-grained",
    "length",
    "dynamic-length",
    "equal-max",
    "two-stage",
    "dynamic",
    "fine-grained-strict",
    "intermediate",
    "coarse",
    "robust",
)
LARGEST = 1e9
Matching = Literal["optimal", "greedy"]
Credit = Literal["fine-grained", "strict", "intermediate", "coarse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What every part has: the number for nothing right, for all right, and its weight in the total."""

    low: Scheduled = 0.0
    high: Scheduled = 1.0
    weight: float = 1.0

    def bounds(self, step: int) -> tuple[float, float]:
        """The lowest and the highest value at a training step."""
        return value_at(self.low, step), value_at(self.high, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatPart(Part):
    """Whether the text has the blocks of the gold, each in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectnessPart(Part):
    """How far the calls agree with the gold calls.

    `credit` says what a pair of calls earns, `matching` how pairs are made, `values` whether
    arguments are equal as Python finds decoded JSON equal or by the types of the tool's schema,
    `surplus` whether surplus calls lower the credit for names only or scale all credit, and
    `no_call` whether an example without gold calls is worth 0 always or is judged.
    """

    low: Scheduled = -3.0
    high: Scheduled = 3.0
    matching: Matching = "optimal"
    credit: Credit = "fine-grained"
    values: Literal["python", "schema"] = "python"
    surplus: Literal["names", "scaled"] = "names"
    no_call: Literal["zero", "judged"] = "zero"


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPart(Part):
    """How long the thought is; `words` earn all."""

    words: Scheduled = 512.0


@dataclass(frozen=True, kw_only=True)
class RewardSpec:
    """A reward: which parts it has, and how a completion is read.

    `reading` is that of ToolRL's released code, or a lenient one (see `reading`).
    """

    name: str
    reading: Literal["released", "lenient"] = "released"
    format: FormatPart | None = None
    correctness: CorrectnessPart | None = None
    length: LengthPart | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts it has, by name."""
        found = {"format": self.format, "correctness": self.correctness, "length": self.length}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def digest(self) -> str:
        """SHA-256 of the definition, first 16 hexadecimal digits; the name does not count."""
        definition = json.dumps(asdict(self) | {"name": ""}, sort_keys=True)
        return hashlib.sha256(definition.encode()).hexdigest()[:16]


def load_spec(name: str) -> Json:
    """The mapping of a preset or of a YAML file.

    Raises:
        ConfigError: there is no such preset, or the file is no mapping.
        DataError: the file is missing or unreadable.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return read_yaml(Path(name))
    if name not in PRESETS:
        raise UsageError(
            f"unknown reward {name!r}; choose from {', '.join(PRESETS)}, a .yaml file or module:function"
            f"{nearest(name, PRESETS)}"
        )
    return read_yaml(Path(str(files("toolrl_cli.rewards").joinpath("presets", f"{name}.yaml"))))


def build_spec(name: str, raw: Json) -> RewardSpec:
    """A checked spec from its mapping; `name` also stands in errors.

    The key `horizon` stretches the schedules, written for a run of `WRITTEN_FOR` steps, to a run of so many.

    Raises:
        ConfigError: a key is unknown, a value is of another kind, bounds are crossed, or there is no part.
    """
    own = {key: value for key, value in raw.items() if key != "horizon"}
    spec = build(RewardSpec, {"name": Path(name).stem if ".y" in name else name, **own}, name)
    if "horizon" in raw:
        spec = stretch_to(number(raw["horizon"], f"{name}: horizon"), spec)
    if not spec.parts:
        raise ConfigError(f"{name}: no part; give format, correctness or length")
    for part_name, part in spec.parts.items():
        if isinstance(part, LengthPart) and value_at(part.words, 0) < 1:
            raise ConfigError(f"{name}: {part_name}: words must be 1 or more")
        for step in bends(part):
            low, high = part.bounds(step)
            if low > high:
                when = f" at step {step}" if step else ""
                raise ConfigError(f"{name}: {part_name}: low {low} is above high {high}{when}")
    return spec


def bends(part: Part) -> list[int]:
    """The steps between which the bounds of a part run straight: if they cross nowhere here, they cross at no step."""
    schedules = [bound for bound in (part.low, part.high) if not isinstance(bound, float)]
    turns = [floor(bound.switch if isinstance(bound, Switch) else bound.horizon) for bound in schedules]
    return sorted(
        {0, LAST_STEP, *(step for turn in turns for step in (turn - 1, turn, turn + 1) if 0 < step < LAST_STEP)}
    )


def stretch_to(steps: float, spec: RewardSpec) -> RewardSpec:
    """The spec with schedules for a run of so many steps; raise `ConfigError` unless it is above 0."""
    if steps <= 0:
        raise ConfigError(f"{spec.name}: horizon must be above 0, not {steps:g}")
    parts = {name: stretch_part(part, steps / WRITTEN_FOR) for name, part in spec.parts.items()}
    return replace(spec, **parts)  # type: ignore[arg-type]


def stretch_part(part: Part, factor: float) -> Part:
    """The part with each of its schedules over `factor` times as many steps."""
    stretched: dict[str, Any] = {field.name: stretch(getattr(part, field.name), factor) for field in fields(part)}
    return replace(part, **stretched)


def build(kind: type[R], raw: object, where: str) -> R:
    """A frozen record from a mapping, field by field; raise `ConfigError` that names the place."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: must be a mapping, not {raw!r}")
    hints = get_type_hints(kind)
    for key in raw:
        if key not in hints:
            raise ConfigError(f"{where}: no key {key!r}{nearest(str(key), hints)}; choose from {', '.join(hints)}")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.default is MISSING and field.name not in raw:
            raise ConfigError(f"{where}: {field.name} is missing")
    return kind(**{key: convert(value, hints[key], f"{where}: {key}") for key, value in raw.items()})


def convert(value: object, hint: Any, where: str) -> Any:
    """A value as the type that a field wants."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value not in choices:
            raise ConfigError(f"{where}: {value!r} is unknown; choose from {', '.join(choices)}")
        return value
    if hint is str or hint is bool:
        if not isinstance(value, hint):
            raise ConfigError(f"{where}: must be {'text' if hint is str else 'true or false'}, not {value!r}")
        return value
    if hint is float:
        return number(value, where)
    if hint == Scheduled:
        return scheduled(value, where)
    part = next(option for option in get_args(hint) if option is not type(None))
    return None if value is None else build(part, value, where)


def scheduled(value: object, where: str) -> Scheduled:
    """A number, or a schedule given as a mapping: `start, end, horizon` or `before, after, switch`."""
    if not isinstance(value, Mapping):
        return number(value, where)
    if "switch" in value:
        return build(Switch, value, where)
    ramp = build(Ramp, value, where)
    if ramp.horizon <= 0:
        raise ConfigError(f"{where}: horizon must be above 0, not {ramp.horizon}")
    return ramp


def number(value: object, where: str) -> float:
    """A finite number; raise `ConfigError` for anything else."""
    with suppress(OverflowError):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST:
            return float(value)
    hint = "; YAML reads 1e3 as text, and 1.0e+3 as a number" if isinstance(value, str) else ""
    raise ConfigError(f"{where}: must be a number up to {LARGEST:g} in size, not {value!r}{hint}")


def set_value(raw: Json, path: str, value: object) -> Json:
    """A copy of a mapping in which a dotted path, such as `correctness.low`, has another value.

    Raises:
        ConfigError: the path leads through something that is no mapping.
    """
    *above, last = path.split(".")
    changed: Json = {**raw}
    inner = changed
    for depth, key in enumerate(above, start=1):
        found = inner.get(key, {})
        if not isinstance(found, Mapping):
            raise UsageError(f"--set-reward {path}: {'.'.join(above[:depth])} is {found!r}, and has nothing below it")
        inner[key] = dict(found)
        inner = inner[key]
    inner[last] = value
    return changed
