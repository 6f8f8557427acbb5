"""JSON over HTTP against a real server: what is tried again, what is not, and what the error says."""

from __future__ import annotations

import socket
import time

import pytest
from servers import Act, in_turn, late, send, serve

from toolrl_cli.errors import SetupError
from toolrl_cli.web import WebClient

QUICK = WebClient(timeout=0.3, retries=2, pause=0.01)
GOOD = send({"ok": "né"})


@pytest.mark.parametrize(
    "bad",
    [
        send("busy", 429, Retry_After="0"),
        send("broken", 500),
        send("bad gateway", 502),
        send(b"<html>"),
        send(b'{"ok": ', Content_Length="100"),
        late(0.5, send({"ok": 1})),
    ],
    ids=["429", "500", "502", "no JSON", "cut off", "slow"],
)
def test_what_may_pass_is_tried_again(bad: Act) -> None:
    with serve(in_turn(bad, bad, GOOD)) as server:
        assert QUICK.ask(server.url, {"q": "ö"}) == {"ok": "né"}
        assert [asked.body for asked in server.asked] == [{"q": "ö"}] * 3


@pytest.mark.parametrize(
    ("act", "times", "message"),
    [
        (send({"message": "no such\n key"}, 403), 1, "status 403: no such key"),
        (send(b"", 404), 1, "status 404: Not Found"),
        (send(b"busy", 503), 3, "status 503: busy (tried 3 times)"),
        (send(b"oops"), 3, "the answer is no JSON (4 bytes of application/json) (tried 3 times)"),
        (send(b"[", Content_Length="9"), 3, "the answer is no JSON (1 bytes of application/json) (tried 3 times)"),
        (late(0.5, send([])), 3, "timed out (tried 3 times)"),
    ],
    ids=["403", "404", "503", "no JSON", "cut off", "slow"],
)
def test_what_stays_is_an_error_that_says_where(act: Act, times: int, message: str) -> None:
    with serve(in_turn(act)) as server, pytest.raises(SetupError) as raised:
        QUICK.ask(server.url)
    assert str(raised.value) == f"{server.url}: {message}"
    assert len(server.asked) == times


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(SetupError, match=r"Connection refused"):
            WebClient(pause=30.0).ask(f"http://127.0.0.1:{held.getsockname()[1]}")


def test_the_server_may_ask_for_a_pause() -> None:
    with serve(in_turn(send("busy", 429, Retry_After="1"), GOOD)) as server:
        start = time.monotonic()
        QUICK.ask(server.url)
    assert time.monotonic() - start >= 1.0


def test_the_client_says_who_it_is() -> None:
    with serve(in_turn(GOOD)) as server:
        QUICK.ask(f"{server.url}/a?b=c", headers={"X-API-KEY": "k"})
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["x-api-key"]) == ("GET", "/a?b=c", "k")
    assert asked.headers["user-agent"].startswith("toolrl/")
