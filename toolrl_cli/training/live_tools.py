"""Tools that run while a model trains: functions, or a class with state, from a Python file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from toolrl_cli.errors import ConfigError, DataError, first_line, nearest
from toolrl_cli.formats import native_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.tools import plain_tool
from toolrl_cli.manifest import FILE_NAME
from toolrl_cli.records import Example, Json
from toolrl_cli.rewards.custom import import_quietly, load_file
from toolrl_cli.training.text_format import choose_format, read_chat_template

OF_THE_ENVIRONMENT = ("reset", "get_reward")
"""Methods that the trainer calls itself; the others are tools."""


@dataclass(frozen=True)
class LiveTools:
    """What TRL's tool loop runs.

    `functions` are shared by all rollouts; `environment`, if there is one, is a class of which each
    rollout has its own instance, reset before it. `schemas` are the OpenAI tool objects of the
    functions and the methods, which the model is shown.
    """

    functions: tuple[Callable[..., Any], ...]
    environment: type | None
    schemas: tuple[Json, ...]

    @property
    def trainer_options(self) -> Json:
        """The keyword arguments that the trainer takes for them."""
        return {
            "tools": list(self.functions),
            "environment_factory": self.environment,
            "tool_schemas": self.schemas,
        }

    def serve(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with these tools in place of their own.

        Raises:
            DataError: a gold call names no tool that runs.
        """
        names = [schema["function"]["name"] for schema in self.schemas]
        for example in examples:
            for call in example.target.tool_calls:
                if call.name not in names:
                    raise DataError(
                        f"example {example.id}: its gold calls {call.name}, which --tools does not define"
                        f"{nearest(call.name, names)}"
                    )
        return [replace(example, tools=self.schemas) for example in examples]


def load_live_tools(path: Path) -> LiveTools:
    """The public functions of a Python file, and its class with a method `reset`.

    Raises:
        ConfigError: the file cannot be imported, has no tool or several such classes, the class
            cannot be made without arguments, or a tool lacks the type hints and the docstring that its schema
            is made from.
    """
    module = import_quietly(partial(load_file, path), f"--tools {path}")
    functions = tuple(value for name, value in own_members(module, inspect.isfunction))
    classes = [value for name, value in own_members(module, inspect.isclass) if hasattr(value, "reset")]
    if len(classes) > 1:
        raise ConfigError(f"--tools {path}: several classes have reset ({', '.join(c.__name__ for c in classes)})")
    environment = classes[0] if classes else None
    tools = [*functions, *(methods_of(path, environment) if environment else ())]
    if not tools:
        raise ConfigError(f"--tools {path}: defines no public function and no class with a method reset")
    schemas = tuple(schema_of(path, tool) for tool in tools)
    return LiveTools(functions, environment and name_failures(path, environment), schemas)


def name_failures(path: Path, environment: type) -> type:
    """The class, with what its `reset` and `get_reward` do wrong while a model trains told as `DataError`."""

    def guard(method: Callable[..., Any], *, number: bool) -> Callable[..., Any]:
        where = f"--tools {path}: {method.__qualname__}"

        @wraps(method)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                value = method(self, *args, **kwargs)
            except Exception as error:
                raise DataError(f"{where} raises {type(error).__name__}: {first_line(error)}") from error
            if number and not (value is None or hasattr(value, "__float__")):
                raise DataError(f"{where} returns {value!r}; it must return a number, or None where it does not apply")
            return value

        return called

    own = {name: getattr(environment, name, None) for name in OF_THE_ENVIRONMENT}
    guarded = {
        name: guard(method, number=name == "get_reward")
        for name, method in own.items()
        if method and not inspect.iscoroutinefunction(method)
    }
    return type(environment.__name__, (environment,), guarded)


def choose_live_format(model: str, name: str | None, template: Path | None) -> TextFormat:
    """The format of the model's chat template, in which TRL's tool loop reads calls.

    Raises:
        ConfigError: the template has no format of ours, the model was trained in another, or one is asked for.
    """
    native = native_format(read_chat_template(model), remedy="--tools needs another model")
    decided = name or template or (Path(model) / FILE_NAME).is_file()
    asked = choose_format(model, name, template) if decided else native
    if asked.digest != native.digest:
        raise ConfigError(
            f"--tools needs the format of the model's chat template, {native.name}, not {asked.name}; "
            "start from the base model or from a run of toolrl sft --format native"
        )
    return native


def own_members(module: ModuleType, kind: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """The public members of a kind that a module defines itself, in the order of the file."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if kind(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def methods_of(path: Path, environment: type) -> list[Callable[..., Any]]:
    """The methods of an instance that are tools, in the order in which the trainer lists them."""
    try:
        instance = environment()
    except Exception as error:
        raise ConfigError(
            f"--tools {path}: {environment.__name__}() raises {type(error).__name__}: {first_line(error)}"
        ) from error
    names = [name for name, _ in inspect.getmembers(environment, inspect.isfunction)]
    return [getattr(instance, name) for name in names if not name.startswith("_") and name not in OF_THE_ENVIRONMENT]


def schema_of(path: Path, tool: Callable[..., Any]) -> Json:
    """The OpenAI tool object of a function; raise `ConfigError` when it does not describe itself."""
    from transformers.utils import get_json_schema

    try:
        schema: Json = get_json_schema(tool)
    except Exception as error:  # one class for each thing that is missing
        raise ConfigError(
            f"--tools {path}: {tool.__qualname__} has no schema ({first_line(error)}); give it type hints and a "
            "Google-style docstring with Args"
        ) from error
    return plain_tool(schema)
