"""The layout of Llama 3.1, 3.2 and 3.3: a response, or calls as JSON `{"name": "...", "parameters": {...}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.calls import decode_value, gold_call, lenient_call, read_call
from toolrl_cli.formats.native import NativeFormat
from toolrl_cli.records import Json, PredictedCall, Target

PYTHON_TAG = re.compile(r"\s*(?:<\|python_tag\|>\s*)?")
STARTS_CALL = re.compile(r"[\[\s]*\{")
BETWEEN = re.compile(r"[\s;,]*")
NAMED = re.compile(r'"name"\s*:')


class Llama3Format(NativeFormat):
    """Calls or a response, never both, and no thought; several calls stand in a row with `; ` between them."""

    name = "llama3"

    def read_message(self, message: Json) -> Json:
        """As every native format; the chat templates of Llama 3 know one call a message.

        Raises:
            DataError: the role is unknown, the content is no text, or there are several calls.
        """
        if len(message.get("tool_calls") or []) > 1:
            raise DataError("a message of the history makes several calls, and the llama3 format shows one a message")
        return super().read_message(message)

    def write_target(self, target: Target) -> str:
        """The text of a target, whether or not it can be read back."""
        calls = [{"name": call.name, "parameters": call.arguments} for call in target.tool_calls]
        return "; ".join(json.dumps(call, ensure_ascii=False) for call in calls) or target.response or ""

    def parse_target(self, text: str) -> Target:
        """Read a gold completion, which is a response unless it is calls alone.

        Raises:
            FormatError: it starts as a call and is none, or a call is no object with parameters.
        """
        calls = tuple(gold_call(call, "parameters") for call in self.parse_tool_calls(text))
        return Target(tool_calls=calls, response=None if calls else text or None)

    def parse_tool_calls(self, text: str) -> list[PredictedCall]:
        """The calls of a completion that is nothing else: objects, or lists of them, with `;` or `,` between them.

        JSON in which no value has a name of its own is a response that happens to be JSON.

        Raises:
            FormatError: it starts as JSON with a name in it, and is not calls alone.
        """
        start = skip_python_tag(text)
        return [read_call(value, "parameters", text[start : start + 80]) for value in find_values(text, start)]

    def parse_leniently(self, text: str) -> list[PredictedCall]:
        """As `parse_tool_calls`, whatever the arguments are called; raise `FormatError` as it does."""
        return [lenient_call(value) for value in find_values(text, skip_python_tag(text))]

    def split_completion(self, text: str) -> tuple[str | None, str]:
        """No thought, and all the text."""
        return None, text.strip()

    def explain_form(self, text: str, target: Target) -> list[str]:
        """What is not the response alone, or else the calls alone, each an object and `; ` between them.

        `<|python_tag|>` may stand before the calls: whether it is seen depends on who decodes the tokens.
        """
        text = text.strip()
        try:
            calls = self.parse_tool_calls(text)
        except FormatError:
            return ["JSON that is not calls alone"]
        if target.tool_calls:
            if not calls:
                return ["text around the calls, which must stand alone" if NAMED.search(text) else "no call"]
            apart = stand_in_a_row(text, skip_python_tag(text))
            return [] if apart else ['calls must be JSON objects with "; " between them']
        if calls:
            return ["a call where none belongs"]
        if bool(text) != bool(target.response):
            return ["text where none belongs" if text else "no response"]
        return []


def skip_python_tag(text: str) -> int:
    """Where the text begins behind white space and `<|python_tag|>`."""
    return PYTHON_TAG.match(text).end()  # type: ignore[union-attr]


def find_values(text: str, start: int) -> list[object]:
    """The JSON values of text that is calls from `start` on, none of any other text; raise as `decode_value`."""
    if not STARTS_CALL.match(text, start) or not NAMED.search(text, start):
        return []
    values = list(decode_values(text, start))
    return values if any(isinstance(value, dict) and "name" in value for value in values) else []


def stand_in_a_row(text: str, start: int) -> bool:
    """Whether the JSON values from `start` on are objects with `; ` between them."""
    while text.startswith("{", start):
        _, end = decode_value(text, start)
        if end == len(text):
            return True
        if not text.startswith("; ", end):
            return False
        start = end + len("; ")
    return False


def decode_values(text: str, start: int) -> Iterator[object]:
    """The JSON values that the text holds from `start` on, those of lists one by one; raise as `decode_value`."""
    while start < len(text):
        value, end = decode_value(text, start)
        yield from value if isinstance(value, list) else [value]
        start = BETWEEN.match(text, end).end()  # type: ignore[union-attr]
