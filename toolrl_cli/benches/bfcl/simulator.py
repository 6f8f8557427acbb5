"""The official simulator of multi-turn dialogues, in the worker's process.

It evaluates a call as Python text, and keeps the state of a dialogue in globals of its module, some of it even
in default arguments. Here every request plays its dialogue from the start in a simulator without a past, and
`run_call` takes the place of `eval`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from importlib.machinery import SourceFileLoader
from typing import Any

from toolrl_cli.benches.bfcl import official

Json = dict[str, Any]
Steps = list[list[Json]]
"""The calls `{"name", "arguments"}` of each step of a turn."""
TOOLS = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code."
LONGEST = 1_000_000
"""Characters of a result; no tool that is used in earnest answers with more, and no model reads it."""


class Exhausted(BaseException):
    """A call wants more memory than there is, or answers endlessly; the official code must not catch it."""


def read_rules() -> Json:
    """The most steps of a turn, and what the user says when new functions come."""
    from bfcl_eval.constants import default_prompts

    return {
        "step_limit": default_prompts.MAXIMUM_STEP_LIMIT,
        "new_tools": default_prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC,
    }


def play(category: str, id: str, turns: list[Steps]) -> Json:
    """What the simulator answers to each call of the last step."""
    simulator = open_simulator()
    scenario, _ = load_scenario(category)[id]
    results: list[str] = []
    for step in (step for turn in turns for step in turn):
        results, _ = simulator.execute_multi_turn_func_call(
            func_call_list=write_calls(step),
            initial_config=scenario["initial_config"],
            involved_classes=scenario["involved_classes"],
            model_name=official.MODEL,
            test_entry_id=id,
            long_context="long_context" in category,
        )
    return {"results": results}


def judge(category: str, id: str, turns: list[Steps]) -> Json:
    """The official verdict on a whole dialogue."""
    open_simulator()
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    scenario, truth = load_scenario(category)[id]
    decoded = [[write_calls(step) for step in turn] for turn in turns]
    verdict = multi_turn_checker(decoded, truth, scenario, category, official.MODEL)
    return {"valid": verdict["valid"], "error_type": verdict.get("error_type"), "error": explain(verdict)}


def explain(verdict: Json) -> str:
    """The checker's words, and what it compared."""
    details = verdict.get("details", {})
    compared = details.get("differences") or details.get("missing_items") or ""
    return f"{verdict.get('error_message', '')} {compared}".strip()[:500]


@functools.cache
def load_scenario(category: str) -> dict[str, tuple[Json, list[list[str]]]]:
    """The initial state and the gold calls of each entry, by id."""
    answers = official.load_answers(category)
    return {entry["id"]: (entry, answers[entry["id"]]) for entry in official.load_scenarios(category)}


def write_calls(step: list[Json]) -> list[str]:
    """The calls as the official decoders write them for `eval`."""
    return [
        f"{call['name']}({','.join(f'{key}={value!r}' for key, value in call['arguments'].items())})" for call in step
    ]


def open_simulator() -> Any:
    """The official module without any state of earlier dialogues, and without `eval`."""
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils

    state = vars(multi_turn_utils)
    for name in [name for name in state if name.endswith("_instance")]:
        del state[name]
    renew_tools()
    state["eval"] = functools.partial(run_call, state)
    return multi_turn_utils


def renew_tools() -> None:
    """Define the tools anew: mentions go into a list that is the default argument of every later tweet.

    The module `long_context` comes first, since the others import from it.
    """
    loaded = [name for name in sys.modules if name.startswith(TOOLS)]
    for name in sorted(loaded, key=lambda name: not name.endswith(".long_context")):
        exec(compile_module(name), vars(sys.modules[name]))


@functools.cache
def compile_module(name: str) -> Any:
    """The code of an official module."""
    spec = sys.modules[name].__spec__
    assert spec is not None and isinstance(spec.loader, SourceFileLoader)
    return spec.loader.get_code(name)


def run_call(state: Json, text: str) -> object:
    """Call a tool of a simulated instance with literal arguments; takes the place of `eval(text)`.

    Raises:
        NameError, SyntaxError: the text is no such call, as `eval` says of a function that does not exist.
        Exhausted: the memory does not suffice, or the result is too long.
    """
    call = ast.parse(text, "<string>", mode="eval").body
    try:
        method, arguments, keywords = read_call(state, call)
    except (ValueError, KeyError, AttributeError) as error:
        raise NameError(f"name {text.partition('(')[0]!r} is not defined") from error
    try:
        result = method(*arguments, **keywords)
        length = len(str(result))
    except MemoryError as error:
        raise Exhausted("the call needs too much memory") from error
    if length > LONGEST:
        raise Exhausted(f"the call answers with {length} characters")
    return result


def read_call(state: Json, call: ast.expr) -> tuple[Any, list[object], dict[str, object]]:
    """The bound method, positional and keyword arguments of `instance.method(literal, name=literal)`.

    Raises:
        ValueError, KeyError, AttributeError: it is something else.
    """
    match call:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=instance), attr=name)):
            method = getattr(state[instance], name)
        case _:
            raise ValueError("no call of a method")
    if not instance.endswith("_instance") or name.startswith("_") or not inspect.ismethod(method):
        raise ValueError("no tool")
    keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    if len(keywords) < len(call.keywords):
        raise ValueError("unpacked or repeated arguments")
    return method, [ast.literal_eval(argument) for argument in call.args], keywords
