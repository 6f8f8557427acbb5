"""A real HTTP server on this machine that answers, or fails to answer, as a test wants."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from toolrl_cli.records import Json

Act = Callable[[BaseHTTPRequestHandler], None]
Respond = Callable[[Json, int], Act]
"""From a request and the number of earlier requests for the same messages, what is done about it."""


@dataclass
class Server:
    """What a server was asked so far."""

    url: str
    requests: list[Json] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=Lock)

    def enter(self, handler: BaseHTTPRequestHandler, request: Json) -> int:
        """Note a request; return how often its messages were asked before."""
        with self._lock:
            self.requests.append(request)
            self.paths.append(handler.path)
            self.keys.append(handler.headers["Authorization"])
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            key = json.dumps([request["messages"], request.get("seed")])
            self._seen[key] += 1
            return self._seen[key] - 1

    def leave(self) -> None:
        """Note that a request is over."""
        with self._lock:
            self._now -= 1

    def asked(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


@contextmanager
def serve(respond: Respond) -> Iterator[Server]:
    """A server at `/v1/chat/completions`, each request in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            earlier = server.enter(self, request)
            try:
                respond(request, earlier)(self)
            except OSError:
                pass  # the other side has given up
            finally:
                server.leave()

        def log_message(self, format: str, *arguments: object) -> None:
            """Be quiet."""

    class Many(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    http = Many(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}")
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json", **headers: str
) -> None:
    """Send an answer; `headers` have underscores for hyphens, and `Content_Length` may lie."""
    handler.send_response(status)
    given = {"Content_Type": kind, "Content_Length": str(len(body)), **headers}
    for name, value in given.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def reply(text: str | None, finish_reason: str = "stop", **message: Any) -> Json:
    """The JSON of an answer."""
    said = {"role": "assistant", "content": text, **message}
    return {"id": "1", "object": "chat.completion", "choices": [{"message": said, "finish_reason": finish_reason}]}


def answer(body: Json) -> Act:
    """Send JSON."""
    return lambda handler: send(handler, 200, json.dumps(body).encode())


def say(text: str | None, finish_reason: str = "stop", **message: Any) -> Act:
    """Answer with a text."""
    return answer(reply(text, finish_reason, **message))


def refuse(status: int, message: str = "no", **headers: str) -> Act:
    """Answer with an error as OpenAI words it."""
    return lambda handler: send(handler, status, json.dumps({"error": {"message": message}}).encode(), **headers)


def stay_silent(seconds: float) -> Act:
    """Answer too late."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        say("too late")(handler)

    return act


def drip(seconds: float) -> Act:
    """Answer byte by byte, never done in time."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    return act


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection in the middle of the body."""
    send(handler, 200, json.dumps(reply("half")).encode()[:40], Content_Length="5000")


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


FAULTS: dict[str, Act] = {
    "429": refuse(429, Retry_After="0"),
    "429 until": refuse(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500": refuse(500),
    "503 in words": lambda handler: send(handler, 503, b"<html>busy</html>", "text/html"),
    "slow": stay_silent(1.0),
    "drip": drip(1.0),
    "cut off": cut_off,
    "malformed": lambda handler: send(handler, 200, b'{"choices": [{"message": {"content": "x"}]}'),
    "no choices": answer({"choices": []}),
    "no message": answer({"choices": [{"finish_reason": "stop"}]}),
    "an error": answer({"error": {"message": "upstream failed"}}),
    "a list": lambda handler: send(handler, 200, b"[1]"),
    "html": lambda handler: send(handler, 200, b"<html>welcome</html>", "text/html"),
    "no UTF-8": lambda handler: send(handler, 200, b'{"choices": "\xff"}'),
    "empty": lambda handler: send(handler, 200, b""),
    "reset": reset,
    "hang up": hang_up,
}
"""Everything that passes, by name."""
