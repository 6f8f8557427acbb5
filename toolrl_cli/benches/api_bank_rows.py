"""Rows that hold a step of API-Bank as text: as ToolRL processed them, and as API-Bank's own files have them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from toolrl_cli.errors import DataError
from toolrl_cli.jsonl import load_json
from toolrl_cli.records import Json, ToolCall, expect
from toolrl_cli.sources.api_bank import join_turns
from toolrl_cli.sources.base import RowError, read_tool, shorten
from toolrl_cli.sources.python_literals import as_json, literal_errors, read_literal

TOOL = re.compile(
    r"^\d+\. (?:Name: (?P<name>.*)\nDescription: ?(?P<description>.*)|(?P<short>[^:\n]+): ?(?P<text>.*))"
    r"\nParameters: (?P<parameters>\{.*\})$",
    re.MULTILINE,
)
PARAMETERS = re.compile(r"^Parameters: ", re.MULTILINE)
HEADING = re.compile(r"\s*\*+Dialogue Records History\*+\s*")
BLOCK = re.compile(r"^<(user|response|tool_call|obs)>(.*?)</\1>[ \t]*$", re.MULTILINE | re.DOTALL)
DESCRIPTIONS = "API descriptions:\n"
SPEAKER = re.compile(r"^(User|AI|API-Request|Generate API Request):", re.MULTILINE)
ROLES = {"user": "user", "response": "assistant", "obs": "tool", "User": "user", "AI": "assistant"}
BAD_REQUEST = "broken API request"


class Step(NamedTuple):
    """A step with its gold call; `prompt` are the texts of a processed row as messages."""

    tools: tuple[Json, ...]
    messages: tuple[Json, ...]
    gold: ToolCall
    prompt: tuple[Json, ...] | None = None


def read_step(raw: object) -> Step | None:
    """A row of either form, its tools and history read back from its texts; None for one that asks for a response.

    Raises:
        DataError: it is of neither form, or its texts cannot be read.
    """
    row = expect(raw, dict, "row")
    if row.keys() >= {"system", "user", "answer"}:
        system, user = expect(row["system"], str, "system"), expect(row["user"], str, "user")
        prompt = ({"role": "system", "content": system}, {"role": "user", "content": user})
        return Step(read_tools(system), read_history(user), read_gold(row["answer"]), prompt)
    if row.keys() >= {"instruction", "input"} and (wanted := row.get("expected_output", row.get("output"))):
        speaker, _, request = expect(wanted, str, "expected_output").strip().partition(":")
        if speaker != "API-Request":
            return None
        instruction, dialogue = expect(row["instruction"], str, "instruction"), expect(row["input"], str, "input")
        return Step(read_descriptions(instruction), read_dialogue(dialogue), read_request(request))
    raise DataError("no API-Bank row; it must hold system, user and answer, or instruction, input and expected_output")


def read_gold(raw: object) -> ToolCall:
    """The gold call, or the first of a list, as the released evaluation takes it."""
    record = expect(raw[0] if isinstance(raw, list) and raw else raw, dict, "answer")
    name, arguments = expect(record.get("name"), str, "answer.name"), record.get("parameters")
    return ToolCall(name, expect(arguments, dict, "answer.parameters"))


def read_tools(system: str) -> tuple[Json, ...]:
    """The numbered tools of a system text, their parameters Python literals; raise `DataError` if one cannot be read.

    They come as `Name: ...` and `Description: ...`, at level 3 as `NAME: DESCRIPTION`.
    """
    found = list(TOOL.finditer(system))
    if not found or len(found) != len(PARAMETERS.findall(system)):
        raise DataError("the system text lists no tools that can be read")
    return tuple(
        read_tool(
            {
                "name": tool["name"] or tool["short"],
                "description": tool["description"] or tool["text"] or "",
                "parameters": read_literal(tool["parameters"], "broken tool parameters"),
            }
        )
        for tool in found
    )


def read_history(user: str) -> tuple[Json, ...]:
    """The messages of a user text; raise `DataError` for text outside its blocks."""
    text = HEADING.sub("", user, count=1)
    if outside := BLOCK.sub("", text).strip():
        raise DataError(f"the user text has something outside its blocks: {outside[:80]!r}")
    return tuple(join_turns(message for tag, content in BLOCK.findall(text) for message in read_block(tag, content)))


def read_block(tag: str, content: str) -> Iterator[Json]:
    """A block as messages: one a call, else one."""
    if tag != "tool_call":
        yield {"role": ROLES[tag], "content": content.strip()}
        return
    for line in content.strip().split("\n"):
        try:
            call = read_gold(load_json(line))
        except ValueError as error:
            raise DataError(f"a call of the history is no JSON: {line[:80]!r}") from error
        yield call_message(call)


def read_descriptions(instruction: str) -> tuple[Json, ...]:
    """The APIs at the end of an instruction, one JSON object a line; raise `DataError` if one cannot be read."""
    _, found, lines = instruction.partition(DESCRIPTIONS)
    if not found:
        raise DataError("the instruction describes no APIs")
    return tuple(read_description(line) for line in lines.split("\n") if line.strip())


def read_description(line: str) -> Json:
    """An API as a tool."""
    try:
        api = expect(load_json(line), dict, "API description")
    except ValueError as error:
        raise DataError(f"an API description is no JSON: {line[:80]!r}") from error
    parameters = api.get("input_parameters") or {}
    return read_tool({"name": api.get("name"), "description": api.get("description"), "parameters": parameters})


def read_dialogue(text: str) -> tuple[Json, ...]:
    """The messages of a transcript; raise `DataError` for text of no speaker."""
    before, *pieces = SPEAKER.split(text)
    if before.strip():
        raise DataError(f"the dialogue has a text of no speaker: {before.strip()[:80]!r}")
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return tuple(join_turns(message for speaker, said in turns for message in read_turn(speaker, said.strip())))


def read_turn(speaker: str, said: str) -> Iterator[Json]:
    """A turn as messages: a request with its result, or a text."""
    if speaker in ROLES:
        yield {"role": ROLES[speaker], "content": said}
    elif speaker == "API-Request":
        request, _, result = said.partition("]->")
        yield call_message(read_request(request if request == said else f"{request}]"))
        yield {"role": "tool", "content": result}


def read_request(text: str) -> ToolCall:
    """The call that `[Name(key='value')]` spells, never run; raise `RowError` for anything else."""
    with literal_errors(text, BAD_REQUEST):
        match ast.parse(text.strip(), mode="eval").body:
            case ast.List(elts=[ast.Call(func=ast.Name(id=name), args=[], keywords=keywords)]):
                return ToolCall(name, as_json({str(key.arg): ast.literal_eval(key.value) for key in keywords}))
    raise RowError(BAD_REQUEST, shorten(text))


def call_message(call: ToolCall) -> Json:
    """A call as a message of the assistant."""
    function = {"type": "function", "function": call.to_json()}
    return {"role": "assistant", "content": None, "tool_calls": [function]}
