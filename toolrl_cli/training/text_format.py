"""Which text format a model is trained, and later evaluated, in."""

from __future__ import annotations

from pathlib import Path

from toolrl_cli.errors import UsageError
from toolrl_cli.formats import NATIVE, find_format, native_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.manifest import FILE_NAME, read_manifest

TEMPLATE_FILE = "template.jinja"
"""In the folder of a run that was given a template: its copy."""


def choose_format(model: str | None, name: str | None = None, template: Path | None = None) -> TextFormat:
    """The format asked for, else that of the run that the model is, else toolrl.

    Raises:
        ConfigError: the name is unknown, the template is refused, or `native` finds no format.
        SetupError: `native` needs a tokenizer that cannot be had.
    """
    if name == NATIVE and template is None:
        if model is None:
            why = "--format native is that of a model's chat template"
            raise UsageError(f"{why}; name the model (--model, in prepare --tokenizer), or give hermes or llama3")
        return native_format(read_chat_template(model))
    folder = Path(model or "")
    if name is None and model is not None and (folder / FILE_NAME).is_file():
        name, copy = read_manifest(folder).format, folder / TEMPLATE_FILE
        template = template or (copy if copy.exists() else None)
    return find_format(name or "toolrl", template)


def read_chat_template(model: str) -> str:
    """The chat template that a model's tokenizer uses where there are tools; raise `SetupError` when it has none."""
    from toolrl_cli.training.models import load_tokenizer, quiet_libraries, resolve_model

    quiet_libraries()
    template: str = load_tokenizer(resolve_model(model)).get_chat_template(tools=[{}])
    return template
