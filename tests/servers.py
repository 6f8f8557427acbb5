"""A real HTTP server on this machine that answers, or fails to answer, as a test wants."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[[BaseHTTPRequestHandler], None]
"""What is done about a request."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived, the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Server:
    """Where the server is, and what it was asked so far."""

    url: str
    asked: list[Asked]


@contextmanager
def serve(answer: Callable[[Asked], Act]) -> Iterator[Server]:
    """A server that does about each request what a function says, each in a thread of its own."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Asked(self.command, self.path, headers, json.loads(text) if text else None)
            asked.append(request)
            answer(request)(self)

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, format: str, *values: object) -> None:
            """Be quiet."""

    class Many(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """The other side has given up."""

    http = Many(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield Server(f"http://127.0.0.1:{http.server_port}", asked)
    finally:
        http.shutdown()
        http.server_close()


def send(body: object = None, status: int = 200, kind: str = "application/json", **headers: str) -> Act:
    """Answer with a JSON value or raw bytes; `headers` have underscores for hyphens, and `Content_Length` may lie."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content_Type": kind, "Content_Length": str(len(content)), **headers}

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in given.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return act


def in_turn(*acts: Act) -> Callable[[Asked], Act]:
    """One act after the other, the last one again and again."""
    left = list(acts)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


def late(seconds: float, act: Act) -> Act:
    """An act after a while."""

    def wait(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        act(handler)

    return wait


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


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
