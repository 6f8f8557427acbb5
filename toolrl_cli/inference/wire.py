"""Prompts and completions in the JSON of OpenAI's chat completions."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.records import Completion, Json, Target, ToolCall, expect, expect_each, expect_optional_text

NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9_-]")
"""What OpenAI takes in no function name."""


def build_request(prompt: Prompt, model: str, sampling: Sampling, *, native: bool) -> Json:
    """The body of a request; with `native` the server may call tools, else it shows them and leaves the text alone."""
    names = safe_names(prompt.tools or ()) if native else {}
    request: Json = {
        "model": model,
        "messages": [to_wire(message, names) for message in number_calls(prompt.messages)],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.temperature:
        request |= {"top_p": 1.0, "seed": sampling.seed_of(prompt)}
    if prompt.tools:
        request["tools"] = [rename_tool(tool, names) for tool in prompt.tools]
        request["tool_choice"] = "auto" if native else "none"
    return request


def read_reply(reply: Json, prompt: Prompt, native: TextFormat | None) -> Completion:
    """The completion of an answer; raise `DataError` when it holds none."""
    if reply.get("error"):
        raise DataError(f"the answer is an error: {dump_json(reply['error'])[:300]}")
    try:
        choice = expect_each(reply.get("choices"), dict, "choices")[0]
        message = expect(choice.get("message"), dict, "message")
        content = expect_optional_text(message, "content") or ""
    except (DataError, IndexError) as error:
        raise DataError(f"the answer holds no message ({error})") from error
    text = content if native is None else write_native(message, content, prompt, native)
    return Completion(text, truncated=choice.get("finish_reason") == "length")


def write_native(message: Json, content: str, prompt: Prompt, text_format: TextFormat) -> str:
    """A native answer as a model would have written it in the format; calls that are none stay unreadable in it."""
    raw = message.get("tool_calls") or []
    thought = message.get("reasoning_content") or message.get("reasoning")
    names = {safe: name for name, safe in safe_names(prompt.tools or ()).items()}
    try:
        calls = tuple(read_native_call(call, names) for call in expect_each(raw, dict, "tool_calls"))
        target = Target(thought if isinstance(thought, str) else None, calls, content or (None if calls else ""))
        return text_format.render_target(target)
    except (DataError, FormatError):
        return f"{content}<tool_call>\n{dump_json(raw)}\n</tool_call>" if raw else content


def read_native_call(raw: Json, names: Mapping[str, str]) -> ToolCall:
    """A call of the wire, whose arguments are JSON in a string; raise `DataError` when it is none."""
    function = expect(raw.get("function"), dict, "function")
    arguments = function.get("arguments")
    try:
        arguments = load_json(arguments or "{}") if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise DataError("arguments are no JSON") from error
    name = expect(function.get("name"), str, "name")
    return ToolCall.from_json({"name": names.get(name, name), "arguments": arguments})


def safe_names(tools: Sequence[Json]) -> dict[str, str]:
    """For each tool whose name OpenAI does not take, one that it takes, unless that is another tool's."""
    names = [tool["function"]["name"] for tool in tools]
    safe = {name: NOT_ALLOWED.sub("_", name) for name in names if NOT_ALLOWED.search(name)}
    taken = [*safe.values(), *names]
    return {name: new for name, new in safe.items() if taken.count(new) == 1}


def rename_tool(tool: Json, names: Mapping[str, str]) -> Json:
    """A tool under its new name, if it has one."""
    function = tool["function"]
    return {**tool, "function": {**function, "name": names.get(function["name"], function["name"])}}


def number_calls(messages: Sequence[Json]) -> Iterator[Json]:
    """Messages whose calls have ids, and whose tool results, in the order of the calls, name them."""
    open_calls: deque[str] = deque()
    count = 0
    for message in messages:
        if calls := message.get("tool_calls"):
            ids = [call.get("id") or f"call_{count + i}" for i, call in enumerate(calls)]
            open_calls, count = deque(ids), count + len(calls)
            message = {**message, "tool_calls": [{**c, "id": id} for c, id in zip(calls, ids, strict=True)]}
        elif message["role"] == "tool" and "tool_call_id" not in message and open_calls:
            message = {**message, "tool_call_id": open_calls.popleft()}
        yield message


def to_wire(message: Json, names: Mapping[str, str]) -> Json:
    """A message as OpenAI's API takes it: the arguments of calls are JSON in a string."""
    if not message.get("tool_calls"):
        return message

    def convert(call: Json) -> Json:
        function = call["function"]
        name, arguments = function["name"], function["arguments"]
        text = arguments if isinstance(arguments, str) else dump_json(arguments)
        return {**call, "function": {**function, "name": names.get(name, name), "arguments": text}}

    return {**message, "tool_calls": [convert(call) for call in message["tool_calls"]]}
