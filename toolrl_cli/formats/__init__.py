"""Text formats: one contract between prepare, sft, grpo, score and eval."""

from functools import cache
from pathlib import Path

from toolrl_cli.errors import ConfigError, UsageError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.chat_template import shows_tools, write_call
from toolrl_cli.formats.hermes import HermesFormat
from toolrl_cli.formats.llama3 import Llama3Format
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.records import Target, ToolCall

FORMATS: dict[str, type[TextFormat]] = {"toolrl": ToolrlFormat, "hermes": HermesFormat, "llama3": Llama3Format}
NATIVE = "native"
"""Not a format, but the one that a model's own chat template writes."""
PROBE = ToolCall("probe_tool", {"place": "Rome"})


def find_format(name: str, template: Path | None = None) -> TextFormat:
    """The text format of that name, the toolrl one worded by a Jinja file if given.

    Raises:
        ConfigError: the name is unknown, or the template is unreadable, broken or for another format.
    """
    if name == NATIVE:
        raise UsageError("the native format is that of a model's chat template; name a model, or hermes or llama3")
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}; choose from {', '.join(FORMATS)} and {NATIVE}")
    if template is None:
        return FORMATS[name]()
    if name != ToolrlFormat.name:
        raise UsageError(f"{template}: a template words the toolrl format, and the {name} format has a model's own")
    try:
        return ToolrlFormat(template.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{template}: cannot be read ({error})") from error
    except ConfigError as error:
        raise ConfigError(f"{template}: {error}") from error


@cache
def stock_format(name: str) -> TextFormat:
    """The one text format of that name, worded as it comes; raise `ConfigError` as `find_format`."""
    return find_format(name)


def native_format(chat_template: str, remedy: str = "use --format toolrl") -> TextFormat:
    """The format in which a model's chat template writes calls.

    Raises:
        ConfigError: it writes them in no format we have, or not at all.
    """
    written = write_call(chat_template, PROBE)
    for kind in (HermesFormat, Llama3Format):
        if kind().render_target(Target(tool_calls=(PROBE,))) in written:
            return kind()
    if not shows_tools(chat_template):
        raise ConfigError(f"the model's chat template shows no tools; {remedy}")
    raise ConfigError(
        f"the model's chat template writes a call as {written[:120]!r}, which is neither hermes nor llama3; {remedy}"
    )
