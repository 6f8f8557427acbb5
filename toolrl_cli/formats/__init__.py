"""Text formats: one contract between prepare, sft, grpo, score and eval."""

from toolrl_cli.errors import ConfigError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.toolrl import ToolrlFormat

FORMATS: dict[str, type[TextFormat]] = {"toolrl": ToolrlFormat}


def find_format(name: str) -> TextFormat:
    """The text format of that name; raise `ConfigError` for an unknown one."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    return FORMATS[name]()
