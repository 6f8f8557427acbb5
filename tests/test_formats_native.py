"""The models' own formats: prompts through real chat templates, targets there and back, hostile completions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from test_formats import json_values

from toolrl_cli.errors import ConfigError, DataError, FormatError
from toolrl_cli.formats import FORMATS, find_format, native_format
from toolrl_cli.formats.hermes import HermesFormat
from toolrl_cli.formats.llama3 import Llama3Format
from toolrl_cli.records import Example, ExtendedCall, Json, PredictedCall, Target, ToolCall
from toolrl_cli.sources.registry import find_source

HERMES, LLAMA3 = HermesFormat(), Llama3Format()
DATA = Path(__file__).parents[1].parent / "shared" / "data"
F_OF_1 = ToolCall("f", {"a": 1})
G = ToolCall("g", {})
TOOLS: list[Json] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a città <now>.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}},
]


def called(name: str, **arguments: Any) -> Json:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


DIALOGUE: list[Json] = [
    {"role": "system", "content": "Answer in verse."},
    {"role": "user", "content": "Rome?"},
    {"role": "assistant", "content": None, "tool_calls": [called("weather", city="Rème")]},
    {"role": "tool", "content": '{"sky": "blù"}', "name": "weather"},
    {"role": "assistant", "content": "Blue sky.", "reasoning_content": "The result is there.", "tool_calls": []},
    {"role": "user", "content": "And tomorrow?"},
]


def chat_templates() -> Path:
    """The folder of real chat templates that TRL ships."""
    trl = pytest.importorskip("trl")
    return Path(trl.__file__).parent / "chat_templates"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def through(tokenizer: Any, name: str) -> Callable[..., str]:
    """`apply_chat_template` of a tokenizer with the chat template of a real model."""
    path = chat_templates() / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"TRL has no {name}.jinja")
    tokenizer.bos_token = "<s>"

    def apply(messages: list[Json], tools: list[Json] | None, *, prompt: bool = True) -> str:
        text: str = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=path.read_text("utf-8"), add_generation_prompt=prompt, tokenize=False
        )
        return text

    return apply


HERMES_TEMPLATES = ("qwen2_5", "qwen3", "qwen3_instruct_2507")
LLAMA3_TEMPLATES = ("llama3_1", "llama3_2")


class TestPrompt:
    @pytest.mark.parametrize("name", HERMES_TEMPLATES + LLAMA3_TEMPLATES)
    @pytest.mark.parametrize("start", [0, 1], ids=["system", "no system"])
    def test_it_is_what_the_models_own_template_writes(self, tokenizer: Any, name: str, start: int) -> None:
        text_format, apply = (LLAMA3 if name in LLAMA3_TEMPLATES else HERMES), through(tokenizer, name)
        messages = DIALOGUE[start:]
        given = [message | {"content": message["content"] or ""} for message in messages]
        given = [{key: value for key, value in message.items() if value != []} for message in given]
        assert apply(*text_format.render_prompt(TOOLS, messages)) == apply(given, TOOLS)
        assert apply(*text_format.render_prompt([], messages)) == apply(given, None)

    @pytest.mark.parametrize("name", HERMES_TEMPLATES)
    def test_null_content_is_as_good_as_none(self, tokenizer: Any, name: str) -> None:
        messages = [*DIALOGUE, {"role": "assistant", "content": None}, {"role": "user", "content": None}]
        assert "None" not in through(tokenizer, name)(*HERMES.render_prompt(TOOLS, messages))

    def test_the_words_of_a_data_set_for_its_types_stay_out(self) -> None:
        spec = {"type": "number", "x-type": "float"}
        unknown = {"x-type": "Callable"}
        tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": spec, "b": unknown}}}}
        assert HERMES.render_prompt([tool], []).tools == [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"properties": {"a": {"type": "number"}, "b": unknown}}},
            }
        ]

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ({"role": "bot", "content": "Hi"}, "unknown role 'bot'; choose from system, user, assistant, tool"),
            ({"role": "user", "content": [1]}, "content must be a string, not a list"),
        ],
    )
    def test_what_no_template_shows(self, message: Json, why: str) -> None:
        with pytest.raises(DataError) as error:
            HERMES.render_prompt([], [message])
        assert str(error.value) == why

    def test_llama3_shows_one_call_a_message(self) -> None:
        with pytest.raises(DataError, match="several calls, and the llama3 format shows one a message"):
            LLAMA3.render_prompt([], [{"role": "assistant", "content": None, "tool_calls": [called("f"), called("g")]}])


class TestNative:
    @pytest.mark.parametrize("name", HERMES_TEMPLATES + LLAMA3_TEMPLATES + ("qwen3_training", "qwen3_vl"))
    def test_it_is_found_by_the_chat_template(self, name: str) -> None:
        path = chat_templates() / f"{name}.jinja"
        if not path.exists():
            pytest.skip(f"TRL has no {name}.jinja")
        expected = Llama3Format if name in LLAMA3_TEMPLATES else HermesFormat
        assert type(native_format(path.read_text("utf-8"))) is expected

    @pytest.mark.slow
    def test_every_real_chat_template_is_found_or_refused(self) -> None:
        for path in chat_templates().glob("*.jinja"):
            with suppress(ConfigError):
                native_format(path.read_text("utf-8"))

    @pytest.mark.parametrize(
        ("template", "why"),
        [
            (
                "{% for m in messages %}{{ m.content }}{% endfor %}",
                "the model's chat template shows no tools; use --format toolrl",
            ),
            (
                "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}",
                "the model's chat template writes a call as '', which is neither hermes nor llama3; ",
            ),
            ("{% for", "the model's chat template cannot write a call: "),
            ("{{ raise_exception('no tools') }}", "the model's chat template cannot write a call: no tools"),
            (
                "{{ messages.__class__.__mro__ }}",
                "the model's chat template cannot write a call: access to attribute '__class__' of 'list' object is",
            ),
        ],
    )
    def test_a_chat_template_of_no_format_we_have(self, template: str, why: str) -> None:
        with pytest.raises(ConfigError) as error:
            native_format(template)
        assert str(error.value).startswith(why)


HERMES_GOLD = [
    (Target(), ""),
    (Target(None, (), "Hi\n there"), "Hi\n there"),
    (Target("t", (), None), "<think>\nt\n</think>\n\n"),
    (Target("", (), "Hi"), "<think>\n\n</think>\n\nHi"),
    (
        Target("I could <tool_call>", (ToolCall("f é", {"a": "\n</tool_call>\n"}), G), None),
        '<think>\nI could <tool_call>\n</think>\n\n<tool_call>\n{"name": "f é", "arguments": '
        '{"a": "\\n</tool_call>\\n"}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    ),
    (
        Target(None, (F_OF_1,), "Wait."),
        'Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    ),
]
LLAMA3_GOLD = [
    (Target(), ""),
    (Target(None, (), "Hi\n there"), "Hi\n there"),
    (Target(None, (), '{"sum": 3}'), '{"sum": 3}'),
    (Target(None, (), '{"@type": "Item", "by": {"name": "Ada"}}'), '{"@type": "Item", "by": {"name": "Ada"}}'),
    (Target(None, (F_OF_1,)), '{"name": "f", "parameters": {"a": 1}}'),
    (
        Target(None, (F_OF_1, ToolCall("g", {"b": "; é"}))),
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {"b": "; é"}}',
    ),
]
GOLD = [("hermes", *gold) for gold in HERMES_GOLD] + [("llama3", *gold) for gold in LLAMA3_GOLD]
UNSAYABLE = [
    ("hermes", Target(None, (), ""), "its response"),
    ("hermes", Target("a </think>\nb", (), None), "its thought"),
    ("hermes", Target(None, (), "<think>"), "<think> is not closed"),
    ("hermes", Target(None, (), 'a\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'), "its tool calls"),
    ("llama3", Target("t", (F_OF_1,)), "its thought"),
    ("llama3", Target(None, (F_OF_1,), "r"), "its response"),
    ("llama3", Target(None, (), '{"name": "f", "parameters": {}}'), "its tool calls"),
    ("llama3", Target(None, (), '{"name": 1} is JSON'), "call is not JSON: 'is JSON'"),
    ("llama3", Target(None, (), '{"name": "Ada"}'), 'a call needs a "name" string and a "parameters" object'),
]
PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "\n",
    " ",
    ";",
    "[",
    '{"name": "f", "arguments": {"a": 1}}',
    '{"name": "f", "parameters": {}}',
    "NaN",
    "a",
]
hostile = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
texts = st.text() | hostile
calls = st.builds(ToolCall, texts, st.dictionaries(st.text(), json_values | texts, max_size=3))
targets = st.builds(Target, st.none() | texts, st.lists(calls, max_size=3).map(tuple), st.none() | texts)
formats = st.sampled_from([HERMES, LLAMA3])


class TestTarget:
    @pytest.mark.parametrize(("name", "target", "text"), GOLD, ids=range(len(GOLD)))
    def test_it_is_rendered_and_read_back(self, name: str, target: Target, text: str) -> None:
        text_format = find_format(name)
        assert text_format.render_target(target) == text
        assert text_format.parse_target(text) == target
        assert text_format.parse_tool_calls(text) == [PredictedCall(c.name, c.arguments) for c in target.tool_calls]

    @pytest.mark.parametrize(("name", "target", "why"), UNSAYABLE, ids=range(len(UNSAYABLE)))
    def test_what_a_format_cannot_express(self, name: str, target: Target, why: str) -> None:
        with pytest.raises(FormatError) as error:
            find_format(name).render_target(target)
        remedy = "toolrl prepare --thought drop takes it away" if why == "its thought" else "--format toolrl can"
        what = f"{why}; {remedy}" if why.startswith("its ") else why
        assert str(error.value) == f"the {name} format cannot express this target ({what})"

    @given(formats, targets)
    @example(HERMES, Target("\n", (), "\n"))
    @example(HERMES, Target("</think>", (ToolCall("\u2028", {"</think>": "\r\n"}),), " \n"))
    @example(LLAMA3, Target(None, (), '[{"name":'))
    def test_every_target_is_read_back_or_refused(self, text_format: Any, target: Target) -> None:
        try:
            text = text_format.render_target(target)
        except FormatError:
            return
        assert text_format.parse_target(text) == target

    @given(st.none() | st.text(), st.lists(calls, min_size=1, max_size=3).map(tuple), st.none() | st.text(min_size=1))
    def test_hermes_expresses_what_holds_no_tags(self, thought: str | None, gold: Any, response: str | None) -> None:
        target = Target(thought, gold, response)
        assert HERMES.parse_target(HERMES.render_target(target)) == target

    @given(st.lists(calls, min_size=1, max_size=3).map(tuple))
    def test_llama3_expresses_any_calls(self, gold: Any) -> None:
        text = LLAMA3.render_target(Target(tool_calls=gold))
        assert LLAMA3.parse_tool_calls(text) == [PredictedCall(c.name, c.arguments) for c in gold]

    @pytest.mark.parametrize("name", HERMES_TEMPLATES)
    @pytest.mark.parametrize("response", [None, "Wait."])
    def test_hermes_writes_a_step_as_the_model_does(self, tokenizer: Any, name: str, response: str | None) -> None:
        thought = "Two calls.\n" * 2 + "Yes." if name == "qwen3" else None
        target = Target(
            thought, (ToolCall("weather", {"city": "Rème", "n": [1.5, None]}), ToolCall("ping", {})), response
        )
        self.compare_with_the_template(HERMES, through(tokenizer, name), target)

    @pytest.mark.parametrize("name", LLAMA3_TEMPLATES)
    @pytest.mark.parametrize("target", [Target(None, (ToolCall("weather", {"city": "Rème"}),)), Target(None, (), "Hi")])
    def test_llama3_writes_a_step_as_the_model_does(self, tokenizer: Any, name: str, target: Target) -> None:
        self.compare_with_the_template(LLAMA3, through(tokenizer, name), target)

    def compare_with_the_template(self, text_format: Any, apply: Callable[..., str], target: Target) -> None:
        """Prompt and target together are the dialogue that the template writes, up to the end of the turn."""
        messages, tools = text_format.render_prompt(TOOLS, DIALOGUE)
        step: Json = {"role": "assistant", "content": target.response or "", "reasoning_content": target.thought}
        if target.tool_calls:
            step["tool_calls"] = [called(c.name, **c.arguments) for c in target.tool_calls]
        whole = apply([*messages, step], tools, prompt=False)
        end = "<|eot_id|>" if text_format is LLAMA3 else "<|im_end|>\n"
        assert whole == apply(messages, tools) + text_format.render_target(target) + end


HERMES_CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
PREDICTED = PredictedCall("f", {"a": 1})
READ = [
    ("hermes", "", []),
    ("hermes", "no call", []),
    ("hermes", f"Sure. {HERMES_CALL} Done. {HERMES_CALL}", [PREDICTED, PREDICTED]),
    ("hermes", f"<think>{HERMES_CALL}", []),
    ("hermes", f"<think>{HERMES_CALL}</think>", []),
    ("hermes", f"<think>a</think>{HERMES_CALL}", [PREDICTED]),
    ("hermes", f"thought that the prompt opened\n</think>\n\n{HERMES_CALL}", [PREDICTED]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "</think>"}}', [PredictedCall("f", {"a": "</think>"})]),
    ("hermes", '<tool_call>\n{\n "name": "f",\n "arguments": {"a": 1}\n}\n</tool_call>', [PREDICTED]),
    ("hermes", '<tool_call>{"name": "f", "parameters": {}}', [ExtendedCall("f", None)]),
    ("llama3", "", []),
    ("llama3", "no call", []),
    ("llama3", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [PREDICTED]),
    ("llama3", '[{"name": "f", "parameters": {"a": 1}}, {"name": "f", "parameters": {"a": 1}}]', [PREDICTED] * 2),
    ("llama3", '{"name": "f", "parameters": {"a": 1}}\n{"name": "f", "parameters": {"a": 1}}', [PREDICTED] * 2),
    ("llama3", '{"type": "function", "name": "f", "parameters": {}}', [ExtendedCall("f", {})]),
    ("llama3", '{"answer": 3}', []),
    ("llama3", '{"a": broken', []),
    ("llama3", 'I call {"name": "f", "parameters": {}}', []),
    ("llama3", "[note] it has a name", []),
]
UNREADABLE = [
    ("hermes", "<tool_call></tool_call>", "call is not JSON: '</tool_call>'"),
    ("hermes", "<tool_call>f()</tool_call>", "call is not JSON: 'f()</tool_call>'"),
    ("hermes", '<tool_call>{"name": "f"} so</tool_call>', "call is followed by ' so</tool_call>'"),
    ("hermes", '<tool_call>[{"name": "f"}]', """call is no object with a "name": '[{"name": "f"}]'"""),
    ("hermes", "<tool_call>" + "[" * 10_000, f"call is not JSON: {'[' * 80!r}"),
    ("llama3", '{"name": "f", "parameters": {}', """call is not JSON: '{"name": "f", "parameters": {}'"""),
    ("llama3", '{"name": "f", "parameters": {}} so', "call is not JSON: 'so'"),
    ("llama3", '{"a": 1}; {"name": "f"}', """call is no object with a "name": '{"a": 1}; {"name": "f"}'"""),
    ("llama3", '{"name": ' + "[" * 10_000, 'call is not JSON: \'{"name": ' + "[" * 71 + "'"),
]


class TestToolCalls:
    @pytest.mark.parametrize(("name", "text", "found"), READ, ids=range(len(READ)))
    def test_what_is_read(self, name: str, text: str, found: list[PredictedCall]) -> None:
        assert find_format(name).parse_tool_calls(text) == found

    @pytest.mark.parametrize(("name", "text", "why"), UNREADABLE, ids=range(len(UNREADABLE)))
    def test_what_cannot_be_read(self, name: str, text: str, why: str) -> None:
        with pytest.raises(FormatError) as error:
            find_format(name).parse_tool_calls(text)
        assert str(error.value) == why

    @given(formats, texts)
    def test_any_text_is_read_or_refused(self, text_format: Any, text: str) -> None:
        for parse in (text_format.parse_tool_calls, text_format.parse_target):
            with suppress(FormatError):
                parse(text)

    @pytest.mark.parametrize(
        "unit", ["<tool_call>", "</think>\n", '{"name": "f"};', "[{", "<think></think>", HERMES_CALL]
    )
    def test_hostile_text_takes_no_longer_than_other_text(self, unit: str) -> None:
        began = time.process_time()
        for text_format in (HERMES, LLAMA3):
            for text in (unit * 20_000, "<think>" + unit * 20_000, '{"name": ' + unit * 20_000):
                with suppress(FormatError):
                    text_format.parse_tool_calls(text)
                with suppress(FormatError):
                    text_format.parse_target(text)
                with suppress(FormatError):
                    text_format.parse_leniently(text)
                for target in (Target(tool_calls=(G,)), Target(response="r")):
                    text_format.explain_form(text, target)
        assert time.process_time() - began < 3

    @given(targets)
    def test_gold_calls_are_read_from_a_completion_too(self, target: Target) -> None:
        assume("<tool_call>" not in (target.response or "") and "</think>" not in str(target))
        with suppress(FormatError):
            found = HERMES.parse_tool_calls(HERMES.render_target(target))
            assert found == [PredictedCall(c.name, c.arguments) for c in target.tool_calls]


def real_examples(source: str, *names: str) -> Iterator[Example]:
    from test_sources import real_rows

    for name in names:
        for row in real_rows(DATA / name):
            yield from find_source(source).convert(row, "r")


@pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("source", "names", "count", "held"),
    [
        ("toolrl", ["toolrl/rlla_sft.json"], 400, {"toolrl": 400, "hermes": 400}),
        ("toolrl", ["toolrl/rlla_rl_test.jsonl"], 80, {"toolrl": 80, "hermes": 80}),
        (
            "xlam",
            ["hammer/test_original_sealtool.json", "hammer/test_original_toolalpaca.json"],
            408,
            {"hermes": 408, "llama3": 408},
        ),
        ("openai", ["openai_cookbook/drone_training.excerpt.jsonl"], 3, {"hermes": 3, "llama3": 3}),
    ],
)
def test_how_many_real_examples_each_format_holds(source: str, names: list[str], count: int, held: Json) -> None:
    """llama3 has no thoughts; toolrl gives a thought to the examples that have none."""
    examples = list(real_examples(source, *names))
    found: Counter[str] = Counter()
    for name in FORMATS:
        text_format = find_format(name)
        for example_ in examples:
            text_format.render_prompt(example_.tools, example_.messages)
            with suppress(FormatError):
                text = text_format.render_target(example_.target)
                found[name] += text_format.parse_target(text) == example_.target
    assert (len(examples), +found) == (count, Counter(held))
