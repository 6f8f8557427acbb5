"""Dialogues of several turns: what follows an answer, and how the answers make up the turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from toolrl_cli.benches.base import Answer, Entry, Turn, Verdict
from toolrl_cli.benches.bfcl.calls import find_danger
from toolrl_cli.records import Json, Outcome, ToolCall

Turns = list[list[tuple[ToolCall, ...]]]
"""The calls of each step of each turn."""


@dataclass(frozen=True, slots=True)
class Course:
    """What an entry's dialogue holds beside the answers.

    Args:
        turns: the messages that open each turn.
        added: the tools that come with a turn, by its position.
        step_limit: the most steps with calls that a turn may have.
    """

    turns: tuple[tuple[Json, ...], ...]
    added: Mapping[int, tuple[Json, ...]]
    step_limit: int


def to_entry(category: str, raw: Json, rules: Json, to_tool: Callable[[Json], Json]) -> Entry:
    """An entry as the official loader gives it; a turn that brings tools has the official words for its message."""
    added = {int(turn): tuple(map(to_tool, tools)) for turn, tools in raw.get("missed_function", {}).items()}
    new_tools = {"role": "user", "content": rules["new_tools"]}
    turns = tuple((new_tools,) if i in added else tuple(turn) for i, turn in enumerate(raw["question"]))
    course = Course(turns, added, rules["step_limit"])
    return Entry(raw["id"], category, tuple(map(to_tool, raw["function"])), turns[0], course, turns=len(turns))


def divide(answers: Sequence[Answer]) -> Turns:
    """The answers as turns: an answer without readable calls ends its turn, and is no step."""
    turns: Turns = []
    opened = False
    for answer in answers:
        if not opened:
            turns.append([])
        opened = bool(answer.calls)
        if opened:
            turns[-1].append(answer.calls)
    return turns


def is_over(course: Course, answers: Sequence[Answer]) -> bool:
    """Whether the last turn has ended, or any went over its limit, or a call may not run."""
    turns = divide(answers)
    if answers[-1].calls:
        return len(turns[-1]) > course.step_limit or find_dangers(answers[-1:]) is not None
    return len(turns) == len(course.turns)


def next_turn(entry: Entry, turn: int) -> Turn:
    """The messages that open a turn, and all tools from there on, where it brings some."""
    course: Course = entry.payload
    tools = entry.tools + tuple(tool for i in range(turn + 1) for tool in course.added.get(i, ()))
    return Turn(course.turns[turn], tools if turn in course.added else None)


def tool_messages(calls: Sequence[ToolCall], results: Sequence[str]) -> tuple[Json, ...]:
    """The results of calls as messages."""
    return tuple(
        {"role": "tool", "name": call.name, "content": result} for call, result in zip(calls, results, strict=True)
    )


def to_json(turns: Turns) -> list[list[list[Json]]]:
    """The turns as JSON values."""
    return [[[call.to_json() for call in step] for step in turn] for turn in turns]


def find_dangers(answers: Sequence[Answer]) -> str | None:
    """What makes the first call that may not run a danger, None when there is no such call."""
    dangers = (find_danger(call) for answer in answers for call in answer.calls)
    return next(filter(None, dangers), None)


def early_verdict(course: Course, answers: Sequence[Answer]) -> Verdict | None:
    """The verdict on a dialogue that needs no checker: a call that may not run, or turns that never came."""
    danger = find_dangers(answers)
    if danger is not None:
        return Verdict(False, Outcome.WRONG, "unsafe_call", f"not run: {danger}")
    turns = len(divide(answers))
    if turns < len(course.turns):
        ended = f"turn {turns} of {len(course.turns)} took more than {course.step_limit} steps"
        return Verdict(False, Outcome.WRONG, "multi_turn:force_terminated", ended)
    return None


def with_parse_errors(verdict: Verdict, answers: Sequence[Answer]) -> Verdict:
    """The verdict, counted among the parse failures if calls of any step could not be read; they ended its turn."""
    unread = next((answer.error for answer in answers if answer.error), None)
    if unread is None:
        return verdict
    if verdict.correct:
        return Verdict(True, Outcome.EXACT, "parse", unread)
    return Verdict(False, Outcome.MALFORMED, "parse", f"{unread}; {verdict.error}")


def explain_wrong(answers: Sequence[Answer]) -> Outcome:
    """What became of answers that the checker refused."""
    if any(answer.completion.truncated for answer in answers):
        return Outcome.TRUNCATED
    return Outcome.WRONG if any(answer.calls for answer in answers) else Outcome.NO_CALL
