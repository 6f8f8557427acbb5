"""The kinds of failure: from the official checker's error types, from the reward's outcomes, from the calls."""

from __future__ import annotations

import re

import pytest

from toolrl_cli.benches.base import Verdict
from toolrl_cli.benches.bfcl.bench import WHEEL
from toolrl_cli.benches.bfcl.worker import explain_mismatch
from toolrl_cli.benches.failures import Failure, compare_calls, find_failure, name_failure, nearest_failure
from toolrl_cli.downloads import unpack_wheel
from toolrl_cli.records import Json, Outcome, ToolCall

OFFICIAL = {
    "simple_function_checker:wrong_count": Failure.WRONG_COUNT,
    "parallel_function_checker_no_order:wrong_count": Failure.WRONG_COUNT,
    "parallel_function_checker_enforce_order:wrong_count": Failure.WRONG_COUNT,
    "multiple_function_checker:wrong_count": Failure.WRONG_COUNT,
    "simple_function_checker:wrong_func_name": Failure.WRONG_TOOL,
    "simple_function_checker:missing_required": Failure.MISSING_ARGUMENT,
    "simple_function_checker:missing_optional": Failure.MISSING_ARGUMENT,
    "simple_function_checker:unexpected_param": Failure.UNKNOWN_ARGUMENT,
    "type_error:simple": Failure.WRONG_VALUE,
    "type_error:nested": Failure.WRONG_VALUE,
    "type_error:java": Failure.WRONG_VALUE,
    "type_error:js": Failure.WRONG_VALUE,
    "value_error:string": Failure.WRONG_VALUE,
    "value_error:list/tuple": Failure.WRONG_VALUE,
    "value_error:dict_key": Failure.WRONG_VALUE,
    "value_error:dict_value": Failure.WRONG_VALUE,
    "value_error:list_dict_count": Failure.WRONG_VALUE,
    "value_error:others": Failure.WRONG_VALUE,
    "simple_function_checker:unclear": Failure.OTHER,
    "dict_checker:unclear": Failure.OTHER,
    "list_dict_checker:unclear": Failure.OTHER,
    "parallel_function_checker_no_order:cannot_find_match": Failure.OTHER,
    "ast_decoder:decoder_failed": Failure.MALFORMED,
    "ast_decoder:decoder_wrong_output_format": Failure.MALFORMED,
    "irrelevance_error:decoder_success": Failure.SPURIOUS_CALL,
    "relevance_error:decoder_failed": Failure.NO_CALL,
    "multi_turn:empty_turn_model_response": Failure.NO_CALL,
    "multi_turn:irrelevance_error:decoder_success": Failure.SPURIOUS_CALL,
    "multi_turn:instance_state_mismatch": Failure.WRONG_STATE,
    "multi_turn:execution_response_mismatch": Failure.WRONG_STATE,
    "multi_turn:method_invoke_order_mismatch": Failure.WRONG_STATE,
    "multi_turn:force_terminated": Failure.OTHER,
    "multi_turn:inference_error": Failure.OTHER,
    "agentic:inference_error": Failure.OTHER,
    "agentic:no_last_message": Failure.OTHER,
    "agentic:answer_not_found": Failure.OTHER,
}


@pytest.mark.parametrize(("error_type", "failure"), OFFICIAL.items())
def test_every_official_error_type_has_its_kind(error_type: str, failure: Failure) -> None:
    assert name_failure(error_type) is failure


@pytest.mark.slow
def test_no_official_error_type_is_forgotten() -> None:
    folder = unpack_wheel(WHEEL) / "bfcl_eval" / "eval_checker"
    source = "\n".join(path.read_text("utf-8") for path in folder.rglob("*.py"))
    assert set(re.findall(r'error_type"\]?(?::| =) "([^"]+)"', source)) == set(OFFICIAL)


@pytest.mark.parametrize(
    ("verdict", "truncated", "failure"),
    [
        (Verdict(True, Outcome.EXACT, "type_error:simple"), True, None),
        (Verdict(False, None, "missing"), False, Failure.ERROR),
        (Verdict(False, Outcome.WRONG, "checker"), False, Failure.ERROR),
        (Verdict(False, Outcome.MALFORMED, "parse"), False, Failure.MALFORMED),
        (Verdict(False, Outcome.MALFORMED, "parse"), True, Failure.TRUNCATED),
        (Verdict(False, Outcome.TRUNCATED), True, Failure.TRUNCATED),
        (Verdict(False, Outcome.NO_CALL, "simple_function_checker:wrong_count"), False, Failure.NO_CALL),
        (Verdict(False, Outcome.SPURIOUS_CALL), False, Failure.SPURIOUS_CALL),
        (Verdict(False, Outcome.WRONG, "type_error:simple"), True, Failure.WRONG_VALUE),
        (Verdict(False, Outcome.WRONG, "cannot_find_match", failure="wrong_tool"), False, Failure.WRONG_TOOL),
        (Verdict(False, Outcome.ABSTAINED, "no_response"), False, Failure.OTHER),
        (Verdict(False, None), False, Failure.OTHER),
    ],
)
def test_a_verdict_has_its_kind(verdict: Verdict, truncated: bool, failure: Failure | None) -> None:
    assert find_failure(verdict, truncated=truncated) is failure


def f(name: str = "f", **arguments: object) -> ToolCall:
    return ToolCall(name, arguments)


@pytest.mark.parametrize(
    ("gold", "given", "failure"),
    [
        ([f(a=1)], [f(a=1), f(a=1)], Failure.WRONG_COUNT),
        ([f(a=1)], [f("g", a=1)], Failure.WRONG_TOOL),
        ([f(a=1), f("g")], [f("g"), f("g")], Failure.WRONG_TOOL),
        ([f(a=1, b=2)], [f(b=3)], Failure.MISSING_ARGUMENT),
        ([f(a=1)], [f(b=1)], Failure.MISSING_ARGUMENT),
        ([f(a=1)], [f(a=2, b=1)], Failure.UNKNOWN_ARGUMENT),
        ([f(a=1)], [f(a=2)], Failure.WRONG_VALUE),
        ([f(a=1), f(a=2), f("g", x=1)], [f("g", x=1), f(a=2), f(a=3)], Failure.WRONG_VALUE),
        ([f(a=1), f(b=1)], [f(b=1), f(a=1, c=0)], Failure.UNKNOWN_ARGUMENT),
    ],
)
def test_calls_differ_in_their_first_fault(gold: list[ToolCall], given: list[ToolCall], failure: Failure) -> None:
    assert compare_calls(gold, given) is failure


def test_of_several_mismatches_the_nearest_one_counts() -> None:
    types = [
        "simple_function_checker:wrong_func_name",
        "value_error:string",
        "simple_function_checker:unexpected_param",
    ]
    assert nearest_failure(types) is Failure.WRONG_VALUE
    assert nearest_failure(types[:1]) is Failure.WRONG_TOOL
    assert nearest_failure([]) is nearest_failure(["dict_checker:unclear"]) is Failure.OTHER


def test_only_calls_that_match_nothing_explain_a_mismatch() -> None:
    def compare(call: Json, answer: Json) -> Json:
        return {"valid": call == answer, "error_type": f"{call['x']} is not {answer['x']}"}

    calls, answers = [{"x": 1}, {"x": 5}, {"x": 3}], [{"x": 1}, {"x": 2}, {"x": 3}]
    assert explain_mismatch(compare, calls, answers) == ["5 is not 2"]
