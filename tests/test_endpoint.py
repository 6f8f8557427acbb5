"""The endpoint engine against a real server: what fails is asked again, nothing is lost and nothing counted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chat_servers import FAULTS, Respond, Server, refuse, reply, say, serve, stay_silent
from conftest import EXAMPLES, TIMER, WEATHER, InProcess, read_rows, refusal, write_lines
from servers import Act

from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.evaluation import EvalConfig, evaluate
from toolrl_cli.formats import find_format
from toolrl_cli.formats.served import ServedFormat
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.endpoint import (
    MOST_FAILURES,
    Endpoint,
    EndpointEngine,
    completions_url,
    read_key,
)
from toolrl_cli.inference.wire import read_reply
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Completion, Json, Target, ToolCall
from toolrl_cli.web import read_retry_after

GREEDY = Sampling(64)
OSLO = '<think> look </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the developer's goes to a test server."""
    for name in ("TOOLRL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(count)]


def build(server: Server, sampling: Sampling = GREEDY, native: Any = None, **options: Any) -> EndpointEngine:
    settings: Json = {"pause": 0.001, "timeout": 0.8, **options}
    return EndpointEngine(Endpoint(server.url, "m", **settings), sampling, native)


def echo(request: Json) -> Act:
    return say(f"answer to {request['messages'][-1]['content']}")


def number_of(request: Json) -> int:
    return int(request["messages"][-1]["content"].split()[-1])


def test_every_fault_is_survived_and_each_prompt_answered_once() -> None:
    """Each prompt meets two faults, a different pair each, before it is answered; 68 prompts, 8 at a time."""
    faults = list(FAULTS.values())

    def respond(request: Json, earlier: int) -> Act:
        number = number_of(request)
        return faults[(number + earlier * (1 + number // 17)) % 17] if earlier < 2 else echo(request)

    with serve(respond) as server:
        results = list(build(server).generate(prompts(68)))
    assert len(faults) == 17
    assert sorted((prompt.id, outcome) for prompt, outcome in results if isinstance(outcome, Completion)) == sorted(
        (f"p{i}", Completion(f"answer to question {i}")) for i in range(68)
    )
    assert Counter(server.questions()) == {f"question {i}": 3 for i in range(68)}


def test_so_many_requests_run_at_a_time() -> None:
    running, most = set[int](), []

    def respond(request: Json, earlier: int) -> Act:
        running.add(number_of(request))
        time.sleep(0.02)
        most.append(len(running))
        running.discard(number_of(request))
        return echo(request)

    with serve(respond) as server:
        results = list(build(server, concurrency=4, timeout=30.0).generate(prompts(24)))
    assert (len(results), max(most)) == (24, 4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("429", "status 429: no"),
        ("503 in words", "status 503: <html>busy</html>"),
        ("slow", "timed out"),
        ("drip", "timed out"),
        ("cut off", "the answer is no JSON (40 bytes of application/json)"),
        ("malformed", "the answer is no JSON (43 bytes of application/json)"),
        ("no choices", "the answer holds no message (list index out of range)"),
        ("no message", "the answer holds no message (message must be an object, not null)"),
        ("an error", 'the answer is an error: {"message": "upstream failed"}'),
        ("html", "the answer is no JSON (20 bytes of text/html)"),
        ("reset", "Connection reset by peer"),
        ("hang up", "Remote end closed connection without response"),
    ],
)
def test_what_fails_on_end_is_a_failure_with_its_reason(name: str, reason: str) -> None:
    with serve(lambda request, earlier: FAULTS[name]) as server:
        [(_, outcome)] = build(server, retries=1).generate(prompts(1))
    assert outcome == Failure(f"{reason} (tried 2 times)")
    assert len(server.requests) == 2


def test_failures_of_single_prompts_stand_beside_the_others() -> None:
    with serve(lambda request, earlier: refuse(500) if number_of(request) % 3 == 0 else echo(request)) as server:
        results = {p.id: outcome for p, outcome in build(server, retries=2).generate(prompts(30))}
    failed = {id for id, outcome in results.items() if isinstance(outcome, Failure)}
    assert (len(results), failed) == (30, {f"p{i}" for i in range(0, 30, 3)})
    assert Counter(Counter(server.questions()).values()) == {1: 20, 3: 10}


def test_a_server_that_dies_ends_the_run_instead_of_failing_every_entry() -> None:
    with serve(lambda request, earlier: echo(request) if number_of(request) < 5 else refuse(502)) as server:
        engine = build(server, retries=0, concurrency=1)
        with pytest.raises(SetupError, match=rf"{MOST_FAILURES} requests in a row .* status 502: no; check --endpoint"):
            list(engine.generate(prompts(100)))
    # What failed is not among the results, so a resumed run asks for it again.
    assert len(server.requests) <= 5 + MOST_FAILURES + 1


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_a_wrong_key_or_model_stops_at_once(status: int) -> None:
    with (
        serve(lambda request, earlier: refuse(status, "The model `m` does not exist.", Location="http://x/")) as server,
        pytest.raises(SetupError, match=rf"chat/completions: status {status}: The model `m` does not exist\.; check"),
    ):
        list(build(server, concurrency=1).generate(prompts(5)))
    assert len(server.requests) == 1


def test_a_refused_prompt_costs_itself_alone() -> None:
    too_long = refuse(400, "maximum context length is 4096 tokens")
    with serve(lambda request, earlier: too_long if number_of(request) == 0 else echo(request)) as server:
        results = {prompt.id: outcome for prompt, outcome in build(server).generate(prompts(4))}
    assert results["p0"] == Failure("status 400: maximum context length is 4096 tokens", refused=True)
    assert [type(results[f"p{i}"]) for i in range(1, 4)] == [Completion] * 3
    assert len(server.requests) == 4


def test_where_all_prompts_are_refused_the_request_itself_is_wrong() -> None:
    with (
        serve(lambda request, earlier: refuse(422, "temperature: unknown field")) as server,
        pytest.raises(SetupError, match="status 422: temperature: unknown field"),
    ):
        list(build(server).generate(prompts(3)))


def test_prompts_that_are_all_too_long_are_no_fault_of_the_server() -> None:
    """More in a row than a server may fail; it is asked a short question, once, and then taken to be well."""

    def respond(request: Json, earlier: int) -> Act:
        return say("Hello") if request["messages"][0]["content"] == "Hi" else refuse(400, "too long")

    with serve(respond) as server:
        results = list(build(server).generate(prompts(2 * MOST_FAILURES)))
    assert {outcome for _, outcome in results} == {Failure("status 400: too long", refused=True)}
    assert (len(results), server.questions().count("Hi")) == (2 * MOST_FAILURES, 1)


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with serve(lambda request, earlier: say("x")) as server:
        pass
    start = time.monotonic()
    with pytest.raises(SetupError, match=r"cannot be reached: Connection refused; is the server running\?"):
        list(build(server, pause=30.0).generate(prompts(3)))
    assert time.monotonic() - start < 5


def test_a_pause_grows_and_obeys_the_server() -> None:
    pauses = []

    def respond(request: Json, earlier: int) -> Act:
        pauses.append(time.monotonic())
        return [refuse(500), refuse(429, Retry_After="0.4"), refuse(500), say("done")][earlier]

    with serve(respond) as server:
        [(_, outcome)] = build(server, pause=0.1).generate(prompts(1))
    first, second, third = (after - before for before, after in pairwise(pauses))
    assert outcome == Completion("done")
    assert 0.05 <= first < 0.3
    assert 0.4 <= second < 0.7
    assert 0.2 <= third < 0.7


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), ("0.5", 0.5), ("-1", 0), ("soon", 0), ("", 0), ("nan", 0)])
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float) -> None:
    from email.message import Message
    from email.utils import formatdate

    headers: Any = Message()
    headers["Retry-After"] = value
    assert read_retry_after(headers) == seconds
    headers.replace_header("Retry-After", formatdate(time.time() + 30, usegmt=True))
    assert 25 < read_retry_after(headers) <= 30


@pytest.mark.parametrize(
    ("message", "completion"),
    [
        (reply("text"), Completion("text")),
        (reply("cut of", "length"), Completion("cut of", truncated=True)),
        (reply(None), Completion("")),
        (
            reply([{"type": "text", "text": "te"}, {"type": "image_url"}, {"type": "text", "text": "xt"}]),
            Completion("text"),
        ),
        (reply([]), Completion("")),
        (reply("text", "stop", reasoning_content="hm"), Completion("text")),
    ],
)
def test_an_answer_is_its_text(message: Json, completion: Completion) -> None:
    assert read_reply(message, prompts(1)[0], None) == completion


def test_a_request_is_greedy_unless_a_temperature_is_given() -> None:
    with serve(lambda request, earlier: echo(request)) as server:
        list(build(server).generate(prompts(1)))
        warm = Sampling(9, 0.7, seed=3)
        sampled = [replace(prompts(1)[0], sample=i) for i in range(3)]
        list(build(server, warm, concurrency=1).generate(sampled))
        list(build(server, warm, concurrency=1).generate(sampled))
    message = {"role": "user", "content": "question 0"}
    assert server.requests[0] == {"model": "m", "messages": [message], "max_tokens": 64, "temperature": 0.0}
    seeds = [request["seed"] for request in server.requests[1:]]
    assert (len(set(seeds[:3])), seeds[:3]) == (3, seeds[3:])
    assert server.requests[1] == {
        "model": "m", "messages": [message], "max_tokens": 9, "temperature": 0.7, "top_p": 1.0, "seed": seeds[0]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/", "http://h:8000/v1/chat/completions"),
        ("https://h/api/v1/chat/completions", "https://h/api/v1/chat/completions"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
    ],
)
def test_a_url_may_end_where_people_end_it(url: str, expected: str) -> None:
    assert completions_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "h:8000",
        "http://h:x/v1",
        "http://[h/v1",
        "file:///etc/passwd",
        "http://",
        "http://u:p@h/v1",
        "http://h/v1?key=s3cret",
    ],
)
def test_other_urls_are_refused_without_showing_a_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="TOOLRL_API_KEY") as raised:
        EvalConfig("bfcl", Path("o"), endpoint=url, served_model="m")
    assert "s3cret" not in str(raised.value)
    assert "u:p" not in str(raised.value)


def test_the_key_comes_from_the_environment() -> None:
    assert read_key({}) is None
    assert read_key({"OPENAI_API_KEY": "b", "TOOLRL_API_KEY": " a\n"}) == "a"
    assert read_key({"OPENAI_API_KEY": "b", "TOOLRL_API_KEY": ""}) == "b"
    for wrong in ("clé", "a\nb: c"):
        with pytest.raises(ConfigError, match="TOOLRL_API_KEY: holds other characters"):
            read_key({"TOOLRL_API_KEY": wrong})


# --- evaluation ---------------------------------------------------------------------------------------------------


def configure(folder: Path, server: Server, output: str = "out", **options: Any) -> EvalConfig:
    data = write_lines(folder / "examples.jsonl", EXAMPLES)
    settings: Json = {"endpoint": server.url, "served_model": "m", **options}
    return EvalConfig(bench="examples", output=folder / output, data=data, **settings)


def gold_of(request: Json) -> Json:
    """The example whose question a prompt ends with."""
    return next(e for e in EXAMPLES if e["messages"][0]["content"] in request["messages"][-1]["content"])


def say_gold(request: Json) -> Act:
    from toolrl_cli.records import Target

    return say(find_format("toolrl").render_target(Target.from_json(gold_of(request)["target"])))


def test_the_gold_from_a_faulty_server_scores_as_the_gold_from_a_file(tmp_path: Path) -> None:
    faults = list(FAULTS.values())

    def respond(request: Json, earlier: int) -> Act:
        return faults[(EXAMPLES.index(gold_of(request)) + 6 * earlier) % 17] if earlier < 3 else say_gold(request)

    with serve(respond) as server:
        served = evaluate(configure(tmp_path, server), engine=build(server))
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    recorded = write_lines(tmp_path / "p.jsonl", [{"id": row["id"], "completion": row["completion"]} for row in rows])
    config = EvalConfig("examples", tmp_path / "two", predictions=recorded, data=tmp_path / "examples.jsonl")
    assert sorted(row["id"] for row in rows) == sorted(e["id"] for e in EXAMPLES)
    assert (served.metrics["exact_rate"].value, len(server.requests)) == (1.0, 4 * len(EXAMPLES))
    assert replace(served, source=str(recorded)) == evaluate(config)


def test_an_entry_without_an_answer_is_wrong_and_listed(tmp_path: Path) -> None:
    with serve(
        lambda request, _: refuse(500, "boom") if gold_of(request)["id"] == "tea" else say_gold(request)
    ) as server:
        summary = evaluate(configure(tmp_path, server), engine=build(server, retries=1))
    row = next(row for row in read_rows(tmp_path / "out" / "results.jsonl") if row["id"] == "tea")
    reason = "status 500: boom (tried 2 times)"
    expected = {"correct": False, "outcome": None, "error_type": "engine", "error": reason, "completion": None}
    assert row | expected == row
    assert (summary.n, summary.categories["test"].correct, summary.categories["test"].no_prediction) == (6, 5, 1)
    assert [(entry.id, entry.error_type, entry.error) for entry in summary.errors.shown] == [("tea", "engine", reason)]


def serve_model(folder: Path) -> Respond:
    """Answers as a vLLM server of the model would: its chat template, greedy, finish_reason."""
    from toolrl_cli.inference.transformers_engine import TransformersEngine
    from toolrl_cli.training.models import load_for_inference

    model, tokenizer = load_for_inference(str(folder))

    def respond(request: Json, earlier: int) -> Act:
        engine = TransformersEngine(model, tokenizer, Sampling(request["max_tokens"]), batch_size=1)
        tools = tuple(request["tools"]) if "tools" in request else None
        [(_, completion)] = engine.generate([Prompt("", tuple(request["messages"]), tools)])
        return say(completion.text, "length" if completion.truncated else "stop")

    return respond


def test_a_served_model_does_as_the_model_and_as_its_recorded_answers(tmp_path: Path, tiny_model: Path) -> None:
    with serve(serve_model(tiny_model)) as server:
        served = evaluate(configure(tmp_path, server, "served", max_new_tokens=12, concurrency=2))
    data = tmp_path / "examples.jsonl"
    common: Json = {"bench": "examples", "data": data}
    local = evaluate(EvalConfig(output=tmp_path / "local", model=str(tiny_model), max_new_tokens=12, **common))
    rows = {row["id"]: row for row in read_rows(tmp_path / "served" / "results.jsonl")}
    kept = [{name: row[name] for name in ("id", "completion", "truncated")} for row in rows.values()]
    recorded = evaluate(
        EvalConfig(output=tmp_path / "recorded", predictions=write_lines(tmp_path / "p.jsonl", kept), **common)
    )
    assert {row["id"]: row for row in read_rows(tmp_path / "local" / "results.jsonl")} == rows
    assert replace(served, source="") == replace(local, source="") == replace(recorded, source="")


@pytest.mark.parametrize("format", ["toolrl", "hermes"])
def test_the_server_gets_the_prompt_that_the_local_engine_renders(tiny_model: Path, format: str) -> None:
    from transformers import AutoTokenizer

    from toolrl_cli.benches.base import Entry
    from toolrl_cli.evaluation import to_prompt
    from toolrl_cli.inference.transformers_engine import tokenize_prompt

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    shown = "{% if tools %}{{ tools | tojson }}{% endif %}"
    tokenizer.chat_template = shown + tokenizer.chat_template
    entries = [Entry(e["id"], "test", tuple(e["tools"]), tuple(e["messages"])) for e in EXAMPLES]
    asked = [to_prompt(entry, find_format(format)) for entry in entries]
    with serve(lambda request, earlier: say("x")) as server:
        list(build(server, concurrency=1).generate(asked))
    for prompt, request in zip(asked, server.requests, strict=True):
        text = tokenizer.apply_chat_template(
            request["messages"], tools=request.get("tools"), tokenize=False, add_generation_prompt=True
        )
        assert text == tokenizer.decode(tokenize_prompt(tokenizer, prompt.messages, prompt.tools))
        assert request.get("tool_choice") == (None if format == "toolrl" else "none")


def test_a_killed_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    with serve(lambda request, earlier: say_gold(request)) as server:
        config = configure(tmp_path, server, concurrency=1)
        script = f"""
import os, signal
from pathlib import Path
from toolrl_cli.evaluation import EvalConfig, evaluate
config = EvalConfig("examples", Path({str(config.output)!r}), data=Path({str(config.data)!r}),
                    endpoint={server.url!r}, served_model="m", concurrency=1)
evaluate(config, progress=lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""
        assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -signal.SIGKILL
        done = [row["id"] for row in read_rows(config.output / "results.jsonl")]
        server.asked.clear()
        resumed = evaluate(replace(config, resume=True, concurrency=3, timeout=9.0, retries=1))
        assert sorted(gold_of(r)["id"] for r in server.requests) == sorted({e["id"] for e in EXAMPLES} - {*done})
        whole = evaluate(replace(config, output=tmp_path / "whole"))
    rows = read_rows(config.output / "results.jsonl")
    assert (done, resumed) == (["oslo", "tea", "cook"], whole)
    assert sorted(row["id"] for row in rows) == sorted(e["id"] for e in EXAMPLES)


def test_a_run_goes_on_with_a_server_that_has_moved(tmp_path: Path) -> None:
    def fail_first(request: Json, earlier: int) -> Act:
        return refuse(500, "boom") if gold_of(request)["id"] == "tea" else say_gold(request)

    with serve(fail_first) as first, serve(lambda request, earlier: say_gold(request)) as second:
        config = configure(tmp_path, first, retries=0)
        evaluate(config)
        moved = replace(config, endpoint=second.url, resume=True)
        with pytest.raises(ConfigError, match=r"cannot resume with another config.served_model \('m' before, 'n' now"):
            evaluate(replace(moved, served_model="n"))
        assert evaluate(moved).categories["test"].correct == 6
        manifest = read_manifest(config.output)
        assert (manifest.parent, manifest.endpoints) == (first.url, [first.url, second.url])
        before = (config.output / "manifest.json").read_bytes()
        evaluate(moved)
    assert (config.output / "manifest.json").read_bytes() == before


def test_ctrl_c_ends_promptly_and_keeps_results(tmp_path: Path) -> None:
    """Five of six requests hang, for far longer than the test waits."""

    def respond(request: Json, earlier: int) -> Act:
        return say_gold(request) if gold_of(request)["id"] == "oslo" else stay_silent(60)

    with serve(respond) as server:
        config = configure(tmp_path, server)
        command = [sys.executable, "-m", "toolrl_cli", "eval", "--bench", "examples", "--data", str(config.data)]
        command += ["--endpoint", server.url, "--served-model", "m", "-o", str(config.output)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        results = config.output / "results.jsonl"
        until = time.monotonic() + 30
        while time.monotonic() < until and not (results.exists() and results.read_text()):
            time.sleep(0.02)
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - pressed < 5
    assert (process.returncode, stderr) == (130, "interrupted; finished work is kept\n")
    assert [row["id"] for row in read_rows(results)] == ["oslo"]


def test_the_command_sends_the_key_and_writes_it_nowhere(tmp_path: Path) -> None:
    def respond(request: Json, earlier: int) -> Act:
        tea = gold_of(request)["id"] == "tea"
        return refuse(400, "bad request with key s3cret-key") if tea else say_gold(request)

    with serve(respond) as server:
        config = configure(tmp_path, server)
        command = [sys.executable, "-m", "toolrl_cli", "eval", "--bench", "examples", "--data", str(config.data)]
        command += ["--endpoint", f"{server.url}/v1/", "--served-model", "m", "-o", str(config.output), "--json"]
        environment = os.environ | {"TOOLRL_API_KEY": "s3cret-key"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["categories"]["test"]["correct"] == 5
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer s3cret-key"}
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}
    written = "".join(path.read_text() for path in config.output.iterdir()) + done.stdout
    assert "bad request with key ***" in written
    assert "s3cret" not in written
    manifest = json.loads((config.output / "manifest.json").read_text())
    assert (manifest["parent"], manifest["config"]["served_model"]) == (f"{server.url}/v1/", "m")
    assert not manifest["config"].keys() & {"endpoint", "concurrency", "retries", "timeout"}


def test_the_command_stops_with_the_servers_message(tmp_path: Path, cli: InProcess) -> None:
    with serve(lambda request, earlier: refuse(404, "The model `m` does not exist.")) as server:
        config = configure(tmp_path, server)
        words = ["eval", "--bench", "examples", "--data", config.data, "-o", config.output]
        done = cli(*words, "--endpoint", server.url, "--served-model", "m")
    assert refusal(done) == (
        f"{server.url}/v1/chat/completions: status 404: The model `m` does not exist.; "
        "check --endpoint, --served-model and TOOLRL_API_KEY, then continue with --resume"
    )


# --- tools in the server's own way ----------------------------------------------------------------------------------

DOTTED = {"type": "function", "function": {**WEATHER["function"], "name": "geo.weather"}}  # type: ignore[dict-item]


def wire_call(name: str, arguments: object) -> Json:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("format", ["toolrl", "hermes"])
@pytest.mark.parametrize(
    ("content", "calls", "expected"),
    [
        (None, [wire_call("weather", '{"city": "Oslo"}')], [("weather", {"city": "Oslo"})]),
        ("Let me look.", [wire_call("timer", '{"minutes": 4}')], [("timer", {"minutes": 4})]),
        (None, [wire_call("weather", ""), wire_call("timer", {"n": 1})], [("weather", {}), ("timer", {"n": 1})]),
        (None, [wire_call("geo_weather", "{}")], [("geo.weather", {})]),
        ("I cannot cook.", None, []),
        ("", [], []),
        (None, [wire_call("weather", '{"city": ')], None),
        ("text", [wire_call("weather", "[1]")], None),
        (None, [{"id": "c", "type": "function"}], None),
    ],
)  # fmt: skip
def test_a_native_answer_becomes_text_of_the_format(
    format: str, content: str | None, calls: list[Json] | None, expected: list[tuple[str, Json]] | None
) -> None:
    """Calls that cannot be read stay calls that cannot be read."""
    from toolrl_cli.benches.base import read_answer

    text_format = find_format(format)
    prompt = Prompt("p", (), (WEATHER, TIMER, DOTTED))
    completion = read_reply(reply(content, "tool_calls", tool_calls=calls), prompt, text_format)
    read = read_answer(text_format, completion)
    if expected is None:
        assert read.error is not None
    else:
        assert [(call.name, call.arguments) for call in read.calls] == expected
        assert read.error is None
        assert text_format.parse_target(completion.text).response == (
            content or None if calls or format == "hermes" else content
        )


@pytest.mark.parametrize("format", ["toolrl", "hermes"])
def test_native_tools_are_sent_and_their_calls_scored(format: str, tmp_path: Path) -> None:
    def respond(request: Json, earlier: int) -> Act:
        target = gold_of(request)["target"]
        calls = [wire_call(c["name"], json.dumps(c["arguments"])) for c in target["tool_calls"]]
        return say(target["response"], tool_calls=calls) if calls else say(target["response"])

    with serve(respond) as server:
        summary = evaluate(configure(tmp_path, server, tools="native", format=format))
        assert summary.metrics["exact_rate"].value == summary.metrics["format"].value == 1.0
    asked = next(request for request in server.requests if gold_of(request)["id"] == "oslo")
    assert asked["messages"] == [{"role": "user", "content": "How is Oslo?"}]
    assert (asked["tools"], asked["tool_choice"]) == ([WEATHER], "auto")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["hashes"]["format"] == ServedFormat(find_format(format)).digest != find_format(format).digest


def test_a_native_history_is_what_openai_takes() -> None:
    call = {"type": "function", "function": {"name": "geo.weather", "arguments": {"city": "Oslo"}}}
    messages = (
        {"role": "user", "content": "Oslo twice"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "rain"},
        {"role": "tool", "content": "sun"},
    )
    with serve(lambda request, earlier: say("done")) as server:
        engine = build(server, native=find_format("toolrl"))
        list(engine.generate([Prompt("p", messages, (DOTTED,))]))
    [request] = server.requests
    wired = {"type": "function", "function": {"name": "geo_weather", "arguments": '{"city": "Oslo"}'}}
    assert request["messages"] == [
        messages[0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**wired, "id": "call00000"}, {**wired, "id": "call00001"}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call00000"},
        {"role": "tool", "content": "sun", "tool_call_id": "call00001"},
    ]
    assert request["tools"][0]["function"]["name"] == "geo_weather"
    assert call["function"]["arguments"] == {"city": "Oslo"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"served_model": None}, "--served-model NAME is what --endpoint URL is asked for"),
        ({"model": "m"}, "give either --model or --endpoint or --predictions"),
        ({"engine": "vllm"}, "--engine belongs to --model"),
        ({"batch_size": 4}, "--batch-size belongs to --model; leave it out"),
        ({"allow_mismatch": True}, "--allow-mismatch belongs to --model; leave it out"),
        ({"endpoint": None, "served_model": None, "model": "m", "timeout": 9.0}, "--timeout belongs to --endpoint;"),
        ({"tools": "native", "template": Path("t")}, "--template words a prompt that --tools native leaves"),
        ({"concurrency": 0}, "--samples and --concurrency are at least 1"),
        ({"samples": 4}, "greedy samples are all the same; give --temperature"),
        ({"endpoint": None, "served_model": None, "model": "m", "tools": "native"}, "--tools native belongs to"),
    ],
)
def test_contradicting_options_are_refused(options: Json, message: str) -> None:
    known: Json = {
        "bench": "examples",
        "output": Path("o"),
        "data": Path("d"),
        "endpoint": "http://h",
        "served_model": "m",
    }
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**(known | options))


def test_llama3_cannot_word_native_answers() -> None:
    with pytest.raises(ConfigError, match="--tools native: llama3 cannot write a text beside calls"):
        ServedFormat(find_format("llama3"))


def test_an_endpoint_that_answers_nothing_is_no_result(tmp_path: Path) -> None:
    with serve(lambda request, _: refuse(500, "boom")) as server, pytest.raises(SetupError, match="none of 6 entries"):
        evaluate(configure(tmp_path, server), engine=build(server, retries=0))
    assert not (tmp_path / "out" / "summary.json").exists()


def test_tags_in_the_text_of_a_native_answer_are_no_calls() -> None:
    served = ServedFormat(find_format("toolrl"))
    text = 'Sure.\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
    completion = served.render_target(Target(response=text))
    assert served.parse_tool_calls(completion) == []
    assert served.parse_target(completion) == Target(response=text)
    called = served.render_target(Target(tool_calls=(ToolCall("f", {"a": 1}),), response="Here."))
    assert [(call.name, call.arguments) for call in served.parse_tool_calls(called)] == [("f", {"a": 1})]
