"""The prompt template that the rows of a data set share, recovered from the rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.records import Json
from toolrl_cli.sources.base import shorten
from toolrl_cli.sources.toolrl import BLOCK_START, TOOL, ToolrlSource, read_description, read_texts

PARAMETERS = (
    "tool.filled | json",
    "tool.filled | json(ascii=false)",
    "tool.properties | json",
    "tool.properties | json(ascii=false)",
    "tool.schema | json",
    "tool.schema | json(ascii=false)",
    "tool.parameters",
)
"""The ways in which a template may word the parameters of a tool."""
TEMPLATE = """\
{%% set history_heading = %s %%}
%s{%% for tool in tools %%}
{{ loop.index }}. Name: {{ tool.name }}
Description: {{ tool.description }}
Parameters: {{ %s }}{{ "" if loop.last else %s }}{%% endfor %%}
%s
"""
SPECIAL = re.compile(r"\{(?=[{%#]|\Z)|\r")


class Prompt(NamedTuple):
    """A row's prompt, and the tools and messages that the row gives."""

    instruction: str
    history: str
    tools: tuple[Json, ...]
    messages: tuple[Json, ...]


class Shape(NamedTuple):
    """What stands around the tools of an instruction, between two of them, and above the history."""

    opening: str
    between: str
    closing: str
    heading: str


def extract_template(rows: Iterable[Json]) -> str:
    """The Jinja template with which the toolrl format gives back each row's instruction and history, byte for byte.

    Rows that give no example are left out.

    Raises:
        DataError: no row gives an example, or they share no template.
    """
    prompts = read_prompts(rows)
    if not prompts:
        raise DataError("no row of the toolrl source gives an example, so there is no template to extract")
    shape = Counter(map(measure, prompts)).most_common(1)[0][0]
    candidates = [write_template(shape, parameters) for parameters in PARAMETERS]
    faults = [find_faults(template, prompts) for template in candidates]
    fewest = min(faults, key=len)
    if fewest:
        number, why = fewest[0]
        raise DataError(
            f"the rows share no template: {len(fewest)} of {len(prompts)} examples are worded in another way than the "
            f"others; example {number}: {why}"
        )
    return candidates[faults.index(fewest)]


def read_prompts(rows: Iterable[Json]) -> list[Prompt]:
    """The prompts of the rows that give an example."""
    source, prompts = ToolrlSource(), []
    for row in rows:
        try:
            [example] = source.convert(row, "row")
            instruction, history, *_ = read_texts(row)
        except DataError:
            continue
        prompts.append(Prompt(instruction, history, example.tools, example.messages))
    return prompts


def measure(prompt: Prompt) -> Shape:
    """The wording around the tools and the history of a prompt."""
    text, spans, position = prompt.instruction, [], 0
    while match := TOOL.search(text, position):
        position = read_description(text, match.end(), match["name"])[2]
        spans.append((match.start(), position))
    (first, end), *others = spans
    block = BLOCK_START.search(prompt.history)
    heading = prompt.history[: block.start()] if block else prompt.history
    return Shape(
        opening=text[:first],
        between=text[end : others[0][0]] if others else "\n",
        closing=text[position:],
        heading=heading.removesuffix("\n"),
    )


def write_template(shape: Shape, parameters: str) -> str:
    """The template of a shape; a line break behind a block and at the end is one that Jinja drops."""
    heading, between = (json.dumps(text) for text in (shape.heading, shape.between))
    return TEMPLATE % (heading, escape(shape.opening), parameters, between, escape(shape.closing))


def escape(text: str) -> str:
    """Text as a template says it: what opens a tag, or would be changed, becomes a string in a tag."""
    return SPECIAL.sub(lambda match: f"{{{{ {json.dumps(match[0])} }}}}", text)


def find_faults(template: str, prompts: list[Prompt]) -> list[tuple[int, str]]:
    """The numbers of the prompts, from 1, that the template does not give back, each with the first difference."""
    try:
        text_format = ToolrlFormat(template)
    except ConfigError as error:
        return [(number, str(error)) for number, _ in enumerate(prompts, start=1)]
    faults = []
    for number, prompt in enumerate(prompts, start=1):
        rendered = [message["content"] for message in text_format.render_prompt(prompt.tools, prompt.messages).messages]
        for found, given in zip(rendered, (prompt.instruction, prompt.history), strict=True):
            if found != given:
                faults.append((number, describe_difference(found, given)))
                break
    return faults


def describe_difference(found: str, given: str) -> str:
    """Where two texts part, and how they go on."""
    start = next((i for i, pair in enumerate(zip(found, given, strict=False)) if pair[0] != pair[1]), None)
    start = min(len(found), len(given)) if start is None else start
    return f"{shorten(given[start:])} stands where {shorten(found[start:])} was expected"
