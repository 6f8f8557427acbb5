"""Why an answer is wrong, in a dozen kinds that every benchmark shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from toolrl_cli.benches.base import Verdict
from toolrl_cli.records import Outcome, ToolCall


class FailureKind(StrEnum):
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
    NO_RESPONSE = "no_response"
    WRONG_ANSWER = "wrong_answer"
    OTHER = "other"


UNANSWERED = ("missing", "engine", "search")
"""Error types of entries whose answer is not there or breaks off, because an engine or a search failed."""
PASSING = ("engine", "search", "judge")
"""Error types that are the fault of a server, which may be well by the time that an evaluation is resumed."""
ERROR_TYPES = (*UNANSWERED, "checker", "judge", "grading")
"""Error types of entries without a verdict of their own: those, and what a checker, a judge or a bench failed on."""
BY_OUTCOME = {
    Outcome.MALFORMED: FailureKind.MALFORMED,
    Outcome.TRUNCATED: FailureKind.TRUNCATED,
    Outcome.NO_CALL: FailureKind.NO_CALL,
    Outcome.SPURIOUS_CALL: FailureKind.SPURIOUS_CALL,
}
BY_ERROR_TYPE = {
    "parse": FailureKind.MALFORMED,
    "unsafe_call": FailureKind.MALFORMED,
    "wrong_count": FailureKind.WRONG_COUNT,
    "wrong_func_name": FailureKind.WRONG_TOOL,
    "wrong_tool": FailureKind.WRONG_TOOL,
    "missing_required": FailureKind.MISSING_ARGUMENT,
    "missing_optional": FailureKind.MISSING_ARGUMENT,
    "unexpected_param": FailureKind.UNKNOWN_ARGUMENT,
    "type_error": FailureKind.WRONG_VALUE,
    "value_error": FailureKind.WRONG_VALUE,
    "ast_decoder": FailureKind.MALFORMED,
    "decoder_success": FailureKind.SPURIOUS_CALL,
    "decoder_failed": FailureKind.NO_CALL,
    "empty_turn_model_response": FailureKind.NO_CALL,
    "instance_state_mismatch": FailureKind.WRONG_STATE,
    "execution_response_mismatch": FailureKind.WRONG_STATE,
    "method_invoke_order_mismatch": FailureKind.WRONG_STATE,
    "no_response": FailureKind.NO_RESPONSE,
    "no_answer": FailureKind.NO_RESPONSE,
    "no_last_message": FailureKind.NO_RESPONSE,
    "wrong_answer": FailureKind.WRONG_ANSWER,
    "answer_not_found": FailureKind.WRONG_ANSWER,
}
"""The words between colons in the error types of bfcl-eval 2026.3.23 (`bfcl_eval/eval_checker`) and in ours."""


def find_failure(verdict: Verdict, *, truncated: bool) -> FailureKind | None:
    """The kind of a wrong answer, None for a right one.

    What the benchmark says itself comes first; an answer that was cut off before its calls could be
    read failed by that.
    """
    if verdict.correct:
        return None
    if verdict.failure:
        return FailureKind(verdict.failure)
    if verdict.error_type in ERROR_TYPES:
        return FailureKind.ERROR
    if truncated and (verdict.error_type == "parse" or verdict.outcome in (Outcome.MALFORMED, Outcome.NO_CALL)):
        return FailureKind.TRUNCATED
    if verdict.outcome in BY_OUTCOME:
        return BY_OUTCOME[verdict.outcome]
    return name_failure(verdict.error_type or "")


def name_failure(error_type: str) -> FailureKind:
    """The kind that the first known word of an error type stands for."""
    return next((BY_ERROR_TYPE[word] for word in error_type.split(":") if word in BY_ERROR_TYPE), FailureKind.OTHER)


def nearest_failure(error_types: Iterable[str]) -> FailureKind:
    """Of a call's mismatches with several candidates the kind of the one that came closest to a match."""
    order = list(FailureKind)
    known = [failure for failure in map(name_failure, error_types) if failure is not FailureKind.OTHER]
    return max(known, key=order.index, default=FailureKind.OTHER)


def compare_calls(gold: Sequence[ToolCall], given: Sequence[ToolCall]) -> FailureKind:
    """What is wrong with calls that are not the gold ones: their number, a tool, an argument's name, or its value."""
    if len(given) != len(gold):
        return FailureKind.WRONG_COUNT
    if sorted(call.name for call in given) != sorted(call.name for call in gold):
        return FailureKind.WRONG_TOOL
    left = list(given)
    wanted = [call for call in gold if not take(left, call)]
    pairs = zip(sorted(wanted, key=name_of), sorted(left, key=name_of), strict=True)
    names = [(set(call.arguments), set(answer.arguments)) for call, answer in pairs]
    if any(asked - found for asked, found in names):
        return FailureKind.MISSING_ARGUMENT
    if any(found - asked for asked, found in names):
        return FailureKind.UNKNOWN_ARGUMENT
    return FailureKind.WRONG_VALUE


def take(calls: list[ToolCall], call: ToolCall) -> bool:
    """Remove one equal call from the list; whether there was one."""
    if call not in calls:
        return False
    calls.remove(call)
    return True


def name_of(call: ToolCall) -> str:
    """The name of the tool."""
    return call.name
