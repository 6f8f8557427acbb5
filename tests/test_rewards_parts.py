"""Format and length, the parts that look at the text alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolrl_cli.records import Target, ToolCall
from toolrl_cli.rewards.parts import (
    LAYOUTS,
    Layout,
    explain_layout,
    follows_layout,
    layout_of,
    length_credit,
    thought_of,
)

CALL = '{"name": "f", "parameters": {}}'
THINK, CALLS, REPLY = "<think> a </think>", f"<tool_call>\n{CALL}\n</tool_call>", "<response> b </response>"
WITH_CALLS = LAYOUTS[True, False]
WITH_REPLY = LAYOUTS[False, True]
WITH_BOTH = LAYOUTS[True, True]
ALONE = LAYOUTS[False, False]


def test_the_gold_decides_the_layout() -> None:
    calls = (ToolCall("f", {}),)
    assert layout_of(Target("a", calls)) is WITH_CALLS
    assert layout_of(Target("a", (), "")) is WITH_REPLY
    assert layout_of(Target(None, calls, "b")) is WITH_BOTH
    assert layout_of(Target("a")) is ALONE


GOOD = [
    (WITH_CALLS, f"{THINK}\n{CALLS}"),
    (WITH_CALLS, "<think></think>\n<tool_call>\n\n</tool_call>"),
    (WITH_CALLS, f"<think> a </think> b </think>\n{CALLS}"),
    (WITH_CALLS, f"<think> <think> <response> </think>\n{CALLS}"),
    (WITH_CALLS, "<think> \n\n </think>\n<tool_call>\nnot json\n\n</tool_call>"),
    (WITH_REPLY, f"{THINK}\n{REPLY}"),
    (WITH_REPLY, "<think></think>\n<response></response>"),
    (WITH_REPLY, f"<think> </tool_call> <tool_call> </think>\n{REPLY}"),
    (WITH_BOTH, f"{THINK}\n{CALLS}\n{REPLY}"),
    (ALONE, THINK),
    (ALONE, f"{THINK}\n{CALLS} </think>"),
]


@pytest.mark.parametrize(("layout", "text"), GOOD)
def test_text_that_has_the_layout(layout: Layout, text: str) -> None:
    assert follows_layout(text, layout)


BAD = [
    (WITH_CALLS, "", ["no <think> block", "no <tool_call> block"]),
    (WITH_CALLS, CALLS, ["no <think> block"]),
    (WITH_CALLS, f"Sure! {THINK}\n{CALLS}", ["text before <think>"]),
    (WITH_CALLS, f"{THINK}\n{CALLS}\nDone.", ["text after </tool_call>"]),
    (WITH_CALLS, f"{THINK}\n{CALLS}\n{REPLY}", ["text after </tool_call>"]),
    (WITH_CALLS, "<think> and so on", ["<think> is not closed", "no <tool_call> block"]),
    (WITH_CALLS, f"{THINK}\n<tool_call>\n{CALL}", ["no </tool_call> tag"]),
    (WITH_CALLS, f"{THINK}\n{CALL}\n</tool_call>", ["no <tool_call> tag"]),
    (WITH_CALLS, f"{THINK}\n{CALLS}\n{CALLS}", ["2 <tool_call> tags, one allowed", "2 </tool_call> tags, one allowed"]),
    (WITH_CALLS, f"{THINK}\n\n{CALLS}", ["</think> and <tool_call> must be one newline apart"]),
    (WITH_CALLS, f"{THINK}{CALLS}", ["</think> and <tool_call> must be one newline apart"]),
    (WITH_CALLS, f"{THINK}\n<tool_call> {CALL}\n</tool_call>", ["<tool_call> must stand on a line of its own"]),
    (WITH_CALLS, f"{THINK}\n<tool_call>\n{CALL}</tool_call>", ["</tool_call> must stand on a line of its own"]),
    (WITH_CALLS, f"{THINK}\n<tool_call>\n</tool_call>", ["parts are empty or out of order"]),
    (WITH_REPLY, f"{THINK}\n{CALLS}", ["no <response> block"]),
    (WITH_REPLY, f"{THINK}\n{CALLS}\n{REPLY}", ["</think> and <response> must be one newline apart"]),
    (WITH_REPLY, f"{THINK}\n{REPLY} ok", ["text after </response>"]),
    (WITH_REPLY, "<think></think>\n<response>", ["no </response> tag"]),
    (WITH_BOTH, f"{THINK}\n{CALLS}", ["no <response> block"]),
    (WITH_BOTH, f"{THINK}\n{CALLS} {REPLY}", ["</tool_call> and <response> must be one newline apart"]),
    (
        WITH_BOTH,
        f"{THINK}\n<tool_call>\n{CALL}</tool_call>\n{REPLY}",
        ["</tool_call> must stand on a line of its own"],
    ),
    (ALONE, f"{THINK}\n{REPLY}", ["text after </think>"]),
    (ALONE, "<think> a", ["<think> is not closed"]),
]


@pytest.mark.parametrize(("layout", "text", "reasons"), BAD)
def test_text_that_has_not(layout: Layout, text: str, reasons: list[str]) -> None:
    assert not follows_layout(text, layout)
    assert explain_layout(text, layout) == reasons


PIECES = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>", "\n", "\n", "a", " "]
JOINED = ["</think>\n<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<response>", "</think>\n<response>"]
PATTERNS = {
    WITH_CALLS: r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>",
    WITH_REPLY: r"<think>.*?</think>\n<response>.*?</response>",
    WITH_BOTH: r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n<response>.*?</response>",
    ALONE: r"<think>.*?</think>",
}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, *JOINED]), max_size=9).map(lambda rest: "".join(["<think>", *rest]).strip()))
def test_the_layouts_are_these_regular_expressions(text: str) -> None:
    for layout, pattern in PATTERNS.items():
        once = all(text.count(tag) == 1 for tag in layout.single)
        assert follows_layout(text, layout) == bool(once and re.fullmatch(pattern, text, re.DOTALL))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> one two\nthree </think>", (0.01, 3)),  # 3 / 512 = 0.0059
        ("<think>" + "w " * 256 + "</think>", (0.5, 256)),
        ("<think>" + "w " * 511 + "</think>", (1.0, 511)),  # 0.998 rounds up
        ("<think>" + "w " * 9999 + "</think>", (1.0, 9999)),
        ("<think> a b c d <think> e f </think> g", (0.0, 2)),  # 2 / 512 = 0.0039: from the last <think>
        ("</think> a <think> " + "w " * 512, (1.0, 512)),  # to the end when no </think> follows
        ("<think> " + "w " * 512, (0.0, 0)),
        ("w </think>", (0.0, 0)),
        ("", (0.0, 0)),
    ],
)
def test_length(text: str, expected: tuple[float, int]) -> None:
    assert length_credit(thought_of(text), 512) == expected
