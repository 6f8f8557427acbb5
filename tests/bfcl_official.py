"""What the official packages themselves do, for comparison: a script with JSON on stdin and stdout.

python bfcl_official.py JOB ROOT PACKAGE...    JOB is `sums` or `dialogues`, ROOT the folder of toolrl_cli
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

Json = dict[str, Any]


def prepare(root: str, packages: list[str]) -> None:
    """Let the official packages be imported without what they require."""
    sys.path.insert(0, root)
    from toolrl_cli.benches.bfcl import official

    official.replace_modules()
    overrides = ModuleType("overrides")
    vars(overrides).update(final=lambda function: function, override=lambda function: function)
    sys.modules |= {"overrides": overrides, "dotenv": official.Unused("dotenv")}
    sys.path[:0] = packages


def sums(scores: dict[str, tuple[float, int]]) -> Json:
    """The row of each table of `generate_leaderboard_csv` before it is rounded, from score files."""
    from bfcl_eval.constants.category_mapping import VERSION_PREFIX
    from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING
    from bfcl_eval.eval_checker import eval_runner_helper as helper

    folder = Path("score") / "toolrl"
    folder.mkdir(parents=True)
    for category, (accuracy, count) in scores.items():
        header = {"accuracy": accuracy, "correct_count": 0, "total_count": count}
        (folder / f"{VERSION_PREFIX}_{category}_score.json").write_text(json.dumps(header) + "\n", "utf-8")
    shown = {"display_name": "m", "url": "", "org": "", "license": "", "input_price": None, "output_price": None}
    MODEL_CONFIG_MAPPING["toolrl"] = SimpleNamespace(**shown)
    tables: Json = {}

    def keep(data: Any, file_path: Path, header: list[str], **_: object) -> None:
        tables[Path(file_path).stem] = dict(zip(header, data[0], strict=False))

    helper.write_score_csv_file = keep
    table: Json = {}
    helper.update_leaderboard_table_with_local_score_file(table, Path("score"))
    helper.generate_leaderboard_csv(table, Path("score"))
    return tables


def dialogues(rows: list[Json]) -> list[Json]:
    """The messages that follow the recorded answers `[[call, ...], ...]` in the official runner, and its verdict."""
    return [run_dialogue(row, f"model{i}") for i, row in enumerate(rows)]


def run_dialogue(row: Json, name: str) -> Json:
    """One dialogue and its check under a name of its own and with new tools, so that they meet nobody's state."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    from toolrl_cli.benches.bfcl.simulator import renew_tools

    entries, answers = load(row["category"])
    entry, gold = copy.deepcopy(entries[row["id"]]), answers[row["id"]]
    handler = make_handler(row["answers"], name)
    renew_tools()
    turns, _ = handler.inference_multi_turn_FC(entry, False, False)
    renew_tools()
    correct = False
    if len(turns) == len(gold):
        decoded = [[handler.decode_execute(step) for step in turn if isinstance(step, list)] for turn in turns]
        correct = multi_turn_checker(decoded, gold, entry, row["category"], name)["valid"]
    return {"messages": handler.messages, "tools": handler.tools, "correct": correct}


@functools.cache
def load(category: str) -> tuple[dict[str, Json], Json]:
    """The entries and the gold of a category by id."""
    from toolrl_cli.benches.bfcl import official

    entries = official.load_entries(category, hints=True)
    return {entry["id"]: entry for entry in entries}, official.load_answers(category)


def make_handler(answers: list[list[Json]], name: str) -> Any:
    """An official handler of a model with native function calls that repeats recorded answers."""
    from bfcl_eval.model_handler.base_handler import BaseHandler
    from bfcl_eval.model_handler.utils import convert_to_function_call

    left = iter(answers)

    class Recorded(BaseHandler):
        def __init__(self) -> None:
            self.model_name = self.registry_name = self.model_name_underline_replaced = name
            self.messages: list[Json] = []
            self.tools: list[list[str]] = []

        def _pre_query_processing_FC(self, data: Json, entry: Json) -> Json:  # noqa: N802
            return data

        def _compile_tools(self, data: Json, entry: Json) -> Json:
            self.tools.append([function["name"] for function in entry["function"]])
            return data

        def add_first_turn_message_FC(self, data: Json, messages: list[Json]) -> Json:  # noqa: N802
            return self._add_next_turn_user_message_FC(data, messages)

        def _add_next_turn_user_message_FC(self, data: Json, messages: list[Json]) -> Json:  # noqa: N802
            self.messages += messages
            return data

        def _query_FC(self, data: Json) -> tuple[list[Json], float]:  # noqa: N802
            return next(left), 0.0

        def _parse_query_response_FC(self, calls: list[Json]) -> Json:  # noqa: N802
            made = [{call["name"]: json.dumps(call["arguments"])} for call in calls]
            return {"model_responses": made or "no call", "calls": calls, "input_token": 1, "output_token": 1}

        def _add_assistant_message_FC(self, data: Json, response: Json) -> Json:  # noqa: N802
            return data

        def _add_execution_results_FC(self, data: Json, results: list[str], response: Json) -> Json:  # noqa: N802
            named = zip(response["calls"], results, strict=True)
            self.messages += [{"role": "tool", "name": call["name"], "content": result} for call, result in named]
            return data

        def decode_execute(self, result: Any, has_tool_call_tag: bool = False) -> Any:
            if isinstance(result, str):
                raise ValueError(result)
            return convert_to_function_call(result)

    return Recorded()


JOBS: dict[str, Callable[[Any], object]] = {"sums": sums, "dialogues": dialogues}

if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    prepare(sys.argv[2], sys.argv[3:])
    json.dump(JOBS[sys.argv[1]](json.load(sys.stdin)), out)
