"""Prompts and completions in the JSON of OpenAI's chat completions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Prompt, Sampling
from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.records import Completion, Json, Target, ToolCall, expect, expect_each, expect_optional_text

NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9_-]")
"""What OpenAI takes in no function name."""
LONGEST_NAME = 64
OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")
"""Parameters of a request that some models refuse."""
UNSUPPORTED = re.compile(
    r"unsupported|(not|n't) support|not (permitted|allowed)|unknown|unrecogni[sz]ed", re.IGNORECASE
)
"""What a refusal says that is about a parameter as such, not about a value that is too large, say."""


def build_request(prompt: Prompt, model: str, sampling: Sampling, *, native: bool) -> Json:
    """The body of a request; with `native` the server may call tools, else it shows them and leaves the text alone."""
    names = safe_names(prompt) if native else {}
    request: Json = {
        "model": model,
        "messages": [to_wire(message, names) for message in number_calls(prompt.messages, strict=native)],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.temperature:
        request |= {"top_p": 1.0, "seed": sampling.seed_of(prompt)}
    if prompt.tools:
        request["tools"] = [rename_tool(tool, names) for tool in prompt.tools]
        request["tool_choice"] = "auto" if native else "none"
    return request


def refused_parameter(reason: str, request: Json) -> str | None:
    """The optional parameter of a request that a server's refusal is about, None when it is about something else."""
    if not UNSUPPORTED.search(reason):
        return None
    return next((name for name in OPTIONAL if name in request and re.search(rf"\b{name}\b", reason)), None)


def leave_out(request: Json, names: Collection[str]) -> Json:
    """A request without some of its parameters; `max_tokens` goes under its newer name, which reasoning models want."""
    renamed = {"max_completion_tokens": request["max_tokens"]} if "max_tokens" in names else {}
    return {name: value for name, value in request.items() if name not in names} | renamed


def read_reply(raw: object, prompt: Prompt, native: TextFormat | None) -> Completion:
    """The completion of an answer; raise `DataError` when it holds none."""
    reply = expect(raw, dict, "the answer")
    if reply.get("error"):
        raise DataError(f"the answer is an error: {dump_json(reply['error'])[:300]}")
    try:
        choice = expect_each(reply.get("choices"), dict, "choices")[0]
        message = expect(choice.get("message"), dict, "message")
        content = read_content(message) or ""
    except (DataError, IndexError) as error:
        raise DataError(f"the answer holds no message ({error})") from error
    text = content if native is None else write_native(message, content, prompt, native)
    return Completion(text, truncated=choice.get("finish_reason") == "length")


def read_content(message: Json) -> str | None:
    """The content of a message, which some servers give as a list of parts; raise `DataError` when it is no text."""
    content = message.get("content")
    if isinstance(content, list):
        parts = expect_each(content, dict, "content")
        return "".join(expect(part.get("text"), str, "content.text") for part in parts if part.get("type") == "text")
    return expect_optional_text(message, "content")


def write_native(message: Json, content: str, prompt: Prompt, text_format: TextFormat) -> str:
    """A native answer as a model would have written it in the format; calls that are none stay unreadable in it."""
    raw = message.get("tool_calls") or []
    thought = message.get("reasoning_content") or message.get("reasoning")
    names = {safe: name for name, safe in safe_names(prompt).items()}
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


def safe_names(prompt: Prompt) -> dict[str, str]:
    """For each function of a prompt whose name OpenAI does not take, one that it takes and that no other has."""
    calls = [call for message in prompt.messages for call in message.get("tool_calls") or ()]
    names = dict.fromkeys(item["function"]["name"] for item in [*(prompt.tools or ()), *calls])
    safe: dict[str, str] = {}
    for name in names:
        if NOT_ALLOWED.search(name) or len(name) > LONGEST_NAME:
            safe[name] = next(new for new in spellings(name) if new not in names and new not in safe.values())
    return safe


def spellings(name: str) -> Iterator[str]:
    """A name with underscores for what is not allowed, then the same with numbers behind it."""
    plain = NOT_ALLOWED.sub("_", name)
    yield plain[:LONGEST_NAME]
    for number in count(2):
        yield f"{plain[: LONGEST_NAME - 9]}_{number}"


def rename_tool(tool: Json, names: Mapping[str, str]) -> Json:
    """A tool under its new name, if it has one."""
    function = tool["function"]
    return {**tool, "function": {**function, "name": names.get(function["name"], function["name"])}}


def number_calls(messages: Sequence[Json], *, strict: bool) -> Iterator[Json]:
    """Messages in which every call has an id of its own, and every result that of its call.

    Results that do not say whose they are come in the order of the calls. OpenAI is `strict`: a call without a result
    gets an empty one, and a result without a call is said by the user. The ids have the nine characters that Mistral's
    templates want.
    """
    waiting: dict[str, str] = {}
    numbers = (f"call{number:05}" for number in count())
    for message in messages:
        if message["role"] != "tool":
            yield from map(empty_result, waiting.values() if strict else ())
            calls = [{**call, "id": next(numbers)} for call in message.get("tool_calls") or ()]
            waiting = match_ids(message.get("tool_calls") or (), calls)
            yield {**message, "tool_calls": calls} if calls else message
        elif waiting:
            own = message.get("tool_call_id")
            yield {**message, "tool_call_id": waiting.pop(own if own in waiting else next(iter(waiting)))}
        else:
            yield {"role": "user", "content": message["content"]} if strict else message
    yield from map(empty_result, waiting.values() if strict else ())


def match_ids(before: Sequence[Json], now: Sequence[Json]) -> dict[str, str]:
    """The new id of each call by its old one, or by itself where there is none or another call has it as well."""
    ids: dict[str, str] = {}
    for old, new in zip(before, now, strict=True):
        own = old.get("id")
        ids[new["id"] if own is None or own in ids else own] = new["id"]
    return ids


def empty_result(id: str) -> Json:
    """What stands for the result of a call that has none."""
    return {"role": "tool", "content": "", "tool_call_id": id}


def to_wire(message: Json, names: Mapping[str, str]) -> Json:
    """A message whose calls are as OpenAI's API takes them: their arguments are JSON in a string."""
    if not message.get("tool_calls"):
        return message

    def convert(call: Json) -> Json:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else dump_json(arguments)
        return {"id": call["id"], "type": "function", "function": {"name": names.get(name, name), "arguments": text}}

    return {**message, "tool_calls": [convert(call) for call in message["tool_calls"]]}
