"""Why an answer is wrong, in a dozen kinds that every benchmark shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from toolrl_cli.benches.base import Verdict
from toolrl_cli.records import Outcome, ToolCall


class Failure(StrEnum):
    """A kind of failure, in the order of the tables: from no readable answer to a nearly right one."""

    ERROR = "error"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    NO_CALL = "no_call"
    SPURIOUS_CALL = "spurious_call"
    WRONG_COUNT = "wrong_count"
    WRONG_TOOL = "wrong_tool"
    MISSING_ARGUMENT = "missing_argument"
    UNKNOWN_ARGUMENT = "unknown_argument"
    WRONG_VALUE = "wrong_value"
    WRONG_STATE = "wrong_state"
    OTHER = "other"


ERROR_TYPES = ("missing", "checker", "grading")
"""Error types of entries that got no verdict of their own: no answer, a checker or a bench that failed."""
BY_OUTCOME = {
    Outcome.MALFORMED: Failure.MALFORMED,
    Outcome.TRUNCATED: Failure.TRUNCATED,
    Outcome.NO_CALL: Failure.NO_CALL,
    Outcome.SPURIOUS_CALL: Failure.SPURIOUS_CALL,
}
BY_ERROR_TYPE = {
    "parse": Failure.MALFORMED,
    "wrong_count": Failure.WRONG_COUNT,
    "wrong_func_name": Failure.WRONG_TOOL,
    "missing_required": Failure.MISSING_ARGUMENT,
    "missing_optional": Failure.MISSING_ARGUMENT,
    "unexpected_param": Failure.UNKNOWN_ARGUMENT,
    "type_error": Failure.WRONG_VALUE,
    "value_error": Failure.WRONG_VALUE,
    "ast_decoder": Failure.MALFORMED,
    "decoder_success": Failure.SPURIOUS_CALL,
    "decoder_failed": Failure.NO_CALL,
    "empty_turn_model_response": Failure.NO_CALL,
    "instance_state_mismatch": Failure.WRONG_STATE,
    "execution_response_mismatch": Failure.WRONG_STATE,
    "method_invoke_order_mismatch": Failure.WRONG_STATE,
}
"""The words between colons in the error types of bfcl-eval 2026.3.23 (`bfcl_eval/eval_checker`) and in ours."""


def find_failure(verdict: Verdict, *, truncated: bool) -> Failure | None:
    """The kind of a wrong answer, None for a right one.

    What the benchmark says itself comes first; an answer that was cut off before its calls could be
    read failed by that.
    """
    if verdict.correct:
        return None
    if verdict.failure:
        return Failure(verdict.failure)
    if verdict.error_type in ERROR_TYPES:
        return Failure.ERROR
    if truncated and (verdict.error_type == "parse" or verdict.outcome in (Outcome.MALFORMED, Outcome.NO_CALL)):
        return Failure.TRUNCATED
    if verdict.outcome in BY_OUTCOME:
        return BY_OUTCOME[verdict.outcome]
    return name_failure(verdict.error_type or "")


def name_failure(error_type: str) -> Failure:
    """The kind that the first known word of an error type stands for."""
    return next((BY_ERROR_TYPE[word] for word in error_type.split(":") if word in BY_ERROR_TYPE), Failure.OTHER)


def nearest_failure(error_types: Iterable[str]) -> Failure:
    """Of a call's mismatches with several candidates the kind of the one that came closest to a match."""
    order = list(Failure)
    known = [failure for failure in map(name_failure, error_types) if failure is not Failure.OTHER]
    return max(known, key=order.index, default=Failure.OTHER)


def compare_calls(gold: Sequence[ToolCall], given: Sequence[ToolCall]) -> Failure:
    """What is wrong with calls that are not the gold ones: their number, a tool, an argument's name, or its value."""
    if len(given) != len(gold):
        return Failure.WRONG_COUNT
    if sorted(call.name for call in given) != sorted(call.name for call in gold):
        return Failure.WRONG_TOOL
    left = list(given)
    wanted = [call for call in gold if not take(left, call)]
    pairs = zip(sorted(wanted, key=name_of), sorted(left, key=name_of), strict=True)
    names = [(set(call.arguments), set(answer.arguments)) for call, answer in pairs]
    if any(asked - found for asked, found in names):
        return Failure.MISSING_ARGUMENT
    if any(found - asked for asked, found in names):
        return Failure.UNKNOWN_ARGUMENT
    return Failure.WRONG_VALUE


def take(calls: list[ToolCall], call: ToolCall) -> bool:
    """Remove one equal call from the list; whether there was one."""
    if call not in calls:
        return False
    calls.remove(call)
    return True


def name_of(call: ToolCall) -> str:
    """The name of the tool."""
    return call.name
