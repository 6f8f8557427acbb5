"""The rewards that have a name, as data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """What defines a reward: its parts, the bounds of correctness, the thought that earns full length."""

    name: str
    parts: tuple[str, ...]
    matching: str = "optimal"
    lowest: float = -3.0
    highest: float = 3.0
    thought_words: int = 512

    @property
    def maximum(self) -> float:
        """The most a completion can earn; format and length end at 1 each."""
        return self.highest + len(self.parts) - 1

    @property
    def digest(self) -> str:
        """SHA-256 of the definition, first 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("fine-grained", ("format", "correctness")),
        Preset("length", ("format", "correctness", "length")),
    )
}
