"""Changes to single examples. Chance depends on the seed and the id alone, so that order and process do not matter."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolrl_cli.formats.toolrl import CALL_THOUGHT, REPLY_THOUGHT
from toolrl_cli.prepare.config import Changes
from toolrl_cli.records import Example, Json, Target, ToolCall

ABSTENTION = "None of the available tools can do this."
MASK_LENGTHS = range(4, 13)
MASK_LETTERS = string.ascii_letters + string.digits + "_"
PLAIN_WORD = re.compile(r"[A-Za-z]?[a-z]+")
BEFORE_NAMED = r"(?=\(| (?:tool|function|API)\b)"
BEHIND_CALL = r"(?:(?<=\b[Cc]all )|(?<=\b[Cc]alling )|(?<=\b[Uu]se )|(?<=\b[Uu]sing ))"
VALUES = {"const", "default", "enum", "example", "examples"}
"""Keywords of a JSON schema behind which values stand, no schemas."""
NAMING = {
    "allOf",
    "anyOf",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "oneOf",
    "propertyNames",
    "then",
}
"""Keywords that may speak of a parameter by its name."""

Edit = Callable[[Example, random.Random], Example]


def change(examples: Sequence[Example], changes: Changes, seed: int, counts: Counter[str]) -> list[Example]:
    """The examples of a row after the changes, which are counted by name."""
    edits = [edit for edit in edits_of(changes) if edit[1]]
    kept = examples[-1:] if changes.last_step else examples
    if len(kept) < len(examples):
        counts["earlier step left out"] += len(examples) - len(kept)
    changed = []
    for example in kept:
        for name, share, edit in edits:
            chance = random.Random(f"{seed} {name} {example.id}")
            if chance.random() >= share:
                continue
            edited = edit(example, chance)
            if edited is not example:
                counts[name] += 1
                example = edited
        changed.append(example)
    return changed


def edits_of(changes: Changes) -> Iterable[tuple[str, float, Edit]]:
    """The edits that are asked for, in the order they are made, each with the share of examples it is for."""
    if changes.thought != "keep":
        placeholder = changes.thought == "placeholder"
        yield f"thought {changes.thought}", 1.0, lambda example, chance: replace_thoughts(example, placeholder)
    yield "irrelevance", changes.irrelevance, drop_called_tools
    if changes.max_tools is not None:
        limit = changes.max_tools
        yield "tools limited", 1.0, lambda example, chance: limit_tools(example, limit, chance)
    yield "names masked", changes.mask_names, mask_names
    if changes.shuffle_tools:
        yield "tools shuffled", 1.0, shuffle_tools


def replace_thoughts(example: Example, placeholder: bool) -> Example:
    """The example without thoughts, in history and target, or with a stock sentence for each of the target's."""
    stock = CALL_THOUGHT if example.target.tool_calls else REPLY_THOUGHT
    target = replace(example.target, thought=stock if placeholder else None)
    messages = tuple({k: v for k, v in m.items() if k != "reasoning_content"} for m in example.messages)
    same = target == example.target and messages == example.messages
    return example if same or is_empty(target) else replace(example, target=target, messages=messages)


def is_empty(target: Target) -> bool:
    """Whether nothing is left to learn of a step that was a thought alone."""
    return target.thought is None and not target.tool_calls and target.response is None


def called_names(example: Example) -> set[str]:
    """The tools that the target and the history call."""
    history = [call["function"]["name"] for m in example.messages for call in m.get("tool_calls", [])]
    return {*history, *(call.name for call in example.target.tool_calls)}


def drop_called_tools(example: Example, chance: random.Random) -> Example:
    """The example without the tools that its target calls, so that the right answer is to say so.

    It stays as it is where the target calls nothing, where no other tool is left, or where the
    history calls one of those tools already.
    """
    gold = {call.name for call in example.target.tool_calls}
    tools = tuple(tool for tool in example.tools if tool["function"]["name"] not in gold)
    earlier = called_names(replace(example, target=Target()))
    if not gold or not tools or gold & earlier:
        return example
    meta = {**example.meta, "irrelevance": sorted(gold)}
    return replace(example, tools=tools, target=Target(response=ABSTENTION), meta=meta)


def limit_tools(example: Example, limit: int, chance: random.Random) -> Example:
    """The example with at most `limit` tools in their order: all that are called, and others by chance."""
    if len(example.tools) <= limit:
        return example
    called = called_names(example)
    needed = [i for i, tool in enumerate(example.tools) if tool["function"]["name"] in called]
    others = [i for i in range(len(example.tools)) if i not in needed]
    kept = sorted([*needed, *chance.sample(others, max(0, min(len(others), limit - len(needed))))])
    return replace(example, tools=tuple(example.tools[i] for i in kept)) if len(kept) < len(example.tools) else example


def shuffle_tools(example: Example, chance: random.Random) -> Example:
    """The example with its tools in another order."""
    tools = chance.sample(example.tools, len(example.tools))
    return replace(example, tools=tuple(tools)) if len(tools) > 1 else example


def mask_names(example: Example, chance: random.Random) -> Example:
    """The example with random names for tools and their parameters, the same in tools, history and target.

    The function masking of Hammer (arXiv 2410.04587): what is left to go by are the descriptions. Where system
    messages, thoughts, responses, results and descriptions name a tool or a parameter, they name the masked one, unless
    its name is a plain word (`weather`), which may mean the thing. Plain names of tools are masked in system messages
    all the same, and elsewhere where they stand as a name. What users say stays.
    """
    if not example.tools:
        return example
    tools = {tool["function"]["name"]: random_name(chance) for tool in example.tools}
    parameters = {
        tool["function"]["name"]: {name: random_name(chance) for name in properties_of(tool["function"])}
        for tool in example.tools
    }
    every = {name: masked for names in parameters.values() for name, masked in names.items()} | tools
    clear = {name: masked for name, masked in every.items() if not PLAIN_WORD.fullmatch(name)}
    plain = {name: masked for name, masked in tools.items() if name not in clear}
    mask_text, mask_system = text_masker(clear, plain), text_masker(clear | plain, {})
    maskers = {"system": mask_system, "assistant": mask_text, "tool": mask_text}

    def mask_call(call: ToolCall) -> ToolCall:
        return ToolCall(tools.get(call.name, call.name), rename(call.arguments, parameters.get(call.name, {})))

    return replace(
        example,
        tools=tuple(mask_tool(tool, tools, parameters, clear, plain) for tool in example.tools),
        messages=tuple(mask_message(message, tools, mask_call, maskers) for message in example.messages),
        target=replace(
            example.target,
            thought=mask_text(example.target.thought),
            response=mask_text(example.target.response),
            tool_calls=tuple(map(mask_call, example.target.tool_calls)),
        ),
        meta={**example.meta, "masked_names": {masked: name for name, masked in tools.items()}},
    )


def random_name(chance: random.Random) -> str:
    """Letters, digits and underscores, a letter first."""
    return chance.choice(string.ascii_letters) + "".join(chance.choices(MASK_LETTERS, k=chance.choice(MASK_LENGTHS)))


def properties_of(function: Json) -> Json:
    """The schemas of a tool's parameters by name, none where the schema speaks of them elsewhere too."""
    properties = function["parameters"].get("properties")
    return properties if isinstance(properties, dict) and not function["parameters"].keys() & NAMING else {}


def rename(values: Mapping[str, Any], names: Mapping[str, str]) -> Json:
    """The values under their new names, where they have one."""
    return {names.get(name, name): value for name, value in values.items()}


def text_masker(names: Mapping[str, str], plain: Mapping[str, str]) -> Callable[[Any], Any]:
    """Replaces names in a text, whole and longest first, plain ones where they stand as a name; what is no text stays.

    A plain word stands as a name in backticks, before a bracket or the word tool, and behind the word call or use.
    """
    known = {**names, **plain}
    parts = [rf"(?<!\w)(?:{any_of(names)})(?!\w)"] if names else []
    if plain:
        word = any_of(plain)
        parts += [rf"(?<=`)(?:{word})(?=`)", rf"(?<!\w)(?:{word}){BEFORE_NAMED}", rf"{BEHIND_CALL}(?:{word})(?!\w)"]
    pattern = re.compile("|".join(parts))

    def mask(text: Any) -> Any:
        return pattern.sub(lambda found: known[found[0]], text) if known and isinstance(text, str) else text

    return mask


def any_of(names: Iterable[str]) -> str:
    """The pattern of any of these names, the longest first."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


def mask_tool(
    tool: Json,
    tools: Mapping[str, str],
    parameters: Mapping[str, Mapping[str, str]],
    clear: Mapping[str, str],
    plain: Mapping[str, str],
) -> Json:
    """A tool with its names replaced; in its descriptions a name that other tools' parameters share is its own."""
    name = tool["function"]["name"]
    own = parameters[name]
    mask_text = text_masker({**clear, **{known: own[known] for known in own if known in clear}}, plain)
    function = mask_descriptions(tool["function"], mask_text)
    schema = function["parameters"]
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = rename(schema["properties"], own)
    if isinstance(schema.get("required"), list):
        schema["required"] = [own.get(r, r) if isinstance(r, str) else r for r in schema["required"]]
    return {**tool, "function": {**function, "name": tools[name]}}


def mask_descriptions(schema: Any, mask_text: Callable[[Any], Any]) -> Any:
    """A copy of a tool or a JSON schema with names replaced in the descriptions at every depth; values stay."""
    if isinstance(schema, list):
        return [mask_descriptions(item, mask_text) for item in schema]
    if not isinstance(schema, dict):
        return schema
    masked = {name: item if name in VALUES else mask_descriptions(item, mask_text) for name, item in schema.items()}
    if isinstance(schema.get("description"), str):
        masked["description"] = mask_text(schema["description"])
    return masked


def mask_message(
    message: Json,
    tools: Mapping[str, str],
    mask_call: Callable[[ToolCall], ToolCall],
    maskers: Mapping[str, Callable[[Any], Any]],
) -> Json:
    """A message with the names in its calls, of the tool it is from, and in what no user wrote, replaced."""
    mask_text = maskers.get(message["role"], lambda text: text)
    texts = ("content", "reasoning_content")
    masked = {name: mask_text(value) if name in texts else value for name, value in message.items()}
    if "tool_calls" in message:
        masked["tool_calls"] = [
            {**call, "function": mask_call(ToolCall(**call["function"])).to_json()} for call in message["tool_calls"]
        ]
    if message["role"] == "tool" and message.get("name") in tools:
        masked["name"] = tools[message["name"]]
    return masked
