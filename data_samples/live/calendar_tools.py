"""A small calendar with state, whose methods run as tools while a model trains (`toolrl grpo --tools`).

Public methods are the tools; their type hints and docstrings make the schemas that the model sees.
"""

from __future__ import annotations

import json


class Calendar:
    """Events by day. Each rollout has its own calendar; `reset` empties it, `get_reward` looks at what stands in it."""

    def reset(self, target: str, **row: object) -> None:
        """Begin a rollout; the row of the task comes along, with the gold as JSON text."""
        self._events: dict[str, list[str]] = {"monday": ["dentist"], "friday": ["choir"]}
        self._gold = json.loads(target)["tool_calls"]

    def get_reward(self) -> float:
        """1 when the calendar stands as the gold calls would leave it, whatever led there."""
        wanted = Calendar()
        wanted.reset(json.dumps({"tool_calls": []}))
        for call in self._gold:
            getattr(wanted, call["name"])(**call["arguments"])
        return float(wanted._events == self._events)

    def add_event(self, title: str, day: str) -> str:
        """Add an event to a day.

        Args:
            title: what happens
            day: day of the week in small letters, such as monday
        """
        self._events.setdefault(day, []).append(title)
        return f"added {title} on {day}"

    def list_events(self, day: str) -> str:
        """List the events of a day.

        Args:
            day: day of the week in small letters, such as monday
        """
        return ", ".join(self._events.get(day, [])) or "nothing"

    def remove_event(self, title: str, day: str) -> str:
        """Remove an event from a day.

        Args:
            title: what happens
            day: day of the week in small letters, such as monday
        """
        if title not in self._events.get(day, []):
            raise ValueError(f"no {title} on {day}")
        self._events[day].remove(title)
        if not self._events[day]:
            del self._events[day]
        return f"removed {title} from {day}"
