"""What goes over the wire: OpenAI's protocol to the letter, and what a server does not take is left out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bfcl_gold import gold_calls, gold_dialogues
from chat_servers import refuse, reply, say, serve
from conftest import EXAMPLES, WEATHER, read_rows, write_lines
from openai_rules import find_faults
from servers import Act

from toolrl_cli.benches.bfcl.bench import find_package
from toolrl_cli.benches.bfcl.editions import EDITIONS
from toolrl_cli.benches.leaderboard import kind_of
from toolrl_cli.evaluation import EvalConfig, evaluate, rescore, to_prompt
from toolrl_cli.formats import find_format
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.endpoint import Endpoint, EndpointEngine
from toolrl_cli.inference.wire import build_request, leave_out, read_reply, refused_parameter, safe_names
from toolrl_cli.records import Completion, Json

SERVED = ServedFormat(find_format("toolrl"))


def tool(name: str, **parameters: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def calling(*names: str, **fields: Any) -> Json:
    calls = [{"type": "function", "function": {"name": name, "arguments": {"n": 1}}, **fields} for name in names]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(content: str, **fields: Any) -> Json:
    return {"role": "tool", "content": content, **fields}


def send_history(*messages: Json) -> list[Json]:
    """The messages of a native request, which breaks no rule."""
    chat = SERVED.render_prompt([WEATHER], [{"role": "user", "content": "Go."}, *messages])
    request = build_request(Prompt("p", tuple(chat.messages), tuple(chat.tools or ())), "m", Sampling(9), native=True)
    assert find_faults(json.loads(json.dumps(request))) == []
    return list(request["messages"][1:])


def test_a_history_has_the_fields_of_openai_and_no_others() -> None:
    said = calling("weather", id="own") | {"reasoning_content": "hm", "name": "me"}
    assert send_history(said, result("rain", name="weather"), {"role": "assistant", "content": ""}) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call00000", "type": "function", "function": {"name": "weather", "arguments": '{"n": 1}'}}
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call00000"},
        {"role": "assistant", "content": ""},
    ]


def test_results_find_their_calls_by_id_or_else_in_order() -> None:
    calls = {"role": "assistant", "content": "Both.", "tool_calls": [
        {"id": id, "function": {"name": "weather", "arguments": "{}"}} for id in ("a", "b")
    ]}  # fmt: skip
    first, *rest = send_history(calls, result("B", tool_call_id="b"), result("A", tool_call_id="a"))
    assert first["content"] == "Both."
    assert [(message["content"], message["tool_call_id"]) for message in rest] == [
        ("B", "call00001"),
        ("A", "call00000"),
    ]
    twice = calling("weather", "weather", id="same")
    _, *rest = send_history(twice, result("1"), result("2"))
    assert [(message["content"], message["tool_call_id"]) for message in rest] == [
        ("1", "call00000"),
        ("2", "call00001"),
    ]


def test_calls_and_results_that_do_not_match_break_no_rule() -> None:
    """Nothing that was said is lost."""
    sent = send_history(result("stray"), calling("weather", "weather"), result("1"), {"role": "user", "content": "So?"})
    assert [(message["role"], message["content"]) for message in sent] == [
        ("user", "stray"), ("assistant", None), ("tool", "1"), ("tool", ""), ("user", "So?")
    ]  # fmt: skip
    sent = send_history(calling("weather"), result("1"), result("2"), calling("weather"))
    assert [(message["role"], message["content"]) for message in sent] == [
        ("assistant", None), ("tool", "1"), ("user", "2"), ("assistant", None), ("tool", "")
    ]  # fmt: skip


def test_text_mode_changes_no_message_that_a_template_shows() -> None:
    messages = (result("stray", name="x"), calling("a.b") | {"content": ""}, {"role": "user", "content": "So?"})
    sent = build_request(Prompt("p", messages), "m", Sampling(9), native=False)["messages"]
    assert [message["role"] for message in sent] == ["tool", "assistant", "user"]
    assert (sent[0], sent[1]["tool_calls"][0]["function"]["name"]) == (messages[0], "a.b")


def test_names_are_made_safe_and_stay_apart() -> None:
    long = "x" * 70
    names = ["a.b", "a_b", "a/b", "grüße", long + "1", long + "2", "fine"]
    prompt = Prompt("p", (calling("gone.by"),), tuple(tool(name) for name in names))
    safe = safe_names(prompt)
    assert safe == {
        "a.b": "a_b_2", "a/b": "a_b_3", "grüße": "gr__e", long + "1": "x" * 64, long + "2": "x" * 55 + "_2",
        "gone.by": "gone_by",
    }  # fmt: skip
    request = build_request(prompt, "m", Sampling(9), native=True)
    assert find_faults(json.loads(json.dumps(request))) == []
    calls = [{"id": "1", "type": "function", "function": {"name": "a_b_2", "arguments": "{}"}}]
    completion = read_reply(reply(None, tool_calls=calls), prompt, find_format("toolrl"))
    assert [call.name for call in SERVED.parse_tool_calls(completion.text)] == ["a.b"]


def test_tools_have_the_fields_of_openai_and_arrays_have_items() -> None:
    properties = {"a": {"type": "array"}, "b": {"type": ["array", "null"]}, "type": {"type": "array", "items": {}}}
    given = tool("f", properties=properties)
    given["function"] |= {"response": {"type": "dict"}, "description": "F."}
    bare: Json = {"type": "function", "function": {"name": "g"}}
    sent, without = SERVED.render_prompt([given, bare], [{"role": "user", "content": "Go."}]).tools or ({}, {})
    expected = {"a": {"type": "array", "items": {}}, "b": {"type": ["array", "null"], "items": {}}}
    assert sent == {
        "type": "function",
        "function": {
            "name": "f",
            "description": "F.",
            "parameters": {"type": "object", "properties": {**expected, "type": properties["type"]}},
        },
    }
    assert without["function"] == {"name": "g", "parameters": {"type": "object", "properties": {}}}


# --- parameters that a model does not take ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (
            "status 400: Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "max_tokens",
        ),
        (
            "status 400: Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
            "value is supported.",
            "temperature",
        ),
        ("status 400: This model doesn't support the temperature field. Remove temperature", "temperature"),
        ("status 400: litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.0.", "temperature"),
        ("status 422: [{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}]", "seed"),
        ("status 400: max_tokens is too large: 100000. This model supports at most 16384 completion tokens", None),
        ("status 400: Invalid schema for function 'set_temperature': 'dict' is not valid", None),
        ("status 400: unknown model 'm'", None),
    ],
)
def test_a_refusal_names_the_parameter_that_it_is_about(reason: str, name: str | None) -> None:
    request = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.0, "seed": 1}
    assert refused_parameter(reason, request) == name
    if name is not None:
        left = leave_out(request, {name})
        assert refused_parameter(reason, left) is None
        assert left.get("max_completion_tokens", 9) == 9 and left.keys() & {name} == set()


def reason_only(request: Json) -> Act | None:
    """What OpenAI's reasoning models refuse, one thing at a time."""
    if "max_tokens" in request:
        return refuse(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                      "'max_completion_tokens' instead.")  # fmt: skip
    if request.get("temperature", 1) != 1:
        return refuse(400, f"Unsupported value: 'temperature' does not support {request['temperature']} with this "
                      "model. Only the default (1) value is supported.")  # fmt: skip
    return None


def test_a_run_learns_once_what_a_reasoning_model_takes(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "ex.jsonl", EXAMPLES)
    common: Json = {"bench": "examples", "data": data, "served_model": "o", "max_new_tokens": 900}
    with serve(lambda request, _: reason_only(request) or say("Hm.")) as server:
        config = EvalConfig(output=tmp_path / "out", endpoint=server.url, concurrency=1, **common)
        summary = evaluate(config)
        warm = replace(config, output=tmp_path / "warm", temperature=1.0)
        note = "6 answers were drawn by the server's own temperature, since it takes no other"
        assert note in summary.notes and rescore(config.output).summary.notes[-1] == note
        assert evaluate(warm).notes == (), "a temperature of 1 is what the server takes"
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert [(row["completion"], row["unset"]) for row in rows] == [("Hm.", ["temperature"])] * 6
    cold = [request for request in server.requests if "seed" not in request]
    assert len(cold) == 2 + 6
    assert [request.keys() - {"model", "messages"} for request in cold[2:]] == [{"max_completion_tokens"}] * 6
    assert {request["max_completion_tokens"] for request in cold[2:]} == {900}


def test_a_refusal_that_stays_is_of_the_prompt_and_teaches_nothing() -> None:
    """A message may speak of temperature for another reason; the next prompt is asked with it again."""
    stubborn = refuse(400, "unit of 'temperature' is not supported")

    def respond(request: Json, earlier: int) -> Act:
        return stubborn if request["messages"][0]["content"] == "bad" else say("fine")

    prompts = [Prompt(id, ({"role": "user", "content": id},)) for id in ("bad", "good")]
    with serve(respond) as server:
        engine = EndpointEngine(Endpoint(server.url, "m", concurrency=1), Sampling(9))
        outcomes = [outcome for _, outcome in engine.generate(prompts)]
    assert outcomes == [Failure("status 400: unit of 'temperature' is not supported", refused=True), Completion("fine")]
    assert ["temperature" in request for request in server.requests] == [True, False, True]


# --- BFCL ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EDITIONS))
def test_every_question_of_bfcl_is_asked_as_the_official_handler_asks_openai(name: str) -> None:
    config = EvalConfig(name, Path("o"), model="m")
    with kind_of(EDITIONS[name]).open(config, SERVED) as bench:
        entries = {entry.id: entry for entry in bench.entries()}
    faults: Counter[str] = Counter()
    for entry in entries.values():
        request = build_request(to_prompt(entry, SERVED), "m", Sampling(9), native=True)
        faults.update(find_faults(json.loads(json.dumps(request))))
    assert (len(entries), faults) == (4441, Counter())
    parameters = [tool["function"]["parameters"] for entry in entries.values() for tool in entry.tools]
    specs = [spec for schema in parameters for spec in schema["properties"].values()]
    assert all("type" in spec for spec in specs), "what may be anything is a string, as officially"
    floats = [spec for spec in specs if spec.get("format") == "float"]
    assert {spec["type"] for spec in floats} == {"number"}
    assert all("This is a float type value." in spec["description"] for spec in floats)
    assert len(floats) > 500


@pytest.mark.slow
def test_the_gold_over_the_wire_is_right(tmp_path: Path) -> None:
    """Dotted names, and dialogues that get new tools: a server that knows the gold answers by native calls alone."""
    package = find_package(None)
    turns = {row["id"]: row["turns"] for row in gold_dialogues(package, "multi_turn_miss_func")[:6]}
    single = {id: calls for name in ("simple_python", "multiple") for id, calls in gold_calls(package, name).items()}
    dotted = [id for id, calls in single.items() if "." in calls[0]["name"]][:30]
    config = EvalConfig(
        "bfcl", tmp_path / "out", ids=(*turns, *dotted), served_model="m", tools="native", endpoint="http://h"
    )
    with kind_of(EDITIONS["bfcl"]).open(config, SERVED) as bench:
        ids = {json.dumps(entry.messages): entry.id for entry in bench.entries() if entry.id in config.ids}
    assert len(ids) == 36

    def respond(request: Json, earlier: int) -> Act:
        messages = request["messages"]
        roles = [message["role"] for message in messages]
        id = ids[json.dumps(messages[: roles.index("assistant") if "assistant" in roles else None])]
        steps = turns[id][roles.count("user") - 1] if id in turns else [{"tool_calls": single[id]}]
        if roles[-1] == "tool" or not steps:
            return say("Done.")
        return say(None, "tool_calls", tool_calls=wire(steps[0]["tool_calls"]))

    with serve(respond) as server:
        summary = evaluate(replace(config, endpoint=server.url))
    assert {name: tally.correct for name, tally in summary.categories.items()} == {
        "simple_python": 30, "multi_turn_miss_func": 6
    }  # fmt: skip
    assert sum(request["messages"][-1]["role"] == "tool" for request in server.requests) > 6


def wire(calls: list[Json]) -> list[Json]:
    """Calls as a server answers them, dots being no part of a name there."""
    return [
        {"id": f"c{i}", "type": "function",
         "function": {"name": call["name"].replace(".", "_"), "arguments": json.dumps(call["arguments"])}}
        for i, call in enumerate(calls)
    ]  # fmt: skip
