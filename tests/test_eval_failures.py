"""The kinds of failure: from the official checker's error types, from the reward's outcomes, from the calls."""

from __future__ import annotations

import re

import pytest

from toolrl_cli.benches.base import Verdict
from toolrl_cli.benches.bfcl.editions import V4
from toolrl_cli.benches.bfcl.worker import explain_mismatch
from toolrl_cli.benches.failures import FailureKind, compare_calls, find_failure, name_failure, nearest_failure
from toolrl_cli.downloads import unpack_wheel
from toolrl_cli.records import Json, Outcome, ToolCall

OFFICIAL = {
    "simple_function_checker:wrong_count": FailureKind.WRONG_COUNT,
    "parallel_function_checker_no_order:wrong_count": FailureKind.WRONG_COUNT,
    "parallel_function_checker_enforce_order:wrong_count": FailureKind.WRONG_COUNT,
    "multiple_function_checker:wrong_count": FailureKind.WRONG_COUNT,
    "simple_function_checker:wrong_func_name": FailureKind.WRONG_TOOL,
    "simple_function_checker:missing_required": FailureKind.MISSING_ARGUMENT,
    "simple_function_checker:missing_optional": FailureKind.MISSING_ARGUMENT,
    "simple_function_checker:unexpected_param": FailureKind.UNKNOWN_ARGUMENT,
    "type_error:simple": FailureKind.WRONG_VALUE,
    "type_error:nested": FailureKind.WRONG_VALUE,
    "type_error:java": FailureKind.WRONG_VALUE,
    "type_error:js": FailureKind.WRONG_VALUE,
    "value_error:string": FailureKind.WRONG_VALUE,
    "value_error:list/tuple": FailureKind.WRONG_VALUE,
    "value_error:dict_key": FailureKind.WRONG_VALUE,
    "value_error:dict_value": FailureKind.WRONG_VALUE,
    "value_error:list_dict_count": FailureKind.WRONG_VALUE,
    "value_error:others": FailureKind.WRONG_VALUE,
    "simple_function_checker:unclear": FailureKind.OTHER,
    "dict_checker:unclear": FailureKind.OTHER,
    "list_dict_checker:unclear": FailureKind.OTHER,
    "parallel_function_checker_no_order:cannot_find_match": FailureKind.OTHER,
    "ast_decoder:decoder_failed": FailureKind.MALFORMED,
    "ast_decoder:decoder_wrong_output_format": FailureKind.MALFORMED,
    "irrelevance_error:decoder_success": FailureKind.SPURIOUS_CALL,
    "relevance_error:decoder_failed": FailureKind.NO_CALL,
    "multi_turn:empty_turn_model_response": FailureKind.NO_CALL,
    "multi_turn:irrelevance_error:decoder_success": FailureKind.SPURIOUS_CALL,
    "multi_turn:instance_state_mismatch": FailureKind.WRONG_STATE,
    "multi_turn:execution_response_mismatch": FailureKind.WRONG_STATE,
    "multi_turn:method_invoke_order_mismatch": FailureKind.WRONG_STATE,
    "multi_turn:force_terminated": FailureKind.OTHER,
    "multi_turn:inference_error": FailureKind.OTHER,
    "agentic:inference_error": FailureKind.OTHER,
    "agentic:no_last_message": FailureKind.NO_RESPONSE,
    "agentic:answer_not_found": FailureKind.WRONG_ANSWER,
}


@pytest.mark.parametrize(("error_type", "failure"), OFFICIAL.items())
def test_every_official_error_type_has_its_kind(error_type: str, failure: FailureKind) -> None:
    assert name_failure(error_type) is failure


@pytest.mark.slow
def test_no_official_error_type_is_forgotten() -> None:
    folder = unpack_wheel(V4.wheel) / "bfcl_eval" / "eval_checker"
    source = "\n".join(path.read_text("utf-8") for path in folder.rglob("*.py"))
    assert set(re.findall(r'error_type"\]?(?::| =) "([^"]+)"', source)) == set(OFFICIAL)


@pytest.mark.parametrize(
    ("verdict", "truncated", "failure"),
    [
        (Verdict(True, Outcome.EXACT, "type_error:simple"), True, None),
        (Verdict(False, None, "missing"), False, FailureKind.ERROR),
        (Verdict(False, Outcome.WRONG, "checker"), False, FailureKind.ERROR),
        (Verdict(False, Outcome.MALFORMED, "parse"), False, FailureKind.MALFORMED),
        (Verdict(False, Outcome.MALFORMED, "parse"), True, FailureKind.TRUNCATED),
        (Verdict(False, Outcome.TRUNCATED), True, FailureKind.TRUNCATED),
        (Verdict(False, Outcome.NO_CALL, "simple_function_checker:wrong_count"), False, FailureKind.NO_CALL),
        (Verdict(False, Outcome.SPURIOUS_CALL), False, FailureKind.SPURIOUS_CALL),
        (Verdict(False, Outcome.WRONG, "type_error:simple"), True, FailureKind.WRONG_VALUE),
        (Verdict(False, Outcome.WRONG, "cannot_find_match", failure="wrong_tool"), False, FailureKind.WRONG_TOOL),
        (Verdict(False, Outcome.ABSTAINED, "no_response"), False, FailureKind.NO_RESPONSE),
        (Verdict(False, None), False, FailureKind.OTHER),
    ],
)
def test_a_verdict_has_its_kind(verdict: Verdict, truncated: bool, failure: FailureKind | None) -> None:
    assert find_failure(verdict, truncated=truncated) is failure


def f(name: str = "f", **arguments: object) -> ToolCall:
    return ToolCall(name, arguments)


@pytest.mark.parametrize(
    ("gold", "given", "failure"),
    [
        ([f(a=1)], [f(a=1), f(a=1)], FailureKind.WRONG_COUNT),
        ([f(a=1)], [f("g", a=1)], FailureKind.WRONG_TOOL),
        ([f(a=1), f("g")], [f("g"), f("g")], FailureKind.WRONG_TOOL),
        ([f(a=1, b=2)], [f(b=3)], FailureKind.MISSING_ARGUMENT),
        ([f(a=1)], [f(b=1)], FailureKind.MISSING_ARGUMENT),
        ([f(a=1)], [f(a=2, b=1)], FailureKind.UNKNOWN_ARGUMENT),
        ([f(a=1)], [f(a=2)], FailureKind.WRONG_VALUE),
        ([f(a=1), f(a=2), f("g", x=1)], [f("g", x=1), f(a=2), f(a=3)], FailureKind.WRONG_VALUE),
        ([f(a=1), f(b=1)], [f(b=1), f(a=1, c=0)], FailureKind.UNKNOWN_ARGUMENT),
    ],
)
def test_calls_differ_in_their_first_fault(gold: list[ToolCall], given: list[ToolCall], failure: FailureKind) -> None:
    assert compare_calls(gold, given) is failure


def test_of_several_mismatches_the_nearest_one_counts() -> None:
    types = [
        "simple_function_checker:wrong_func_name",
        "value_error:string",
        "simple_function_checker:unexpected_param",
    ]
    assert nearest_failure(types) is FailureKind.WRONG_VALUE
    assert nearest_failure(types[:1]) is FailureKind.WRONG_TOOL
    assert nearest_failure([]) is nearest_failure(["dict_checker:unclear"]) is FailureKind.OTHER


def test_only_calls_that_match_nothing_explain_a_mismatch() -> None:
    def compare(call: Json, answer: Json) -> Json:
        return {"valid": call == answer, "error_type": f"{call['x']} is not {answer['x']}"}

    calls, answers = [{"x": 1}, {"x": 5}, {"x": 3}], [{"x": 1}, {"x": 2}, {"x": 3}]
    assert explain_mismatch(compare, calls, answers) == ["5 is not 2"]
