"""NeMo Gym's tasks: a request to OpenAI's Responses API, and the step that is expected after it."""

from __future__ import annotations

from toolrl_cli.records import Example, Json, expect, expect_each, expect_optional_text
from toolrl_cli.sources.base import RowError, Source, other_fields, shorten
from toolrl_cli.sources.openai import (
    join_steps,
    message_target,
    read_functions,
    read_messages,
    read_target,
    with_warnings,
)


class NemoGymSource(Source):
    """One example a row: the items of the request are the history, the expected answer or action is the step."""

    name = "nemo-gym"

    def recognises(self, row: Json) -> bool:
        """The request of the Responses API is there under its name."""
        request = row.get("responses_create_params")
        return isinstance(request, dict) and "input" in request

    def convert(self, row: Json, row_id: str) -> list[Example]:
        """One example; no expected answers make a step without calls. Raise `DataError` for a malformed row."""
        gold = read_gold(row)
        request = drop_nulls(expect(row.get("responses_create_params"), dict, "responses_create_params"))
        history = read_request(request)
        tools, warnings = read_functions(request.get("tools", []))
        *messages, step = read_messages(join_steps([*history, *(gold or [{"role": "assistant"}])]))
        target = read_target(step) if gold else message_target(step)
        meta = other_fields(row, "responses_create_params", "expected_answers", "expected_action")
        if rest := other_fields(request, "input", "instructions", "tools"):
            meta["responses_create_params"] = rest
        return [Example(row_id, self.name, tools, tuple(messages), target, with_warnings(meta, warnings))]


def read_gold(row: Json) -> list[Json]:
    """The expected step in pieces, none for no calls; raise `RowError` when the row tells no next step."""
    if "expected_answers" in row:
        answers = expect_each(row["expected_answers"], dict, "expected_answers")
        return [read_call_item(answer) for answer in answers]
    if "expected_action" in row:
        return read_action(expect(row["expected_action"], dict, "expected_action"))
    if "ground_truth" in row:
        raise RowError("no gold step", "ground_truth lists the calls of a whole task, not those of the next step")
    raise RowError("no gold step", "neither expected_answers nor expected_action")


def read_action(action: Json) -> list[Json]:
    """An expected action in pieces: calls, or a message."""
    if action.get("type") == "function_call_batch":
        return [read_call_item(call) for call in expect_each(action.get("calls"), dict, "expected_action.calls")]
    if action.get("type") not in ("function_call", "message"):
        raise RowError("unknown action", shorten(action.get("type")))
    return [read_item({"role": "assistant", **action}, "expected_action")]


def read_request(request: Json) -> list[Json]:
    """The input of a request in pieces, its instructions first; plain text is what a user says."""
    instructions, given = expect_optional_text(request, "instructions"), request.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else expect_each(given, dict, "input")
    system = [{"role": "system", "content": instructions}] if instructions else []
    return [*system, *(read_item(item, f"input[{i}]") for i, item in enumerate(items))]


def read_item(raw: Json, where: str) -> Json:
    """An item of the Responses API as a message or a piece of one, without its own id and status."""
    item = drop_nulls(raw)
    match item.get("type", "message"):
        case "message":
            return other_fields(item, "type", "id", "status")
        case "function_call":
            return read_call_item(item)
        case "function_call_output":
            rest = other_fields(item, "type", "id", "status", "call_id", "output")
            return {**rest, "role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
        case "reasoning":
            return read_reasoning(item)
    raise RowError("unknown item", f"{where}: {shorten(item['type'])}")


def read_call_item(item: Json) -> Json:
    """A call as a piece of a step."""
    call = {"function": {"name": item.get("name"), "arguments": item.get("arguments")}}
    return {
        "role": "assistant",
        "tool_calls": [call if item.get("call_id") is None else {"id": item["call_id"], **call}],
    }


def read_reasoning(item: Json) -> Json:
    """A thought, else its summary, as a piece of a step; one that is only encrypted says nothing."""
    parts = expect_each(item.get("content") or item.get("summary") or [], dict, "reasoning")
    thought = "\n\n".join(expect(part.get("text"), str, "reasoning text") for part in parts)
    return {"role": "assistant", **({"reasoning_content": thought} if thought else {})}


def drop_nulls(record: Json) -> Json:
    """A record without the fields that are null, which the API writes for all that is not set."""
    return {key: value for key, value in record.items() if value is not None}
