"""The parts of a reward that look at the text alone: format and length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolrl_cli.records import Target

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Layout:
    """The text that a gold step asks for: `<think>`, the joints between parts in order, the end.

    Each of the `single` tags stands exactly once.
    """

    single: tuple[str, ...]
    joints: tuple[str, ...]
    end: str


CALL_TAGS, RESPONSE_TAGS = ("<tool_call>", "</tool_call>"), ("<response>", "</response>")
# Keyed by whether the gold holds calls and whether it holds a response.
LAYOUTS = {
    (False, False): Layout((), (), CLOSE_THINK),
    (True, False): Layout(CALL_TAGS, ("</think>\n<tool_call>\n",), "\n</tool_call>"),
    (False, True): Layout(RESPONSE_TAGS, ("</think>\n<response>",), "</response>"),
    (True, True): Layout(
        (*CALL_TAGS, *RESPONSE_TAGS), ("</think>\n<tool_call>\n", "\n</tool_call>\n<response>"), "</response>"
    ),
}


def layout_of(target: Target) -> Layout:
    """The layout that a completion of this target must have."""
    return LAYOUTS[bool(target.tool_calls), target.response is not None]


def follows_layout(text: str, layout: Layout) -> bool:
    """Whether stripped text has the layout.

    Each joint is sought from the left, as lazy parts of a regular expression would; text inside a
    part is free.
    """
    if not text.startswith(OPEN_THINK) or not text.endswith(layout.end):
        return False
    position = len(OPEN_THINK)
    for joint in layout.joints:
        found = text.find(joint, position)
        if found < 0:
            return False
        position = found + len(joint)
    return position <= len(text) - len(layout.end) and all(text.count(tag) == 1 for tag in layout.single)


def explain_layout(text: str, layout: Layout) -> list[str]:
    """What is wrong with stripped text that does not have the layout."""
    last = layout.end.strip()
    reasons = [*explain_thought(text), *explain_tags(text, layout), *explain_joints(text, layout)]
    if last in text and not text.endswith(last):
        reasons.append(f"text after {last}")
    return reasons or ["parts are empty or out of order"]


def explain_thought(text: str) -> Iterator[str]:
    """What is wrong with the think block at the start."""
    if OPEN_THINK not in text:
        yield "no <think> block"
    elif CLOSE_THINK not in text:
        yield "<think> is not closed"
    if OPEN_THINK in text and not text.startswith(OPEN_THINK):
        yield "text before <think>"


def explain_tags(text: str, layout: Layout) -> Iterator[str]:
    """Blocks that are missing and tags that do not stand exactly once."""
    for opening, closing in zip(layout.single[::2], layout.single[1::2], strict=True):
        if opening not in text and closing not in text:
            yield f"no {opening} block"
            continue
        for tag in (opening, closing):
            count = text.count(tag)
            if count != 1:
                yield f"{count} {tag} tags, one allowed" if count else f"no {tag} tag"


def explain_joints(text: str, layout: Layout) -> Iterator[str]:
    """Tags that are there but not placed as they must be."""
    for joint in (*layout.joints, layout.end):
        tags = joint.split()
        if joint in text or any(tag not in text for tag in tags):
            continue
        if "\n".join(tags) not in text:
            yield f"{tags[0]} and {tags[1]} must be one newline apart"
        else:
            yield f"{next(tag for tag in tags if tag in CALL_TAGS)} must stand on a line of its own"


def thought_of(text: str) -> str:
    """What stands from the last `<think>` to the next `</think>`; without one of the tags, nothing."""
    if OPEN_THINK not in text or CLOSE_THINK not in text:
        return ""
    return text.rpartition(OPEN_THINK)[2].partition(CLOSE_THINK)[0]


def length_credit(thought: str, full: float) -> tuple[float, int]:
    """The length part in [0, 1], `full` words of thought earning 1, and the number of words."""
    words = len(thought.split())
    return min(1.0, round(words / full, 2)), words
