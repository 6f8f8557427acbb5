"""The official package as both of its editions offer it; only the worker's process imports it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Self

Json = dict[str, Any]
MODEL = "toolrl"
UNUSED = (
    "filelock", "numpy", "pandas", "tenacity", "tqdm",
    "bfcl_eval.model_handler.parser.java_parser", "bfcl_eval.model_handler.parser.js_parser",
)  # fmt: skip


class Unused(ModuleType):
    """Stands in for a module that only such official code needs as never runs here, or as a lock nobody needs."""

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def replace_modules() -> None:
    """Stand in for what need not be installed, and for a table that would load every vendor's client."""
    sys.modules.update({name: Unused(name) for name in UNUSED})
    models = ModuleType("bfcl_eval.constants.model_config")
    # Our models see dotted tool names as they are, so the checker must not expect underscores.
    models.MODEL_CONFIG_MAPPING = {MODEL: SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models


def load_entries(category: str, *, hints: bool) -> list[Json]:
    """The entries of a category with their functions, whose descriptions may hold hints on their language."""
    from bfcl_eval import utils

    if hasattr(utils, "load_dataset_entry"):
        entries: list[Json] = utils.load_dataset_entry(category, include_language_specific_hint=hints)
        return entries
    from bfcl_eval._llm_response_generation import process_multi_turn_test_case
    from bfcl_eval.model_handler.utils import func_doc_language_specific_pre_processing

    entries = process_multi_turn_test_case(load_scenarios(category))
    for entry in entries if hints else ():
        entry["function"] = func_doc_language_specific_pre_processing(entry["function"], category)
    return entries


def for_openai(functions: list[Json]) -> list[Json]:
    """Functions as the official handler describes them to OpenAI's models, but under their own names."""
    from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
    from bfcl_eval.model_handler.utils import ModelStyle, convert_to_tool

    style = getattr(ModelStyle, "OPENAI_COMPLETIONS", None) or ModelStyle.OpenAI
    tools = convert_to_tool(functions, GORILLA_TO_OPENAPI, style)
    return [{**tool["function"], "name": own["name"]} for tool, own in zip(tools, functions, strict=True)]


def load_scenarios(category: str) -> list[Json]:
    """The entries of a category as their file holds them."""
    from bfcl_eval.constants.eval_config import PROMPT_PATH

    return load_rows(PROMPT_PATH, category)


def load_answers(category: str) -> dict[str, list[Any]]:
    """The gold of a category by the id of its entry."""
    from bfcl_eval.constants.eval_config import POSSIBLE_ANSWER_PATH

    return {row["id"]: row["ground_truth"] for row in load_rows(POSSIBLE_ANSWER_PATH, category)}


def load_rows(folder: Any, category: str) -> list[Json]:
    """The rows of a category's file."""
    from bfcl_eval.constants.category_mapping import VERSION_PREFIX
    from bfcl_eval.utils import load_file

    rows: list[Json] = load_file(folder / f"{VERSION_PREFIX}_{category}.json")
    return rows


def language_of(category: str) -> Any:
    """The language of a category's functions, as the checker wants it named."""
    name = "JavaScript" if "javascript" in category else "Java" if "java" in category else "Python"
    try:
        from bfcl_eval.constants.enums import Language
    except ImportError:
        return name
    return Language[name.upper()]
