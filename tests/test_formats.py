"""The text contract: prompts, gold completions, and what is read from a model's completion."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from toolrl_cli.errors import ConfigError, DataError, FormatError
from toolrl_cli.formats import FORMATS, find_format, toolrl
from toolrl_cli.formats.hermes import HermesFormat
from toolrl_cli.formats.llama3 import Llama3Format
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.records import ExtendedCall, Json, PredictedCall, Target, ToolCall

FORMAT = ToolrlFormat()

WEATHER: Json = {
    "name": "weather",
    "description": "Weather of a città.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "day": {"type": "integer", "minimum": 0}},
        "required": ["city"],
    },
}
OPENING = """\
Call the tools that fit, with values from the dialogue. If none fits or a value is missing, reply.

**Tools**
"""
RULES = """
**Answer**
<think> thoughts </think>
<tool_call>
{"name": "tool", "parameters": {"parameter": "value"}}
</tool_call>
<response> reply </response>

One call a line; give <tool_call>, <response> or both. Results stand in <obs>."""


def tool(**function: Any) -> Json:
    return {"type": "function", "function": function}


def call(name: str, **arguments: Any) -> Json:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool_list(*functions: Json) -> str:
    """What the system message says of these tools, between the opening and the rules."""
    system: str = FORMAT.render_prompt([tool(**function) for function in functions], []).messages[0]["content"]
    assert (system[: len(OPENING)], system[-len(RULES) :]) == (OPENING, RULES)
    return system[len(OPENING) : -len(RULES)]


class TestPrompt:
    def test_a_whole_prompt(self) -> None:
        tools = [tool(**WEATHER), tool(name="ping", description="Say hello.\nTwice.", parameters={})]
        messages: list[Json] = [
            {"role": "system", "content": "Answer in verse."},
            {"role": "user", "content": "Rome?"},
            {"role": "assistant", "content": None, "tool_calls": [call("weather", city="Rome"), call("ping")]},
            {"role": "tool", "content": '{"sky": "blù"}', "name": "weather"},
            {"role": "tool", "content": "hello", "name": "ping"},
            {"role": "assistant", "content": "Blue sky.", "reasoning_content": "The result is there."},
            {"role": "user", "content": "And {{ tomorrow }}?"},
        ]
        system = (
            OPENING + "1. Name: weather\n"
            "Description: Weather of a città.\n"
            'Parameters: {"city": {"type": "string"}, "day": {"type": "integer", "minimum": 0}} (optional: day)\n'
            "2. Name: ping\n"
            "Description: Say hello.\nTwice.\n"
            "Parameters: {}\n" + RULES + "\n\nAnswer in verse."
        )
        history = (
            "**History**\n"
            "<user> Rome? </user>\n\n"
            "<think> I call the tools that fit. </think>\n"
            "<tool_call>\n"
            '{"name": "weather", "parameters": {"city": "Rome"}}\n'
            '{"name": "ping", "parameters": {}}\n'
            "</tool_call>\n"
            '<obs> {"sky": "blù"} </obs>\n'
            "<obs> hello </obs>\n\n"
            "<think> The result is there. </think>\n"
            "<response> Blue sky. </response>\n\n"
            "<user> And {{ tomorrow }}? </user>"
        )
        assert FORMAT.render_prompt(tools, messages).messages == [
            {"role": "system", "content": system},
            {"role": "user", "content": history},
        ]

    @pytest.mark.parametrize(
        ("function", "described"),
        [
            ({"name": "f"}, "1. Name: f\nDescription: \nParameters: {}"),
            ({"name": "f", "description": None, "parameters": None}, "1. Name: f\nDescription: \nParameters: {}"),
            ({"name": "f", "parameters": {"type": "object"}}, "1. Name: f\nDescription: \nParameters: {}"),
            (
                {"name": "f", "parameters": {"type": "object", "properties": None, "required": None}},
                "1. Name: f\nDescription: \nParameters: {}",
            ),
            (
                {"name": "f", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}, "required": None}},
                '1. Name: f\nDescription: \nParameters: {"a": {}, "b": {}} (optional: a, b)',
            ),
            (
                {"name": "f", "parameters": {"a": {"type": "str"}}},  # no schema, but a flat map
                '1. Name: f\nDescription: \nParameters: {"a": {"type": "str"}}',
            ),
            (
                {"name": "f", "parameters": {"type": "string"}},
                '1. Name: f\nDescription: \nParameters: {"type": "string"}',
            ),
            (
                {"name": "{% for %}", "description": "<b> & {{ x }}", "parameters": {}},
                "1. Name: {% for %}\nDescription: <b> & {{ x }}\nParameters: {}",
            ),
        ],
    )
    def test_tools_that_leave_things_out(self, function: Json, described: str) -> None:
        assert tool_list(function) == described + "\n"

    def test_no_tools(self) -> None:
        assert tool_list() == ""

    @pytest.mark.parametrize("content", [None, ""])
    def test_a_system_message_that_says_nothing(self, content: str | None) -> None:
        silent: list[Json] = [{"role": "system", "content": content}, {"role": "system"}]
        assert FORMAT.render_prompt([], silent) == FORMAT.render_prompt([], [])

    def test_system_messages_stand_together_behind_the_rules(self) -> None:
        messages = [
            {"role": "system", "content": "A."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "B."},
        ]
        system, user = FORMAT.render_prompt([], messages).messages
        assert system["content"].endswith(RULES + "\n\nA.\n\nB.")
        assert user["content"] == "**History**\n<user> Hi </user>"

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ({"role": "user", "content": None}, "\n<user>  </user>"),
            ({"role": "tool"}, "\n<obs>  </obs>"),
            (
                {"role": "assistant", "content": "Hi"},
                "\n\n<think> I reply without a call. </think>\n<response> Hi </response>",
            ),
            (
                {"role": "assistant", "content": None, "tool_calls": None},
                "\n\n<think> I reply without a call. </think>",
            ),
            (
                {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call("f")]},
                '\n\n<think>  </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>',
            ),
            (
                {"role": "assistant", "content": "Wait.", "reasoning_content": "t", "tool_calls": [call("f", a="é")]},
                '\n\n<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"a": "é"}}\n</tool_call>\n'
                "<response> Wait. </response>",
            ),
        ],
    )
    def test_one_message_of_the_history(self, message: Json, text: str) -> None:
        assert FORMAT.render_history([message]) == "**History**" + text

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            (
                {"role": "developer", "content": "x"},
                "unknown role 'developer'; choose from system, user, assistant and tool",
            ),
            ({"role": "user", "content": [{"type": "text"}]}, "content must be a string, not a list"),
            (
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                "tool call arguments must be an object, not a string",
            ),
        ],
    )
    def test_nothing_is_lost_in_silence(self, message: Json, why: str) -> None:
        with pytest.raises(DataError) as error:
            FORMAT.render_prompt([], [message])
        assert str(error.value) == why


GOLD = [
    (Target("t", (), None), "<think> t </think>"),
    (Target("", (), ""), "<think>  </think>\n<response>  </response>"),
    (Target(" t\n", (), "two\nlines"), "<think>  t\n </think>\n<response> two\nlines </response>"),
    (
        Target("t", (ToolCall("f g", {"a": [1, None]}), ToolCall("é", {}))),
        '<think> t </think>\n<tool_call>\n{"name": "f g", "parameters": {"a": [1, null]}}\n'
        '{"name": "é", "parameters": {}}\n</tool_call>',
    ),
    (
        Target("t", (ToolCall("f", {"a": "\n</tool_call>\n"}),), "r"),
        '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"a": "\\n</tool_call>\\n"}}\n</tool_call>\n'
        "<response> r </response>",
    ),
]

PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<response>",
    "</response>",
    "\n",
    " ",
    "a",
    '{"name": 1}',
]
tagged_text = st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
calls = st.builds(ToolCall, st.text(), st.dictionaries(st.text(), json_values | tagged_text, max_size=3))
targets = st.builds(Target, tagged_text, st.lists(calls, max_size=3).map(tuple), st.none() | tagged_text)


class TestTarget:
    @pytest.mark.parametrize(("target", "text"), GOLD, ids=range(len(GOLD)))
    def test_it_is_rendered_and_read_back(self, target: Target, text: str) -> None:
        assert FORMAT.render_target(target) == text
        assert FORMAT.parse_target(text) == target
        assert FORMAT.parse_target(f"\n {text}\n") == target

    def test_a_missing_thought_becomes_a_stock_sentence(self) -> None:
        called, replied = Target(None, (ToolCall("f", {}),)), Target(None, (), "r")
        assert FORMAT.parse_target(FORMAT.render_target(called)).thought == "I call the tools that fit."
        assert FORMAT.parse_target(FORMAT.render_target(replied)).thought == "I reply without a call."

    @given(targets)
    @example(Target("I could <tool_call> but </think> I do not", (), "no </response>\n</tool_call>"))
    @example(Target("a</think>\n<response>", (ToolCall("f", {}),), None))
    @example(Target("t", (ToolCall("f", {}),), "\n</tool_call>\n<response> x"))
    @example(Target("\u2028</think>", (ToolCall("\r\n", {"\u2028": "\ud800"}),), "\x85"))
    def test_every_target_is_read_back_unless_its_thought_closes_itself(self, target: Target) -> None:
        text = FORMAT.render_target(target)
        if "</think>\n<tool_call>\n" in str(target.thought) or "</think>\n<response>" in str(target.thought):
            with suppress(FormatError):
                FORMAT.parse_target(text)
        else:
            assert FORMAT.parse_target(text) == target

    def test_a_thought_that_closes_itself_ends_there(self) -> None:
        """The format cannot say more: this text is what another target renders to as well."""
        text = FORMAT.render_target(Target("a </think>\n<response> b", (), "c"))
        assert FORMAT.parse_target(text) == Target("a", (), "b </think>\n<response> c")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "hello",
            "think> t </think>",
            "<think> t",
            "<think> t </think> more",
            "<think> t </think><response> r </response>",
            "<think> t </think>\n\n<response> r </response>",
            "<think> t </think>\n<response> r",
            "<think> t </think>\n<response> r </response>\n<response> s",
            "<think> t </think>\n<response> r </response>\n<tool_call>\n</tool_call>",
            '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}',
            '<think> t </think>\n<tool_call>{"name": "f", "parameters": {}}</tool_call>',
            '<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>',
            "<response> r </response>",
        ],
    )
    def test_what_does_not_follow_the_format(self, text: str) -> None:
        with pytest.raises(FormatError) as error:
            FORMAT.parse_target(text)
        assert str(error.value) == "not <think>, then <tool_call> or <response>, each on lines of their own"

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("f()", "call is not JSON: 'f()'"),
            ("x" * 1000, f"call is not JSON: {'x' * 80!r}"),
            (
                '[{"name": "f", "parameters": {}}]',
                """call is no object with a "name": '[{"name": "f", "parameters": {}}]'""",
            ),
            ('{"parameters": {}}', """call is no object with a "name": '{"parameters": {}}'"""),
            ('{"name": "f"}', 'a call needs a "name" string and a "parameters" object'),
            ('{"name": null, "parameters": {}}', 'a call needs a "name" string and a "parameters" object'),
            ('{"name": "f", "parameters": "{}"}', 'a call needs a "name" string and a "parameters" object'),
        ],
    )
    def test_a_call_that_is_no_gold(self, line: str, why: str) -> None:
        with pytest.raises(FormatError) as error:
            FORMAT.parse_target(f"<think> t </think>\n<tool_call>\n{line}\n</tool_call>")
        assert str(error.value) == why

    @pytest.mark.parametrize("block", ["", "\n", "\n \n"])
    def test_a_block_without_calls_is_none(self, block: str) -> None:
        assert FORMAT.parse_target(f"<think> t </think>\n<tool_call>{block}\n</tool_call>") == Target("t")

    @pytest.mark.parametrize(
        "unit", ["</think>\n<tool_call>\n\n</tool_call>\n<response></response>", "</think>\n<response>"]
    )
    def test_hostile_text_takes_no_longer_than_other_text(self, unit: str) -> None:
        began = time.process_time()
        with pytest.raises(FormatError):
            FORMAT.parse_target("<think>" + unit * 20_000 + "x")
        assert time.process_time() - began < 2

    @given(tagged_text | st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(FormatError):
            FORMAT.parse_target(text)


CALLS = [
    # A completion as it should be, and the same block in any surroundings.
    (
        '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>',
        [PredictedCall("f", {"a": 1})],
    ),
    ('so <tool_call>{"name": "f", "parameters": {}}</tool_call> there', [PredictedCall("f", {})]),
    (
        '<tool_call>\n{"name": "f", "parameters": {}}\n  {"name": "g", "parameters": {}}  \n</tool_call>',
        [PredictedCall("f", {}), PredictedCall("g", {})],
    ),
    # Only the first block counts, up to the next call tag of either kind.
    (
        '<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>\n<tool_call>\n{"name": "g"}\n</tool_call>',
        [PredictedCall("f", {})],
    ),
    ('<tool_call>\n{"name": "f"}\n<tool_call>\n{"name": "g"}\n</tool_call>', [PredictedCall("f", None)]),
    # Both tags must occur, in whatever order; then the block may run to the end.
    ("no call at all", []),
    ("", []),
    ('<tool_call>\n{"name": "f", "parameters": {}}', []),
    ('{"name": "f", "parameters": {}}\n</tool_call>', []),
    ('</tool_call><tool_call>{"name": "f", "parameters": {}}', [PredictedCall("f", {})]),
    # Any value may stand where a name and an object belong; other fields are ignored.
    ('<tool_call>{"name": null, "parameters": [1]}</tool_call>', [PredictedCall(None, [1])]),
    ('<tool_call>{"name": {"a": 1}, "arguments": {}}</tool_call>', [ExtendedCall({"a": 1}, None)]),
]
NO_CALLS = [
    ("<tool_call></tool_call>", "call is not JSON: ''"),
    ("<tool_call>\n \n</tool_call>", "call is not JSON: ''"),
    ('<tool_call>\n{"name": "f"}\n\n{"name": "g"}\n</tool_call>', "call is not JSON: ''"),
    ('<tool_call>\n{\n  "name": "f",\n  "parameters": {}\n}\n</tool_call>', "call is not JSON: '{'"),
    ('I use <tool_call>.\n<tool_call>\n{"name": "f"}\n</tool_call>', "call is not JSON: '.'"),
    ("<tool_call>\n{'name': 'f'}\n</tool_call>", "call is not JSON: \"{'name': 'f'}\""),
    ('<tool_call>[{"name": "f"}]</tool_call>', """call is no object with a "name": '[{"name": "f"}]'"""),
    ('<tool_call>{"parameters": {}}</tool_call>', """call is no object with a "name": '{"parameters": {}}'"""),
    ('<tool_call>"f"</tool_call>', """call is no object with a "name": '"f"'"""),
    ("<tool_call>" + "[" * 10_000 + "</tool_call>", f"call is not JSON: {'[' * 80!r}"),
    ("<tool_call>" + "9" * 10_000 + "</tool_call>", f"call is not JSON: {'9' * 80!r}"),
]


class TestToolCalls:
    @pytest.mark.parametrize(("text", "found"), CALLS, ids=range(len(CALLS)))
    def test_what_is_read(self, text: str, found: list[PredictedCall]) -> None:
        assert FORMAT.parse_tool_calls(text) == found

    @pytest.mark.parametrize(("text", "why"), NO_CALLS, ids=range(len(NO_CALLS)))
    def test_what_cannot_be_read(self, text: str, why: str) -> None:
        with pytest.raises(FormatError) as error:
            FORMAT.parse_tool_calls(text)
        assert str(error.value) == why

    def test_what_python_reads_beyond_json(self) -> None:
        [found] = FORMAT.parse_tool_calls('<tool_call>{"name": "f", "parameters": NaN}</tool_call>')
        assert isinstance(found.arguments, float)
        assert math.isnan(found.arguments)

    @given(
        st.lists(st.sampled_from([*PIECES, '{"name": "f", "parameters": {}}', "[", "NaN"]), max_size=12).map("".join)
    )
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(FormatError):
            assert all(isinstance(found, PredictedCall) for found in FORMAT.parse_tool_calls(text))

    @given(calls, st.text(alphabet=st.characters(exclude_characters="<")))
    def test_a_gold_call_is_read_in_any_surroundings(self, gold: ToolCall, text: str) -> None:
        assume("tool_call>" not in json.dumps(gold.to_json()))
        rendered = FORMAT.render_target(Target(text, (gold,)))
        assert FORMAT.parse_tool_calls(text + rendered + text) == [PredictedCall(gold.name, gold.arguments)]


class TestDigest:
    def test_it_is_the_same_in_every_process(self) -> None:
        assert FORMAT.digest == ToolrlFormat().digest
        assert (len(FORMAT.digest), set(FORMAT.digest) <= set("0123456789abcdef")) == (16, True)

    @pytest.mark.parametrize("name", ["HISTORY_HEADING", "CALL_THOUGHT", "REPLY_THOUGHT"])
    def test_it_changes_with_each_wording(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(toolrl, name, getattr(toolrl, name) + "!")
        assert ToolrlFormat().digest != FORMAT.digest

    def test_it_changes_with_the_template(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        template = Path(toolrl.__file__).parent / "templates" / "toolrl.jinja"
        (tmp_path / "templates").mkdir()
        (tmp_path / "templates" / "toolrl.jinja").write_text(template.read_text("utf-8") + " ", "utf-8")
        monkeypatch.setattr(toolrl, "files", lambda package: tmp_path)
        assert ToolrlFormat().digest != FORMAT.digest


def test_formats_are_found_by_name() -> None:
    assert [type(find_format(name)) for name in ("toolrl", "hermes", "llama3")] == [
        ToolrlFormat,
        HermesFormat,
        Llama3Format,
    ]
    assert len({find_format(name).digest for name in FORMATS}) == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hermess", "unknown format 'hermess'; choose from toolrl, hermes, llama3 and native"),
        ("native", "the native format is that of a model's chat template; name a model, or hermes or llama3"),
    ],
)
def test_a_name_that_is_no_format(name: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_format(name)
    assert str(error.value) == why
