"""ToolAlpaca's rows (arXiv 2306.05301): an API with instructions and gold actions, or with recorded dialogues."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from toolrl_cli.jsonl import load_json
from toolrl_cli.records import Example, Json, Target, expect, expect_each, expect_optional_text
from toolrl_cli.sources.base import (
    RowError,
    Source,
    decode_text,
    note_repair,
    other_fields,
    read_call,
    read_tool,
    shorten,
)
from toolrl_cli.sources.openai import OpenaiSource
from toolrl_cli.sources.schemas import JSON_TYPES, read_type

FIELDS = ("Function_Description", "Instructions", "Golden_Answers", "Instances")
DOCUMENTATION = ("Documentation", "NLDocumentation", "Functions", "Introduction")
HINT = "\nHint: "
KIND = re.compile(r"((?:Array\[){0,9})(\w+)(?=[\]{]|\Z)")
ENUM = "One of: ["
PLACEHOLDER = re.compile(r'(?<=[:\[,])(\s*)"?\$\{([^{}",\n]*)\}?"?')
REPEATED_KEY = re.compile(r'("(\w+)":\s*)"\2":')
GET_DETAILS = read_tool(
    {
        "name": "getDetails",
        "description": "Asks the user for what is missing to do what was asked.",
        "parameters": {"Question": {"type": "string", "description": "The question to the user."}},
    }
)


class ToolalpacaSource(Source):
    """Each instruction, or recorded dialogue, stands for itself; its tools are the functions of the API.

    `getDetails`, which the data set offers beside every API, is always one of them.
    """

    name = "toolalpaca"

    def recognises(self, row: Json) -> bool:
        """An API's functions with what is asked of them."""
        return "Function_Description" in row and ("Golden_Answers" in row or "Instances" in row)

    def split(self, row: Json) -> list[Json]:
        """A row for each instruction with its gold answer, else for each recorded dialogue."""
        if "Golden_Answers" in row:
            parts = [{**row, "Instructions": [one], "Golden_Answers": [answer]} for one, answer in pair_answers(row)]
        else:
            instances = expect(row.get("Instances"), list, "Instances")
            parts = [{**other_fields(row, "Instructions"), "Instances": [instance]} for instance in instances]
        if not parts:
            raise RowError("no instruction", "Golden_Answers and Instances are empty")
        return parts

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """The examples of a part; raise `DataError` for a malformed function or action.

        What documents the API in other words than its functions is not kept.
        """
        functions = dict(expect(row.get("Function_Description"), dict, "Function_Description"))
        components = functions.pop("components", None)
        tools = (*(read_function(name, text) for name, text in functions.items()), GET_DETAILS)
        meta = other_fields(row, *FIELDS, *DOCUMENTATION) | ({"components": components} if components else {})
        shared = Example(row_id, self.name, tools, (), Target(), meta)
        if "Golden_Answers" in row:
            return [read_answer(shared, instruction, answer) for instruction, answer in pair_answers(row)]
        instances = expect_each(row.get("Instances"), dict, "Instances")
        return [example for instance in instances for example in read_instance(shared, instance)]


def pair_answers(row: Json) -> list[tuple[object, object]]:
    """Each instruction with its gold answer; raise `DataError` when their numbers differ."""
    instructions = expect(row.get("Instructions"), list, "Instructions")
    answers = expect(row.get("Golden_Answers"), list, "Golden_Answers")
    if len(instructions) != len(answers):
        raise RowError("wrong shape", f"{len(instructions)} Instructions but {len(answers)} Golden_Answers")
    return list(zip(instructions, answers, strict=True))


def read_answer(shared: Example, instruction: object, answer: object) -> Example:
    """One step whose calls are the gold actions; what they gave is not in the data."""
    actions = expect_each(answer, dict, "gold answer")
    calls = tuple(read_call(read_action(action.get("Action"), action.get("Action_Input"))) for action in actions)
    rest = [other_fields(action, "Action", "Action_Input") for action in actions]
    return replace(
        shared,
        messages=({"role": "user", "content": expect(instruction, str, "instruction")},),
        target=Target(tool_calls=calls),
        meta=shared.meta | ({"actions": rest} if any(rest) else {}),
    )


def read_instance(shared: Example, instance: Json) -> list[Example]:
    """A recorded dialogue: thoughts, actions and observations, then the response to the user."""
    question, _, hint = expect(instance.get("input"), str, "input").partition(HINT)
    messages: list[Json] = [{"role": "user", "content": question}]
    for step in expect_each(instance.get("intermediate_steps"), list, "intermediate_steps"):
        messages += read_step(step)
    final = {"role": "assistant", "content": expect(instance.get("output"), str, "output")}
    messages.append(final | {"reasoning_content": expect_optional_text(instance, "Final Thought")})
    meta = shared.meta | other_fields(instance, "input", "intermediate_steps", "output", "Final Thought")
    examples = OpenaiSource().convert({"messages": messages, "tools": list(shared.tools)}, shared.id)
    return [
        replace(example, source=shared.source, meta=meta | ({"hint": hint} if hint else {})) for example in examples
    ]


def read_step(step: list[Any]) -> list[Json]:
    """A step `[[action, input, log], observation]` as a call, with the thought that opens its log, and a result."""
    if len(step) != 2 or not isinstance(step[0], list) or len(step[0]) != 3:
        raise RowError("wrong shape", "a step must be [[action, input, log], observation]")
    [name, arguments, log], observation = step
    thought = expect(log, str, "log").rpartition("\nAction:")[0].strip().removeprefix("Thought:").strip()
    call = {"type": "function", "function": read_action(name, arguments)}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": thought or None},
        {"role": "tool", "name": name, "content": expect(observation, str, "observation")},
    ]


def read_action(name: object, arguments: object) -> Json:
    """An action as a call; where repairs are asked for, its input is put in order as far as it is known to go wrong."""
    if isinstance(arguments, str) and is_broken(arguments) and note_repair(f"arguments not JSON: {shorten(arguments)}"):
        arguments = REPEATED_KEY.sub(r"\1", PLACEHOLDER.sub(r'\1"${\2}"', arguments))
    return {"name": name, "arguments": arguments}


def is_broken(text: str) -> bool:
    """Whether a text that is not blank is no JSON."""
    try:
        load_json(text or "{}")
    except ValueError:
        return bool(text.strip())
    return False


def read_function(name: str, raw: object) -> Json:
    """A function described as `text, Parameters: {name: text}, Output: text`, its output in the tool's description."""
    text = expect(raw, str, f"function {shorten(name)}")
    before, found, after = f"\n{text}".partition("\nParameters:")
    if not found:
        raise RowError("tools not JSON", f"function {shorten(name)} has no Parameters")
    parameters, opening, output = after.partition("\nOutput:")
    specs = expect(decode_text(parameters, "tools not JSON"), dict, f"parameters of {shorten(name)}")
    return read_tool(
        {
            "name": name,
            "description": (before + opening + output).strip(),
            "parameters": {
                "type": "object",
                "properties": {key: read_parameter(spec, key) for key, spec in specs.items()},
                "required": [key for key, spec in specs.items() if spec.startswith("Required.")],
            },
        }
    )


def read_parameter(raw: object, name: str) -> Json:
    """A parameter described as `Required. Array[string]. text One of: [a, b].`, each part of it optional."""
    text = expect(raw, str, f"parameter {shorten(name)}").removeprefix("Required.").removeprefix("Optional.").strip()
    sentence, rest = split_sentence(text)
    schema = read_kind(sentence)
    if not schema:
        return {"description": text}
    if schema == {"type": "string"} and (choices := read_choices(rest)):
        schema |= {"enum": choices}
    return {**schema, "description": rest.strip()}


def split_sentence(text: str) -> tuple[str, str]:
    """A text before and after the first full stop that stands in no brackets."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "[{(") - (char in "]})")
        if char == "." and depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def read_kind(sentence: str) -> Json:
    """The schema of `string`, `Array[integer]` or `Object{...}`; {} for any other sentence."""
    kind = KIND.match(sentence)
    if kind is None or kind[2].lower() not in JSON_TYPES:
        return {}
    return read_type(f"{kind[1]}{kind[2]}{']' * kind[1].count('[')}")[0]


def read_choices(text: str) -> list[str]:
    """The values of a list `One of: [a, b]`."""
    _, _, after = text.partition(ENUM)
    choices, closed, _ = after.partition("]")
    return choices.split(", ") if closed else []
