"""The official code at work, in a process of its own: one JSON request a line on stdin, one JSON reply on stdout.

`process.py` starts this file as a script with the folder of the unpacked wheel as its argument; it
imports nothing but the standard library and that wheel.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import ModuleType, SimpleNamespace
from typing import Any

Json = dict[str, Any]
MODEL = "toolrl"


def serve(package: str) -> None:
    """Answer requests until stdin ends; a request that fails is answered with the failure."""
    # The official code prints, and stdout belongs to the replies.
    replies, sys.stdout = sys.stdout, sys.stderr
    replace_modules()
    sys.path.insert(0, package)
    jobs: dict[str, Callable[..., Json]] = {"load": load, "check": check, "gold": gold}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = jobs[request.pop("job")](**request)
        except Exception as error:
            reply = {"failure": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def replace_modules() -> None:
    """Stand in for two imports: file locks nobody needs here, and a table that loads every vendor's client."""
    locks = ModuleType("filelock")
    locks.FileLock = nullcontext  # type: ignore[attr-defined]
    models = ModuleType("bfcl_eval.constants.model_config")
    # Our models see dotted tool names as they are, so the checker must not expect underscores.
    models.MODEL_CONFIG_MAPPING = {MODEL: SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules.update({locks.__name__: locks, models.__name__: models})


def load(category: str) -> Json:
    """The entries of a category as a model should see them: tools with the hints for their language."""
    from bfcl_eval.utils import load_dataset_entry

    entries = load_dataset_entry(category, include_language_specific_hint=True)
    return {"entries": [{name: entry[name] for name in ("id", "question", "function")} for entry in entries]}


def check(category: str, id: str, calls: list[Json]) -> Json:
    """The official verdict on calls `[{name: arguments}]`."""
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.utils import is_function_calling_format_output, is_java, is_js

    language = Language.JAVA if is_java(category) else Language.JAVASCRIPT if is_js(category) else Language.PYTHON
    if not is_function_calling_format_output(calls):
        return {"valid": False, "error_type": "ast_decoder:decoder_wrong_output_format", "error": "not a list of calls"}
    functions, truth = load_gold(category)[id]
    verdict = ast_checker(functions, calls, truth, language, category, MODEL)
    error = "; ".join(map(str, verdict["error"]))[:500]
    mismatches: list[str] = []
    if (verdict.get("error_type") or "").endswith("cannot_find_match"):
        # One call against one answer is what the official code calls multiple. What only explains must not raise.
        compare = functools.partial(
            ast_checker, functions, language=language, test_category="multiple", model_name=MODEL
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
    """The possible answers of an entry `[{name: {parameter: [values]}}]`."""
    return {"answers": load_gold(category)[id][1]}


@functools.cache
def load_gold(category: str) -> dict[str, tuple[list[Json], list[Json]]]:
    """Functions without hints (the checker fails on hinted Java and JavaScript) and possible answers, by id."""
    from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry

    truths = {entry["id"]: entry["ground_truth"] for entry in load_ground_truth_entry(category)}
    entries = load_dataset_entry(category, include_language_specific_hint=False)
    return {entry["id"]: (entry["function"], truths[entry["id"]]) for entry in entries}


if __name__ == "__main__":
    serve(sys.argv[1])
