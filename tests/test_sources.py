"""Each source over literal rows: what becomes of them, and how dirt is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.formats.toolrl import HISTORY_HEADING, ToolrlFormat
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.registry import SOURCES, detect_source, find_source
from toolrl_cli.sources.toolrl import read_texts, split_history

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not here")

WEATHER = {"name": "weather", "description": "Now.", "parameters": {"city": {"type": "str"}}}
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
INSTRUCTION = """Work with tools.

**Tools**
1. Name: Find Goals
Description: Goals of a team.
Parameters: not here, this line is still the description.
Second line.
Parameters: {"team": {"type": "str", "default": ""}, "year": {"type": "float", "default": 2024}}
2. Name: ping
Description:
Parameters: {}

**Rules**
Think first."""
HISTORY = """**Dialogue Records History**
<user> Hello </user>

<think> I need it. </think>
<tool_call>
{"name": "ping", "parameters": {}}
</tool_call>
<obs> [1] </obs>

<think> A greeting. </think>
<response> Hi, say
<user> or </user> tags </response>

<user> Goals? </user>"""
OUTPUT = """<think> A <tool_call> is due. </think>
<tool_call>
{"name": "Find Goals", "parameters": {"team": "Reds"}}
</tool_call>"""


def convert(source: str, row: Json) -> list[Example]:
    """The examples of a row whose id is `r`."""
    return SOURCES[source].convert(row, "r")


def ask(*extra: Json) -> list[Json]:
    """A user message and what follows."""
    return [{"role": "user", "content": "Hi"}, *extra]


def message_call(name: str, arguments: object) -> Json:
    """An assistant message with one call, as the API writes it."""
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


class TestToolrl:
    def test_a_triple_becomes_tools_messages_and_target(self) -> None:
        row = {"instruction": INSTRUCTION, "input": HISTORY, "output": OUTPUT, "level": 3}
        goals = {
            "type": "object",
            "properties": {
                "team": {"type": "string", "x-type": "str"},
                "year": {"type": "number", "default": 2024, "x-type": "float"},
            },
            "required": ["team"],
        }
        nothing: Json = {"type": "object", "properties": {}, "required": []}
        description = "Goals of a team.\nParameters: not here, this line is still the description.\nSecond line."
        ping = {"type": "function", "function": {"name": "ping", "arguments": {}}}
        assert convert("toolrl", row) == [
            Example(
                id="r",
                source="toolrl",
                tools=(
                    {
                        "type": "function",
                        "function": {"name": "Find Goals", "description": description, "parameters": goals},
                    },
                    {"type": "function", "function": {"name": "ping", "description": "", "parameters": nothing}},
                ),
                messages=(
                    {"role": "user", "content": "Hello"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [ping],
                        "reasoning_content": "I need it.",
                    },
                    {"role": "tool", "content": "[1]"},
                    {
                        "role": "assistant",
                        "content": "Hi, say\n<user> or </user> tags",
                        "reasoning_content": "A greeting.",
                    },
                    {"role": "user", "content": "Goals?"},
                ),
                target=Target("A <tool_call> is due.", (ToolCall("Find Goals", {"team": "Reds"}),)),
                meta={"level": 3},
            )
        ]

    def test_a_verl_record_gives_the_same_and_keeps_what_is_not_a_copy(self) -> None:
        triple = {"instruction": INSTRUCTION, "input": HISTORY, "output": OUTPUT}
        row = {
            "data_source": "rlla",
            "prompt": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": HISTORY}],
            "reward_model": {"ground_truth": OUTPUT, "style": "rule"},
            "extra_info": {**triple, "index": 7, "input": "another"},
        }
        [example], [plain] = convert("toolrl", row), convert("toolrl", triple)
        assert (example.tools, example.messages, example.target) == (plain.tools, plain.messages, plain.target)
        assert example.meta == {
            "data_source": "rlla",
            "reward_model": {"style": "rule"},
            "extra_info": {"index": 7, "input": "another"},
        }

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"output": "<tool_call>\n{}\n</tool_call>"}, "format: output: not <think>"),
            ({"output": '<think> a </think>\n<tool_call>\n{"name": "x"\n</tool_call>'}, "call is not JSON"),
            ({"output": '<think> a </think>\n<tool_call>\n{"name": 5}\n</tool_call>'}, '"name" string'),
            (
                {"output": '<think> a </think>\n<tool_call>\n{"name": "p", "parameters": {"x":1,"x":2}}\n</tool_call>'},
                "a key twice: 'x'",
            ),
            ({"output": 5}, "must be strings"),
            ({"instruction": "no list"}, "no tools: the instruction lists none"),
            ({"instruction": "1. Name: a\nDescription: b\nParameters: {'x': 1}"}, "tools not JSON: parameters of 'a'"),
            ({"instruction": "1. Name: a\nDescription: b"}, "tools not JSON: parameters of 'a'"),
            ({"instruction": "1. Name: a\nDescription: b\nParameters: [1]"}, "parameters must be an object"),
            ({"instruction": '1. Name: a\nDescription: b\nParameters: {"x": 1}'}, "parameter 'x' must be an object"),
            ({"input": "Hi there"}, "history: text outside <user>, <think> and <obs>: 'Hi there'"),
            ({"input": "**H**\n<user> Hi"}, "history: block is not closed: '<user> Hi'"),
            ({"input": "<user> Hi </user>\n<think> a"}, "history: block is not closed"),
            ({"input": "<user> Hi </user>\n<think> a </think>x</response>"}, "format: history: not <think>"),
        ],
    )
    def test_what_does_not_follow_the_format_is_refused(self, change: Json, reason: str) -> None:
        row = {"instruction": INSTRUCTION, "input": HISTORY, "output": OUTPUT, **change}
        with pytest.raises(DataError, match=re.escape(reason)):
            convert("toolrl", row)

    def test_a_history_full_of_open_tags_takes_linear_time(self) -> None:
        with pytest.raises(DataError, match="not closed"):
            list(split_history("<user> a\n" * 200_000))

    @needs_data
    @pytest.mark.parametrize(("name", "count"), [("rlla_sft.json", 400), ("rlla_rl_test.jsonl", 80)])
    def test_real_rows_render_back_to_their_text(self, name: str, count: int) -> None:
        text_format = ToolrlFormat()
        rows = real_rows(DATA / "toolrl" / name)
        literal_tags = 0
        for row in rows:
            _, history, output, _ = read_texts(row)
            [example] = convert("toolrl", row)
            heading = history.split("\n", 1)[0]
            assert plain_calls(text_format.render_target(example.target)) == plain_calls(output)
            rendered = text_format.render_history(example.messages)
            assert plain_calls(rendered) == plain_calls(history.replace(heading, HISTORY_HEADING, 1))
            literal_tags += "<tool_call>" in (example.target.thought or "")
        assert (len(rows), literal_tags) == (count, 17 if count == 400 else 0)


def real_rows(path: Path) -> list[Any]:
    """The rows of a JSON array or of JSONL."""
    text = path.read_text("utf-8")
    return list(json.loads(text)) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def plain_calls(text: str) -> str:
    """A text whose call lines have the spacing that Python's `json` gives them."""
    return re.sub(r'(?m)^\{"name".*$', lambda line: json.dumps(json.loads(line[0]), ensure_ascii=False), text)


class TestXlam:
    def test_json_text_and_flat_maps_are_decoded(self) -> None:
        row = {
            "id": 17,
            "query": "Weather?",
            "tools": json.dumps([WEATHER, WEATHER]),
            "answers": '[{"name": "weather", "arguments": {"city": "Rome"}}]',
        }
        assert convert("xlam", row) == [
            Example(
                id="r",
                source="xlam",
                tools=(WEATHER_TOOL,),
                messages=({"role": "user", "content": "Weather?"},),
                target=Target(tool_calls=(ToolCall("weather", {"city": "Rome"}),)),
                meta={"id": 17},
            )
        ]

    def test_hammer_rows_name_calls_otherwise(self) -> None:
        row = {"query": "Q", "tools": [WEATHER], "answers": [{"tool": "weather", "parameters": {"city": "Oslo"}}]}
        [example] = convert("xlam", row)
        assert example.target == Target(tool_calls=(ToolCall("weather", {"city": "Oslo"}),))

    @pytest.mark.parametrize("answers", [[], "[]"])
    def test_no_answer_is_a_step_without_calls(self, answers: object) -> None:
        [example] = convert("xlam", {"query": "Q", "tools": [WEATHER], "answers": answers})
        assert example.target == Target(thought=None, tool_calls=(), response=None)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"query": "  "}, "no user message: query is empty"),
            ({"query": None}, "query must be a string, not null"),
            ({"tools": '[{"name": "we'}, 'tools not JSON: \'[{"name": "we\''),
            ({"tools": None}, "tools must be a list, not null"),
            ({"tools": [{"description": "d"}]}, "tool name must be a string, not null"),
            ({"answers": "call weather"}, "answers not JSON: 'call weather'"),
            ({"answers": {"name": "weather"}}, "answers must be a list, not an object"),
            ({"answers": ["weather"]}, "answer must be an object, not a string"),
            ({"answers": [{"name": "weather", "arguments": [1]}]}, "arguments of 'weather' must be an object"),
        ],
    )
    def test_a_malformed_row_is_refused(self, change: Json, reason: str) -> None:
        row = {"query": "Q", "tools": [WEATHER], "answers": [], **change}
        with pytest.raises(DataError, match=re.escape(reason)):
            convert("xlam", row)


class TestOpenai:
    def test_each_assistant_step_becomes_an_example(self) -> None:
        row = {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}]},
                message_call("weather", '"{\\"city\\": \\"Rome\\"}"'),
                {"role": "tool", "tool_call_id": "c1", "content": "sunny", "name": None},
                {"role": "assistant", "content": "Sunny.", "reasoning_content": "Read it."},
            ],
            "tools": [WEATHER_TOOL],
            "parallel_tool_calls": False,
        }
        function = {"name": "weather", "arguments": {"city": "Rome"}}
        history: tuple[Json, ...] = (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "id": "c1", "function": function}],
            },
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        )
        meta = {"parallel_tool_calls": False}
        call = Target(tool_calls=(ToolCall("weather", {"city": "Rome"}),))
        assert convert("openai", row) == [
            Example("r-1", "openai", (WEATHER_TOOL,), history[:2], call, meta),
            Example("r-2", "openai", (WEATHER_TOOL,), history, Target("Read it.", (), "Sunny."), meta),
        ]

    def test_functions_and_function_call_are_the_older_words(self) -> None:
        called = {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        result = {"role": "function", "name": "weather", "content": "sunny"}
        row = {"messages": ask(called, result, {"role": "assistant", "content": "ok"}), "functions": [WEATHER]}
        first, second = convert("openai", row)
        assert first.tools == (WEATHER_TOOL,)
        assert first.target == Target(tool_calls=(ToolCall("weather", {"city": "Rome"}),))
        assert second.messages[-1] == {"role": "tool", "content": "sunny", "name": "weather"}

    def test_a_greeting_and_untrained_messages_are_history_only(self) -> None:
        greeting = {"role": "assistant", "content": "How can I help?"}
        skipped = {"role": "assistant", "content": "Hm.", "weight": 0}
        row = {"messages": [greeting, *ask(skipped, {"role": "assistant", "content": "Yes."})]}
        [example] = convert("openai", row)
        assert example == Example("r-1", "openai", (), (greeting, *ask(skipped)), Target(None, (), "Yes."), {})

    @pytest.mark.parametrize("arguments", ["", " ", None])
    def test_no_arguments_are_an_empty_object(self, arguments: object) -> None:
        [example] = convert("openai", {"messages": ask(message_call("ping", arguments))})
        assert example.target == Target(tool_calls=(ToolCall("ping", {}),))

    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            (None, "messages must be a list, not null"),
            ([1], "messages[0] must be an object, not a number"),
            ([], "no user message"),
            ([{"role": "assistant", "content": "a"}], "no user message"),
            (ask(), "no assistant step"),
            ([{"role": "assistant", "content": "a"}, *ask()], "no assistant step"),
            ([{"role": "bot", "content": "a"}], "unknown role: messages[0]: 'bot'"),
            ([{"role": ["user"], "content": "a"}], "messages[0].role must be a string, not a list"),
            ([{"role": "user", "content": None}], "no content: messages[0]"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "content is not text: messages[0].content"),
            (ask({"role": "assistant", "content": ""}), "empty assistant step"),
            (ask(message_call("weather", "city=Rome")), "arguments not JSON: 'city=Rome'"),
            (ask(message_call("weather", "[1]")), "arguments of 'weather' must be an object, not a list"),
            (ask(message_call("weather", '"\\"{}\\""')), "must be an object, not a string"),
            (ask({"role": "assistant", "tool_calls": {}}), "messages[1].tool_calls must be a list"),
            (ask({"role": "assistant", "tool_calls": [{}]}), "tool call must be an object, not null"),
        ],
    )
    def test_a_malformed_row_is_refused(self, messages: object, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            convert("openai", {"messages": messages, "tools": [WEATHER_TOOL]})


class TestExamples:
    ROW: Json = {
        "id": "mine",
        "source": "xlam",
        "tools": [WEATHER_TOOL],
        "messages": ask(),
        "target": {
            "thought": None,
            "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}],
            "response": None,
        },
        "meta": {"id": 17},
    }

    def test_our_own_record_passes_unchanged(self) -> None:
        assert [example.to_json() for example in convert("examples", self.ROW)] == [self.ROW]

    def test_an_unknown_field_goes_to_meta(self) -> None:
        [example] = convert("examples", {**self.ROW, "split": "train"})
        assert example.meta == {"split": "train", "id": 17}

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"target": []}, "target must be an object, not a list"),
            ({"tools": [{"type": "function"}]}, "tools[0].function must be an object, not null"),
            ({"messages": [{"role": "user"}]}, "no content: messages[0]"),
        ],
    )
    def test_a_broken_record_is_refused(self, change: Json, reason: str) -> None:
        with pytest.raises(DataError, match=re.escape(reason)):
            convert("examples", {**self.ROW, **change})


TRIPLE = {"instruction": INSTRUCTION, "input": HISTORY, "output": OUTPUT}
QUERY = {"query": "Q", "tools": "[]", "answers": "[]"}
CHAT = {"messages": ask({"role": "assistant", "content": "a"})}


class TestRegistry:
    @pytest.mark.parametrize(
        ("row", "name"),
        [(TRIPLE, "toolrl"), (QUERY, "xlam"), (CHAT, "openai"), (TestExamples.ROW, "examples")],
    )
    def test_each_row_is_recognised_by_its_source_alone(self, row: Json, name: str) -> None:
        assert [source.name for source in SOURCES.values() if source.recognises(row)] == [name]
        assert detect_source([{"noise": 1}, row]).name == name

    def test_an_unknown_row_names_its_keys_and_the_sources(self) -> None:
        message = f"unknown row format (keys: question, answer); pass --from with one of {', '.join(SOURCES)}"
        with pytest.raises(DataError, match=re.escape(message)):
            detect_source([{"question": 1, "answer": 2}])

    def test_a_plain_alpaca_triple_is_not_claimed(self) -> None:
        with pytest.raises(DataError, match="unknown row format"):
            detect_source([{"instruction": "Add.", "input": "1 + 1", "output": "2"}])

    def test_rows_of_two_sources_are_undecidable(self) -> None:
        with pytest.raises(DataError, match="holds rows of xlam and openai; split the file"):
            detect_source([QUERY, CHAT])

    def test_an_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown source 'xlan'; choose from .*examples, .*xlam"):
            find_source("xlan")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(OUTPUT) | st.just(HISTORY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "name", "arguments", "function", "type", "parameters", "required"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = sorted({*TRIPLE, *QUERY, *CHAT, *TestExamples.ROW, "functions", "prompt", "reward_model", "extra_info"})


@settings(max_examples=300, deadline=None)
@given(row=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=7))
def test_no_row_raises_anything_but_a_data_error(row: Json) -> None:
    for source in SOURCES.values():
        source.recognises(row)
        try:
            source.convert(row, "r")
        except DataError:
            continue
