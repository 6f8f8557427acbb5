"""The official code at work, in a process of its own: one JSON request a line on stdin, one JSON reply on stdout.

`process.py` starts it. It imports nothing but the standard library, the modules beside it that say so, and
the official package.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from toolrl_cli.benches.bfcl import guard, official, simulator

Json = dict[str, Any]


def serve(memory_limit: str, *packages: str) -> None:
    """Answer requests until stdin ends; a request that fails is answered with the failure."""
    # The official code prints, and stdout belongs to the replies.
    replies, sys.stdout = sys.stdout, sys.stderr
    official.replace_modules()
    sys.path[:0] = packages
    guard.lock_down(int(memory_limit))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = JOBS[request.pop("job")](**request)
        except (Exception, simulator.Exhausted) as error:
            reply = {"failure": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def load(category: str) -> Json:
    """The entries of a category as a model should see them: tools with the hints for their language."""
    kept = ("id", "question", "function", "missed_function")
    entries = official.load_entries(category, hints=True)
    return {"entries": [{name: entry[name] for name in kept if name in entry} for entry in entries]}


def check(category: str, id: str, calls: list[Json]) -> Json:
    """The official verdict on calls `[{name: arguments}]`."""
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.utils import is_function_calling_format_output

    if not is_function_calling_format_output(calls):
        return {"valid": False, "error_type": "ast_decoder:decoder_wrong_output_format", "error": "not a list of calls"}
    functions, truth = load_gold(category)[id]
    verdict = ast_checker(functions, calls, truth, official.language_of(category), category, official.MODEL)
    error = "; ".join(map(str, verdict["error"]))[:500]
    return {"valid": verdict["valid"], "error_type": verdict.get("error_type"), "error": error}


@functools.cache
def load_gold(category: str) -> dict[str, tuple[list[Json], list[Json]]]:
    """Functions without hints (the checker fails on hinted Java and JavaScript) and possible answers, by id."""
    answers = official.load_answers(category)
    entries = official.load_entries(category, hints=False)
    return {entry["id"]: (entry["function"], answers[entry["id"]]) for entry in entries}


JOBS: dict[str, Callable[..., Json]] = {
    "load": load,
    "check": check,
    "rules": simulator.read_rules,
    "play": simulator.play,
    "judge": simulator.judge,
}
