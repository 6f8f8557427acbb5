"""The gold answers of the official BFCL packages, in the form in which a model gives its answers."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

from toolrl_cli.benches.bfcl.editions import Edition
from toolrl_cli.records import Json

SUFFIXES = {"float": "f", "long": "L"}
Literal = Callable[[object, Json], object]


def find_data(package: Path) -> Path:
    """The folder with the data of an official package."""
    return package / "bfcl_eval" / "data"


def read_raw(path: Path) -> dict[str, Json]:
    """The rows of a file by id."""
    return {row["id"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}


def read_category(package: Path, category: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """The entries of a category and their gold."""
    (path,) = find_data(package).glob(f"BFCL_v?_{category}.json")
    return read_raw(path), read_raw(path.parent / "possible_answer" / path.name)


def gold_rows(package: Path, edition: Edition, first_tools: dict[str, str]) -> list[Json]:
    """A right prediction for every entry; where any call will do, that is one of the entry's first tool."""
    rows = [
        {"id": id, "tool_calls": calls}
        for category in edition.ast
        for id, calls in gold_calls(package, category).items()
    ]
    for id, name in first_tools.items():
        called = [{"name": name, "arguments": {}}] if id.startswith("live_relevance") else []
        rows.append({"id": id, "tool_calls": called})
    return rows + [row for category in edition.multi_turn for row in gold_dialogues(package, category)]


def gold_calls(package: Path, category: str) -> dict[str, list[Json]]:
    """The first allowed value of every argument, in the literal form of the category's language."""
    entries, answers = read_category(package, category)
    language = category.removeprefix("simple_")
    literal = {"java": java, "javascript": javascript}.get(language, lambda value, schema: value)
    gold = {}
    for id, answer in answers.items():
        tools = {tool["name"]: tool["parameters"] for tool in entries[id]["function"]}
        pairs = [pair for call in answer["ground_truth"] for pair in call.items()]
        if len(tools) == 1:  # the checker never looks at the name here, which is another one for two entries of v3
            pairs = [(name, given) for name in tools for _, given in pairs]
        gold[id] = [{"name": name, "arguments": gold_arguments(tools[name], given, literal)} for name, given in pairs]
    return gold


def gold_arguments(parameters: Json, given: Json, literal: Literal) -> Json:
    """The first value allowed for each argument; an empty text means that an optional one may be left out."""
    arguments = {}
    for name, allowed in given.items():
        required = name in parameters["required"]
        if allowed and (required or "" not in allowed):
            value = next((value for value in allowed if value != ""), "")
            arguments[name] = literal(first(value), parameters["properties"].get(name, {}))
    return arguments


def first(value: object) -> object:
    """An object's values are lists of allowed values, one level deep; other values stand for themselves."""
    if isinstance(value, dict):
        return {key: allowed[0] for key, allowed in value.items() if allowed[0] != ""}
    if isinstance(value, list):
        return [first(item) if isinstance(item, dict) else item for item in value]
    return value


def java(value: object, schema: Json) -> str:
    """A Java literal."""
    kind = schema["type"]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        suffix = SUFFIXES.get(schema["items"]["type"], "")
        # The official reader keeps the quotes of an array's items, and unquotes a list's.
        items = [item if kind == "Array" and isinstance(item, str) else json.dumps(item) + suffix for item in value]
        joined = ", ".join(items)
        return f"new ArrayList<>(Arrays.asList({joined}))" if kind == "ArrayList" else f"new Object[]{{{joined}}}"
    if isinstance(value, dict):
        puts = " ".join(f'put("{key}", {json.dumps(item)});' for key, item in value.items())
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
    return json.dumps(value) + SUFFIXES.get(kind, "")


def javascript(value: object, schema: Json) -> str:
    """A JavaScript literal."""
    return value if isinstance(value, str) else json.dumps(value)


def gold_dialogues(package: Path, category: str) -> list[Json]:
    """The gold of each turn as one step, or no step where there is nothing to call."""
    _, answers = read_category(package, category)
    parameters = read_parameters(package)
    return [
        {"id": id, "turns": [[step_of(turn, parameters)] if turn else [] for turn in answer["ground_truth"]]}
        for id, answer in answers.items()
    ]


def read_parameters(package: Path) -> dict[str, list[str]]:
    """The parameters of every simulated function in their order."""
    docs = (find_data(package) / "multi_turn_func_doc").glob("*.json")
    functions = [json.loads(line) for path in docs for line in path.read_text("utf-8").splitlines()]
    return {function["name"]: list(function["parameters"]["properties"]) for function in functions}


def step_of(calls: list[str], parameters: dict[str, list[str]]) -> Json:
    """Calls as Python text, as a step of a prediction."""
    return {"tool_calls": [read_call(text, parameters) for text in calls]}


def read_call(text: str, parameters: dict[str, list[str]]) -> Json:
    """A call as Python text, as name and arguments."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    named = zip(parameters[call.func.id], call.args, strict=False)
    given = [*named, *((keyword.arg, keyword.value) for keyword in call.keywords)]
    return {"name": call.func.id, "arguments": {key: ast.literal_eval(value) for key, value in given}}
