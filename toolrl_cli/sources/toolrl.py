"""ToolRL's released rows (arXiv 2504.13958): the dialogue as text, in an alpaca triple or a veRL record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.toolrl import ToolrlFormat, split_blocks
from toolrl_cli.records import Example, Json, Target, expect, expect_each
from toolrl_cli.sources.base import RowError, Source, load_unique, other_fields, read_tool, shorten

TOOL = re.compile(r"^\d+\. Name: (?P<name>.*)\nDescription:", re.MULTILINE)
PARAMETERS = re.compile(r"\nParameters:\s*")
HEADING = re.compile(r"\s*\*\*[^\n]*\*\*[ \t]*(?:\n|\Z)")
BLOCK_START = re.compile(r"(?:\A|(?<=\n))(?=<(?:user|think|obs)>)")
BLOCK_ENDS = {
    "<user>": ("</user>",),
    "<obs>": ("</obs>",),
    "<think>": ("</think>", "</tool_call>", "</response>"),
}


class ToolrlSource(Source):
    """One step, its tools and history read back from the prompt text.

    The tool lists are informal (a `float` whose gold value is the string "1.0"), so what
    contradicts them is noted and kept.
    """

    name = "toolrl"
    strict = False

    def __init__(self) -> None:
        self._format = ToolrlFormat()

    def recognises(self, row: Json) -> bool:
        """The text blocks give it away: an alpaca triple or a veRL record alone would not."""
        try:
            instruction, history, output, _ = read_texts(row)
        except DataError:
            return False
        return TOOL.search(instruction) is not None and ("<user>" in history or "<think>" in output)

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example; raise `DataError` when the prompt or the output does not follow the format."""
        instruction, history, output, meta = read_texts(row)
        tools = tuple(read_tool_list(instruction))
        if not tools:
            raise RowError("no tools", 'the instruction lists none as "1. Name: ..."')
        messages = tuple(self.read_history(history))
        return [Example(row_id, self.name, tools, messages, self.read_step(output, "output"), meta)]

    def read_history(self, text: str) -> Iterator[Json]:
        """The messages of a history text; assistant steps keep their thought as `reasoning_content`."""
        for block in split_history(text):
            tag = block[: block.index(">") + 1]
            if tag == "<think>":
                yield step_message(self.read_step(block, "history"))
            else:
                content = block[len(tag) : -len(tag) - 1].removeprefix(" ").removesuffix(" ")
                yield {"role": "user" if tag == "<user>" else "tool", "content": content}

    def read_step(self, text: str, where: str) -> Target:
        """One assistant step; raise `RowError` when it does not follow the format, or a call holds a key twice."""
        try:
            target = self._format.parse_target(text)
        except FormatError as error:
            raise RowError("format", f"{where}: {error}") from error
        for line in filter(str.strip, split_blocks(text.strip())[1].split("\n")):
            load_unique(line)
        return target


def read_texts(row: Json) -> tuple[str, str, str, Json]:
    """Instruction, history, output, and what else the row holds; raise `RowError` when it is of neither shape."""
    if "reward_model" in row:
        return read_verl_texts(row)
    texts = [row.get(name) for name in ("instruction", "input", "output")]
    if not all(isinstance(text, str) for text in texts):
        raise RowError("wrong shape", "instruction, input and output must be strings")
    instruction, history, output = map(str, texts)
    return instruction, history, output, other_fields(row, "instruction", "input", "output")


def read_verl_texts(row: Json) -> tuple[str, str, str, Json]:
    """The texts of a veRL record; its `extra_info` repeats them, so equal copies are dropped."""
    try:
        prompt = expect_each(row.get("prompt"), dict, "prompt")
        instruction, history = (expect(message.get("content"), str, "prompt content") for message in prompt)
        reward_model = expect(row["reward_model"], dict, "reward_model")
        output = expect(reward_model.get("ground_truth"), str, "ground_truth")
    except ValueError as error:
        raise RowError("wrong shape", "prompt must hold a system and a user message") from error
    texts = {"instruction": instruction, "input": history, "output": output}
    meta = other_fields(row, "prompt", "reward_model", "extra_info")
    meta["reward_model"] = other_fields(reward_model, "ground_truth")
    extra = row.get("extra_info")
    if isinstance(extra, dict):
        meta["extra_info"] = {key: value for key, value in extra.items() if texts.get(key) != value}
    return instruction, history, output, meta


def read_tool_list(instruction: str) -> Iterator[Json]:
    """The numbered tools of an instruction; raise `RowError` when the parameters of one are no JSON."""
    position = 0
    while match := TOOL.search(instruction, position):
        description, parameters, position = read_description(instruction, match.end(), match["name"])
        tool = read_tool({"name": match["name"], "description": description, "parameters": drop_fillers(parameters)})
        yield keep_type_words(tool, parameters)


def read_description(text: str, start: int, name: str) -> tuple[str, object, int]:
    """The description from `start` on, the parameters after it, and where they end.

    A description may span lines and may itself hold the word that opens the parameters.
    """
    for opening in PARAMETERS.finditer(text, start):
        try:
            parameters, end = json.JSONDecoder().raw_decode(text, opening.end())
        except ValueError:
            continue
        return text[start : opening.start()].removeprefix(" "), parameters, end
    raise RowError("tools not JSON", f"parameters of {shorten(name)}")


def drop_fillers(parameters: object) -> object:
    """Parameters without `"default": ""`, which the rows give to every parameter that has no default."""
    if not isinstance(parameters, dict):
        return parameters
    return {
        name: {k: v for k, v in spec.items() if (k, v) != ("default", "")} if isinstance(spec, dict) else spec
        for name, spec in parameters.items()
    }


def keep_type_words(tool: Json, parameters: object) -> Json:
    """The tool with the row's word for a type as `x-type`, where JSON Schema has another."""
    schema = tool["function"]["parameters"]
    words = {
        name: spec["type"]
        for name, spec in (parameters.items() if isinstance(parameters, dict) else ())
        if isinstance(spec, dict) and isinstance(spec.get("type"), str) and name in schema["properties"]
    }
    properties = {
        name: spec if words.get(name) in (None, spec.get("type")) else {**spec, "x-type": words[name]}
        for name, spec in schema["properties"].items()
    }
    return {**tool, "function": {**tool["function"], "parameters": {**schema, "properties": properties}}}


def split_history(text: str) -> Iterator[str]:
    """The user, assistant and tool blocks of a history text, its heading dropped.

    A block starts on a line of its own and runs to the first closing tag that another block or the
    end follows, so that literal tags inside it do no harm.

    Raises:
        RowError: text stands outside the blocks, or a block is not closed.
    """
    heading = HEADING.match(text)
    before, *pieces = BLOCK_START.split(text[heading.end() :] if heading else text)
    if before.strip():
        raise RowError("history", f"text outside <user>, <think> and <obs>: {shorten(before.strip())}")
    block: list[str] = []
    for piece in pieces:
        block.append(piece)
        if piece.rstrip().endswith(BLOCK_ENDS[block[0][: block[0].index(">") + 1]]):
            yield "".join(block).rstrip()
            block = []
    if block:
        raise RowError("history", f"block is not closed: {shorten(block[0])}")


def step_message(step: Target) -> Json:
    """An assistant step as a message of the history."""
    message: Json = {"role": "assistant", "content": step.response}
    if step.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": call.to_json()} for call in step.tool_calls]
    return {**message, "reasoning_content": step.thought}
