"""A model's chat template, without its tokenizer: how does it write a call?"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolrl_cli.errors import ConfigError, first_line
from toolrl_cli.records import Json, ToolCall

GENERATION_TAG = re.compile(r"(\{%-?)\s*(end)?generation\s*(-?%\})")
"""It marks what an assistant wrote; plain Jinja does not know it."""
QUESTION = "What now?"
TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}},
}


def shows_tools(chat_template: str) -> bool:
    """Whether the template tells a model which tools it has; raise `ConfigError` as `render`."""
    question = [{"role": "user", "content": QUESTION}]
    return render(chat_template, question, [TOOL]) != render(chat_template, question, None)


def write_call(chat_template: str, call: ToolCall) -> str:
    """What the template writes behind a question for an assistant's turn with this call.

    Raises:
        ConfigError: it is no template, or fails on the call.
    """
    tool = {
        "type": "function",
        "function": {"name": call.name, "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "123456789", "function": call.to_json()}],
    }
    return render(chat_template, [{"role": "user", "content": QUESTION}, turn], [tool]).rpartition(QUESTION)[2]


def render(chat_template: str, messages: list[Json], tools: list[Json] | None) -> str:
    """The text of a dialogue, as `apply_chat_template` of transformers makes it, special tokens left out.

    Raises:
        ConfigError: it is no template, or fails on the dialogue.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        template = environment.from_string(GENERATION_TAG.sub(mark_nothing, chat_template))
        return template.render(messages=messages, tools=tools, bos_token="", eos_token="")
    except Exception as error:  # a template can raise anything
        raise ConfigError(f"the model's chat template cannot write a call: {first_line(error)}") from error


def mark_nothing(tag: re.Match[str]) -> str:
    """A tag of plain Jinja in place of a generation tag."""
    return f"{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}"


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """The filter `tojson` as chat templates expect it, without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def refuse(message: str) -> NoReturn:
    """The function by which a chat template says that it cannot show a dialogue."""
    raise TemplateError(message)
