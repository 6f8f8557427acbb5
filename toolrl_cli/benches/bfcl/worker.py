"""The official code at work, in a process of its own: one JSON request a line on stdin, one JSON reply on stdout.

`process.py` starts it. It imports nothing but the standard library, the modules beside it that say so, and
the official package.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from contextlib import suppress
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


def load(category: str, openai: bool) -> Json:
    """The entries of a category as a model should see them: functions with the hints for their language.

    With `openai` they are described as for OpenAI's models.
    """
    kept = ("id", "question", "function", "missed_function")
    entries = official.load_entries(category, hints=True)
    for entry in entries if openai else ():
        entry["function"] = official.for_openai(entry["function"])
        held_out = entry.get("missed_function", {})
        held_out.update({turn: official.for_openai(functions) for turn, functions in held_out.items()})
    return {"entries": [{name: entry[name] for name in kept if name in entry} for entry in entries]}


def check(category: str, id: str, calls: list[Json]) -> Json:
    """The official verdict on calls `[{name: arguments}]`."""
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.utils import is_function_calling_format_output

    if not is_function_calling_format_output(calls):
        return {"valid": False, "error_type": "ast_decoder:decoder_wrong_output_format", "error": "not a list of calls"}
    functions, truth = load_gold(category)[id]
    language = official.language_of(category)
    verdict = ast_checker(functions, calls, truth, language, category, official.MODEL)
    error = "; ".join(map(str, verdict["error"]))[:500]
    mismatches: list[str] = []
    if (verdict.get("error_type") or "").endswith("cannot_find_match"):
        # One call against one answer is what the official code calls multiple. What only explains must not raise.
        compare = functools.partial(
            ast_checker, functions, language=language, test_category="multiple", model_name=official.MODEL
        )
        with suppress(Exception):
            mismatches = explain_mismatch(lambda call, answer: compare([call], [answer]), calls, truth)
    return {
        "valid": verdict["valid"],
        "error_type": verdict.get("error_type"),
        "error": error,
        "mismatches": mismatches,
    }


def explain_mismatch(compare: Callable[[Json, Json], Json], calls: list[Json], answers: list[Json]) -> list[str]:
    """The error types of the calls that match no answer, against each of the answers that no call matches."""
    verdicts = [[compare(call, answer) for answer in answers] for call in calls]
    missed = [place for place in range(len(answers)) if not any(row[place]["valid"] for row in verdicts)]
    unmatched = [row for row in verdicts if not any(verdict["valid"] for verdict in row)]
    return [row[place]["error_type"] for row in unmatched for place in missed]


def gold(category: str, id: str) -> Json:
    """The possible answers of an entry `[{name: {parameter: [values]}}]`, or the gold calls of each turn."""
    return {"answers": official.load_answers(category)[id]}


@functools.cache
def load_gold(category: str) -> dict[str, tuple[list[Json], list[Json]]]:
    """Functions without hints (the checker fails on hinted Java and JavaScript) and possible answers, by id."""
    answers = official.load_answers(category)
    entries = official.load_entries(category, hints=False)
    return {entry["id"]: (entry["function"], answers[entry["id"]]) for entry in entries}


JOBS: dict[str, Callable[..., Json]] = {
    "load": load,
    "check": check,
    "gold": gold,
    "rules": simulator.read_rules,
    "play": simulator.play,
    "judge": simulator.judge,
}
