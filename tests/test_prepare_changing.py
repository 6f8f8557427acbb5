"""Changes to examples: what they do, how often, and that they are the same whatever else is in the file."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from toolrl_cli.prepare.changing import change, mask_names
from toolrl_cli.prepare.config import Changes
from toolrl_cli.records import Example, Json, Target, ToolCall
from toolrl_cli.sources.validation import check_calls


def tool(name: str, *parameters: str) -> Json:
    properties = {parameter: {"type": "string", "description": f"The {parameter}."} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters[:1])}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


TOOLS = (tool("weather", "city", "day"), tool("timer", "minutes"), tool("mail", "to", "text"))
HISTORY: tuple[Json, ...] = (
    {"role": "user", "content": "Ring in five, then say how Rome is."},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "A timer.",
        "tool_calls": [{"type": "function", "function": {"name": "timer", "arguments": {"minutes": "5"}}}],
    },
    {"role": "tool", "name": "timer", "content": "ok"},
)


def example(id: str = "a-1", **fields: Any) -> Example:
    target = Target("Rome, then.", (ToolCall("weather", {"city": "Rome"}),), None)
    return Example(**{"id": id, "source": "a", "tools": TOOLS, "messages": HISTORY, "target": target, **fields})


def changed(*examples: Example, seed: int = 0, **changes: Any) -> list[Example]:
    return change(examples or [example()], Changes(**changes), seed, Counter())


def names(some: Example) -> list[str]:
    return [t["function"]["name"] for t in some.tools]


def test_nothing_asked_changes_nothing() -> None:
    assert changed() == [example()]


def test_only_the_last_step_is_kept() -> None:
    counts = Counter[str]()
    steps = [example(f"a-{n}") for n in range(3)]
    assert change(steps, Changes(last_step=True), 0, counts) == [steps[2]]
    assert counts == {"earlier step left out": 2}


def test_thoughts_go_from_history_and_target() -> None:
    (dropped,) = changed(thought="drop")
    assert dropped.target.thought is None
    assert all("reasoning_content" not in message for message in dropped.messages)
    (placeholder,) = changed(thought="placeholder")
    assert placeholder.target.thought == "I call the tools that fit."
    alone = example(target=Target("Only a thought."))
    assert changed(alone, thought="drop") == [alone], "something must be left to learn"


def test_called_tools_are_never_limited_away() -> None:
    for seed in range(20):
        (limited,) = changed(max_tools=2, seed=seed)
        assert names(limited) == ["weather", "timer"]
    (one,) = changed(max_tools=1)
    assert names(one) == ["weather", "timer"], "both are called"
    free = example(messages=HISTORY[:1], target=Target(response="No."))
    assert {tuple(names(changed(free, max_tools=1, seed=seed)[0])) for seed in range(30)} == {
        ("weather",),
        ("timer",),
        ("mail",),
    }


def test_tools_are_shuffled_by_seed_and_id() -> None:
    orders = {tuple(names(changed(example(f"a-{n}"), shuffle_tools=True)[0])) for n in range(60)}
    assert len(orders) == 6
    assert changed(shuffle_tools=True) == changed(shuffle_tools=True)


def test_irrelevance_drops_the_gold_tool_and_abstains() -> None:
    (some,) = changed(irrelevance=1.0)
    assert names(some) == ["timer", "mail"]
    assert some.target == Target(response="None of the available tools can do this.")
    assert some.meta == {"irrelevance": ["weather"]}
    again = example(target=Target(None, (ToolCall("timer", {"minutes": "6"}),), None))
    alone = example(tools=TOOLS[:1], messages=HISTORY[:1])
    abstains = example(target=Target(response="No."))
    for kept in (again, alone, abstains):
        assert changed(kept, irrelevance=1.0) == [kept]


def test_masking_is_consistent_and_hides_every_name() -> None:
    (masked,) = changed(mask_names=1.0)
    original = masked.meta["masked_names"]
    assert sorted(original.values()) == ["mail", "timer", "weather"]
    assert not check_calls(masked)
    seen = json.dumps([masked.tools, [m for m in masked.messages if m["role"] != "user"], masked.target.to_json()])
    for name in ("weather", "timer", "mail", "city", "minutes", "day"):
        assert f'"{name}"' not in seen
    (call,) = masked.target.tool_calls
    assert original[call.name] == "weather"
    assert list(call.arguments.values()) == ["Rome"]
    earlier = masked.messages[1]["tool_calls"][0]["function"]
    assert original[earlier["name"]] == original[masked.messages[2]["name"]] == "timer"
    schema = next(t["function"] for t in masked.tools if t["function"]["name"] == call.name)["parameters"]
    assert call.arguments.keys() == set(schema["required"])


def test_masking_takes_broken_schemas_and_undeclared_tools() -> None:
    import random

    broken = {"type": "function", "function": {"name": "x", "parameters": {"properties": 5, "required": [1, {}]}}}
    some = example(tools=(broken,), target=Target(None, (ToolCall("gone", {"a": 1}),), None))
    assert mask_names(some, random.Random(0)).target.tool_calls == (ToolCall("gone", {"a": 1}),)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_is_about_that_share_and_independent_of_the_others(share: float) -> None:
    examples = [example(f"a-{n}") for n in range(2000)]
    masked = [some for some in changed(*examples, mask_names=share) if "masked_names" in some.meta]
    assert abs(len(masked) / 2000 - share) < 0.03
    ids = {some.id for some in masked}
    for some in examples[:200]:
        assert ("masked_names" in changed(some, mask_names=share)[0].meta) == (some.id in ids)
    other = {some.id for some in changed(*examples, mask_names=share, seed=1) if "masked_names" in some.meta}
    assert other != ids


TOLD = "You are a weather bot in the city. Always use get_weather with city and max_days; weather knows more."


def test_masking_reaches_the_tools_that_a_system_message_names() -> None:
    tools = (tool("get_weather", "city", "max_days"), tool("weather", "city"))
    asked = {"role": "user", "content": "I want get_weather, please."}
    some = example(tools=tools, messages=({"role": "system", "content": TOLD}, asked), target=Target(response="No."))
    (masked,) = changed(some, mask_names=1.0)
    long, short = (t["function"] for t in masked.tools)
    (days,) = set(long["parameters"]["properties"]) - set(long["parameters"]["required"])
    assert masked.messages == (
        {
            "role": "system",
            "content": f"You are a {short['name']} bot in the city. Always use {long['name']} with city and {days}; "
            f"{short['name']} knows more.",
        },
        asked,
    )


def test_plain_names_of_tools_are_masked_where_they_stand_as_names() -> None:
    thought = "The weather: I call weather, `weather`, weather(city) or the weather tool; using weather is bad weather."
    (masked,) = changed(example(target=Target(thought, (), "I use weather.")), mask_names=1.0)
    name = masked.tools[0]["function"]["name"]
    assert masked.target.thought == (
        f"The weather: I call {name}, `{name}`, {name}(city) or the {name} tool; using {name} is bad weather."
    )
    assert masked.target.response == f"I use {name}."


def test_a_call_fits_its_masked_schema_whatever_that_says_of_its_parameters() -> None:
    either = tool("weather", "city", "day")
    either["function"]["parameters"] |= {"required": [], "anyOf": [{"required": ["city"]}, {"required": ["day"]}]}
    (masked,) = changed(example(tools=(either, *TOOLS[1:])), mask_names=1.0)
    assert masked.target.tool_calls[0].arguments == {"city": "Rome"}
    assert not check_calls(masked)


def test_masking_reaches_texts_but_not_plain_words_or_users() -> None:
    names = ("Search Managers", "get_weather", "regions", "max_results")
    tools = (tool("Search Managers", "max_results"), tool("get_weather", "city"), tool("regions", "q"))
    told = "Search Managers, get_weather(max_results) and regions"
    some = example(
        tools=tools,
        messages=(
            {"role": "user", "content": told},
            {"role": "assistant", "content": told, "reasoning_content": told},
            {"role": "tool", "content": told},
        ),
        target=Target(told, (), told),
    )
    (masked,) = changed(some, mask_names=1.0)
    assert masked.messages[0]["content"] == told
    texts = [masked.messages[1]["content"], masked.messages[1]["reasoning_content"], masked.messages[2]["content"]]
    texts += [masked.target.thought, masked.target.response, masked.tools[0]["function"]["description"]]
    for text in texts[:-1]:
        assert [name for name in names if name in text] == ["regions"]
    assert "Search Managers" not in texts[-1]
    (without,) = changed(example(tools=()), mask_names=1.0)
    assert without == example(tools=())


def test_masking_reaches_the_descriptions_of_parameters_each_by_its_own_names() -> None:
    """Two tools have a parameter of the same name."""
    one, other = (tool(name, "unit_name", "range") for name in ("get_one", "get_other"))
    for function in (one["function"], other["function"]):
        properties = function["parameters"]["properties"]
        properties["range"] = {
            "type": "object",
            "default": {"description": "unit_name"},
            "properties": {"low": {"type": "number", "description": "In unit_name, see get_other"}},
        }
    (masked,) = changed(example(tools=(one, other), target=Target("No.")), mask_names=1.0)
    unmasked = {name: masked_name for masked_name, name in masked.meta["masked_names"].items()}
    for function in (t["function"] for t in masked.tools):
        unit, limits = function["parameters"]["properties"]
        schema = function["parameters"]["properties"][limits]
        assert schema["properties"]["low"]["description"] == f"In {unit}, see {unmasked['get_other']}"
        assert schema["default"] == {"description": "unit_name"}
        assert function["parameters"]["properties"][unit]["description"] == f"The {unit}."
