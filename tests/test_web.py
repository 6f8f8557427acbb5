"""JSON over HTTP against a real server: what is tried again, what is not, and what the error says."""

from __future__ import annotations

import socket
import time

import pytest
from servers import Reply, in_turn, serve

from toolrl_cli.errors import SetupError
from toolrl_cli.web import WebClient

QUICK = WebClient(timeout=0.3, tries=3, pause=0.01)
GOOD = Reply({"ok": "né"})


@pytest.mark.parametrize(
    "bad",
    [
        Reply("busy", status=429, headers={"Retry-After": "0"}),
        Reply("broken", status=500),
        Reply("bad gateway", status=502),
        Reply(b"<html>"),
        Reply(b'{"ok": ', length=100),
        Reply({"ok": 1}, after=0.5),
    ],
    ids=["429", "500", "502", "no JSON", "cut off", "slow"],
)
def test_what_may_pass_is_tried_again(bad: Reply) -> None:
    with serve(in_turn(bad, bad, GOOD)) as server:
        assert QUICK.fetch_json(server.url, {"q": "ö"}) == {"ok": "né"}
        assert [asked.body for asked in server.asked] == [{"q": "ö"}] * 3


@pytest.mark.parametrize(
    ("reply", "times", "message"),
    [
        (Reply("no such\n key", status=403), 1, 'HTTP 403 Forbidden: "no such\\n key"'),
        (Reply(b"", status=404), 1, "HTTP 404 Not Found"),
        (Reply(b"", status=503), 3, "HTTP 503 Service Unavailable"),
        (Reply(b"oops"), 3, "the answer is no JSON (Expecting value"),
        (Reply(b"[", length=9), 3, "IncompleteRead"),
        (Reply([], after=0.5), 3, "timed out"),
    ],
    ids=["403", "404", "503", "no JSON", "cut off", "slow"],
)
def test_what_stays_is_an_error_that_says_where(reply: Reply, times: int, message: str) -> None:
    with serve(in_turn(reply)) as server, pytest.raises(SetupError) as raised:
        QUICK.fetch_json(server.url)
    assert str(raised.value).startswith(f"{server.url}: {message}")
    assert len(server.asked) == times


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(SetupError, match=r"Connection refused"):
            QUICK.fetch_json(f"http://127.0.0.1:{held.getsockname()[1]}")


def test_the_server_may_ask_for_a_pause() -> None:
    with serve(in_turn(Reply("busy", status=429, headers={"Retry-After": "1"}), GOOD)) as server:
        start = time.monotonic()
        QUICK.fetch_json(server.url)
    assert time.monotonic() - start >= 1.0


def test_the_client_says_who_it_is() -> None:
    with serve(in_turn(GOOD)) as server:
        QUICK.fetch_json(f"{server.url}/a?b=c", headers={"X-API-KEY": "k"})
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["x-api-key"]) == ("GET", "/a?b=c", "k")
    assert asked.headers["user-agent"].startswith("toolrl/")
