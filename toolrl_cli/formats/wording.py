"""Jinja templates that word a system message; they may come from anywhere, so they run in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolrl_cli.errors import ConfigError, first_line
from toolrl_cli.formats.tools import describe_tool, to_json
from toolrl_cli.records import Json

ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, undefined=StrictUndefined)
ENVIRONMENT.filters["json"] = to_json
SAMPLE_TOOL: Json = {
    "name": "f",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
}


class Wording:
    """A template with its `tools`, each as `tools.describe_tool` has it; the filter `json` writes one line of JSON.

    Raises:
        ConfigError: the text is no template, or cannot be rendered without tools or with one.
    """

    def __init__(self, source: str) -> None:
        try:
            self._template = ENVIRONMENT.from_string(source)
        except Exception as error:  # the compiler may raise Python's own, as for nesting too deep
            raise ConfigError(f"the prompt template cannot be read: {first_line(error)}") from error
        self.render([])
        self.render([SAMPLE_TOOL])

    def render(self, functions: Sequence[Json]) -> str:
        """The text for these tools; raise `ConfigError` when the template fails on them."""
        tools = [describe_tool(function) for function in functions]
        try:
            return self._template.render(tools=tools)
        except Exception as error:  # a template can raise anything
            raise ConfigError(f"the prompt template cannot be rendered: {first_line(error)}") from error

    def read(self, name: str, default: str) -> str:
        """A text that the template sets at its top, the default where it sets none."""
        return str(getattr(self._template.make_module({"tools": []}), name, default))
