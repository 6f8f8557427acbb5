"""A server with OpenAI's chat completions, as strict as OpenAI's about what it is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import servers
from openai_rules import find_faults
from servers import Act, Asked, drip, hang_up, late, reset, send

from toolrl_cli.records import Json

Respond = Callable[[Json, int], Act]
"""From a request and the number of earlier requests for the same messages, what is done about it."""


@dataclass(frozen=True)
class Server:
    """What a server was asked so far."""

    url: str
    asked: list[Asked]

    @property
    def requests(self) -> list[Json]:
        """The bodies of the requests."""
        return [asked.body for asked in self.asked]

    def questions(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


@contextmanager
def serve(respond: Respond) -> Iterator[Server]:
    """A server at `/v1/chat/completions`; what OpenAI would refuse it refuses, and then it fails the test."""
    seen: Counter[str] = Counter()
    faults: list[str] = []

    def answer(asked: Asked) -> Act:
        key = json.dumps([asked.body["messages"], asked.body.get("seed")])
        seen[key] += 1
        faults.extend(found := find_faults(asked.body))
        return refuse(400, "; ".join(found)) if found else respond(asked.body, seen[key] - 1)

    with servers.serve(answer) as server:
        yield Server(server.url, server.asked)
    assert faults == []


def reply(text: str | list[Any] | None, finish_reason: str = "stop", **message: Any) -> Json:
    """The JSON of an answer."""
    said = {"role": "assistant", "content": text, **message}
    return {"id": "1", "object": "chat.completion", "choices": [{"message": said, "finish_reason": finish_reason}]}


def say(text: str | None, finish_reason: str = "stop", **message: Any) -> Act:
    """Answer with a text."""
    return send(reply(text, finish_reason, **message))


def refuse(status: int, message: str = "no", **headers: str) -> Act:
    """Answer with an error as OpenAI words it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return send({"error": error}, status, **headers)


def stay_silent(seconds: float) -> Act:
    """Answer too late."""
    return late(seconds, say("too late"))


FAULTS: dict[str, Act] = {
    "429": refuse(429, Retry_After="0"),
    "429 until": refuse(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500": refuse(500),
    "503 in words": send(b"<html>busy</html>", 503, "text/html"),
    "slow": stay_silent(1.0),
    "drip": drip(1.0),
    "cut off": send(json.dumps(reply("half")).encode()[:40], Content_Length="5000"),
    "malformed": send(b'{"choices": [{"message": {"content": "x"}]}'),
    "no choices": send({"choices": []}),
    "no message": send({"choices": [{"finish_reason": "stop"}]}),
    "an error": send({"error": {"message": "upstream failed"}}),
    "a list": send([1]),
    "html": send(b"<html>welcome</html>", kind="text/html"),
    "no UTF-8": send(b'{"choices": "\xff"}'),
    "empty": send(b""),
    "reset": reset,
    "hang up": hang_up,
}
"""Everything that passes, by name."""
