"""The options that commands share, each worded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import typer

from toolrl_cli.errors import ConfigError, UsageError, nearest
from toolrl_cli.training.config import FormatName

C = TypeVar("C")


def load_config(ctx: typer.Context, path: Path | None) -> None:
    """Take option values from a YAML file; what stands on the command line wins.

    Raises:
        ConfigError: the file is no mapping, names an option the command has not, or a value is of another type.
        DataError: the file is missing or unreadable.
    """
    if path is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_options(ctx, path)}


def load_preset(ctx: typer.Context, name: str | None) -> str | None:
    """Take option values from a preset of the command; what `--config` and the command line say wins.

    Raises:
        ConfigError: as `load_config`.
    """
    if name is not None:
        from importlib.resources import files

        path = Path(str(files("toolrl_cli.training").joinpath("presets", str(ctx.info_name), f"{name}.yaml")))
        ctx.default_map = {**read_options(ctx, path), **(ctx.default_map or {})}
    return name


def read_options(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """The option values of a YAML file, by parameter; raise as `load_config`."""
    from toolrl_cli.jsonl import read_yaml

    params = [param for param in ctx.command.params if param.expose_value]
    spelled = [(opt, param) for param in params for opt in param.opts if opt.startswith("--") or opt == param.name]
    known = {opt.removeprefix("--"): param for opt, param in spelled}
    found: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise ConfigError(f"{path}: no option {key!r} in toolrl {ctx.info_name}{nearest(name, list(known))}")
        param = known[name]
        found[str(param.name)] = spell(value, param)
        checked = copy(param)
        if param.is_eager:  # the preset: it is read when its turn comes
            checked.callback = None
        try:
            checked.process_value(ctx, found[str(param.name)])
        except typer.BadParameter as error:
            raise ConfigError(f"{path}: {name}: {error.message}") from error
    return found


def spell(value: Any, param: Any) -> Any:
    """A YAML value as the command line spells it, so that both are read alike: text, or a list of texts."""
    if value is not None and (getattr(param, "multiple", False) or param.nargs == -1):
        if isinstance(value, dict):
            import json

            return [f"{key}={json.dumps(item)}" for key, item in value.items()]
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    return str(value) if isinstance(value, (bool, int, float)) and not getattr(param, "is_flag", False) else value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=load_config,
        is_eager=True,
        expose_value=False,
        readable=False,
        help="YAML file with options.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", expose_value=False, help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in the same output folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")]
Step = Annotated[int, typer.Option("--step", min=0, max=10**12, help="Training step that schedules read.")]
Format = Annotated[
    FormatName | None, typer.Option("--format", help="Text format (else that of the model's run, else toolrl).")
]
CompletionFormat = Literal["toolrl", "hermes", "llama3"]
Template = Annotated[
    Path | None, typer.Option("--template", readable=False, help="Jinja file that words the toolrl format.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only this many examples.")]
RewardNames = Annotated[
    list[str] | None,
    typer.Option("--reward", help="Preset, .yaml file or module:function, with =WEIGHT; repeat to add them up."),
]
MatchingName = Annotated[
    Literal["optimal", "greedy"] | None,
    typer.Option(
        "--matching", help="How calls are paired: as the paper says (optimal), or its released code (greedy)."
    ),
]
RewardSettings = Annotated[
    list[str] | None,
    typer.Option("--set-reward", help="A value of the reward spec, as part.key=value; repeat for more."),
]
NAMES = {"output": ("--output", "-o")}
SETTINGS = {"overrides": "--set", "reward_settings": "--set-reward", "sentinels": "--sentinel"}
SUMS = ("reward",)
"""Fields whose option may be repeated, the values joined by commas."""


def takes(record: type[C]) -> Callable[[Callable[[C, bool], None]], Callable[..., None]]:
    """Give a command one option for each field of a config dataclass, beside `--json`, `--config` and `--debug`.

    The fields are `Annotated` with their help text; `data` becomes the argument, and those of
    `SETTINGS` repeatable `key=value` options. The command is called with the record and `as_json`.
    """

    def decorate(command: Callable[[C, bool], None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            told = {field.name: values[field.name] for field in fields(record)}  # type: ignore[arg-type]
            for name, option in SETTINGS.items():
                if name in told:
                    told[name] = parse_settings(told[name], option)
            told |= {name: ",".join(told[name]) for name in SUMS if name in told}
            try:
                config = record(**told)
            except ConfigError as error:  # nothing but the options has been looked at
                raise UsageError(str(error)) from error
            command(config, values["as_json"])

        parameters = [parameter_of(field, hint) for field, hint in annotated_fields(record)]
        parameters += [
            keyword_only("as_json", AsJson, False),
            keyword_only("config", ConfigFile, None),
            keyword_only("debug", Debug, False),
        ]
        run.__doc__ = command.__doc__
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def annotated_fields(record: type) -> Iterator[tuple[Field[Any], Any]]:
    """The fields of a dataclass with their resolved `Annotated` hints, those without default first."""
    hints = get_type_hints(record, include_extras=True)
    ordered = sorted(fields(record), key=lambda field: field.name != "data")
    return ((field, hints[field.name]) for field in ordered)


def parameter_of(field: Field[Any], hint: Any) -> Parameter:
    """A dataclass field as a parameter that Typer turns into an argument or an option."""
    kind, text = get_args(hint)
    if field.name == "data":
        return keyword_only(field.name, Annotated[kind, typer.Argument(readable=False, help=text)], Parameter.empty)
    if field.name in SETTINGS:
        return keyword_only(field.name, Annotated[list[str], typer.Option(SETTINGS[field.name], help=text)], [])
    names = NAMES.get(field.name, (f"--{field.name.replace('_', '-')}",))
    default = default_of(field)
    if field.name in SUMS:
        kind, default = list[str], [default]
    if field.name == "preset":
        chosen = typer.Option(*names, callback=load_preset, is_eager=True, help=text)
        return keyword_only(field.name, Annotated[kind, chosen], default)
    return keyword_only(field.name, Annotated[kind, typer.Option(*names, readable=False, help=text)], default)


def default_of(field: Field[Any]) -> Any:
    """What stands for an option that is not given; `Parameter.empty` where it must be."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default


def keyword_only(name: str, hint: Any, default: Any) -> Parameter:
    """A keyword-only parameter of a signature."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def parse_settings(settings: list[str], option: str) -> dict[str, Any]:
    """`["key=value", ...]`, given by an option, as a dictionary of values that are read as YAML.

    Raises:
        UsageError: a setting has no `=`, or a key is given twice.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {setting}: must read key=value")
        if key in values:
            raise UsageError(f"{option} {setting}: {key} is given twice")
        values[key] = parse_value(text)
    return values


def parse_value(text: str) -> Any:
    """YAML as a JSON value; what JSON has not (a date) stays text; as in YAML 1.2 `no` is text and `1e-6` a number."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, bool) and text.strip().lower() not in ("true", "false"):
        return text.strip()
    if not isinstance(value, str):
        return value if value is None or isinstance(value, (bool, int, float, list, dict)) else text
    try:
        return float(value)
    except ValueError:
        return value
