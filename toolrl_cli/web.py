"""JSON over HTTP: one request, tried again where that may help. Nothing else in the program retries."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from toolrl_cli import __version__
from toolrl_cli.errors import DataError, SetupError
from toolrl_cli.jsonl import dump_json, load_json

LONGEST_PAUSE = 60.0
"""Seconds between two tries of a request, at most, unless the server asks for more."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds that a server may make us wait."""
BUSY = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may succeed."""

T = TypeVar("T")


class Unanswered(SetupError):
    """A request that got no answer in all its tries; `reason` says why, without the URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.reason = reason


class Refused(Unanswered):
    """A request that is not worth another try; `status` is the server's, None where it cannot be reached at all."""

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(url, reason)
        self.status = status


class TryAgain(Exception):
    """A request that may succeed later; `after` is what the server says, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class WebClient:
    """Asks for JSON; a broken connection, a time-out, 429, 5xx and a broken answer are tried again.

    Args:
        timeout: seconds for one try, from the request to the end of its answer.
        retries: how often a request is sent again.
        pause: seconds before the second try; each further pause is twice as long. A server's `Retry-After` is obeyed.
    """

    def __init__(self, *, timeout: float = 30.0, retries: int = 3, pause: float = 1.0) -> None:
        self._timeout = timeout
        self._retries = retries
        self._pause = pause
        self._opener = build_opener(RedirectGets)
        self._reached = False

    def ask(
        self,
        url: str,
        payload: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        read: Callable[[Any], T] = lambda value: value,
        wait: Callable[[float], object] = time.sleep,
    ) -> T:
        """The answer to a GET, or with a payload to a POST of it.

        Args:
            url: where to ask.
            payload: JSON.
            headers: what is sent beside the usual ones.
            read: makes the result of the JSON; a `DataError` says that the answer is broken.
            wait: pauses; what it returns ends the tries if it is true.

        Raises:
            Refused: the server takes the request as wrong, or is not there.
            Unanswered: every try failed.
        """
        body = None if payload is None else dump_json(payload).encode()
        sent = {"User-Agent": f"toolrl/{__version__}", "Content-Type": "application/json", **(headers or {})}
        reason, after = "", 0.0
        for attempt in range(self._retries + 1):
            if attempt and wait(choose_pause(self._pause, attempt, after)):
                break
            try:
                return read(self._fetch(Request(url, body, sent)))
            except TryAgain as again:
                reason, after = str(again), again.after
            except DataError as error:
                reason, after = str(error), 0.0
        tries = self._retries + 1
        raise Unanswered(url, f"{reason} (tried {tries} times)" if tries > 1 else reason)

    def _fetch(self, request: Request) -> Any:
        """One try.

        Raises:
            TryAgain: there was no answer, or none that can be read.
            Refused: as `ask`.
        """
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                self._reached = True
                content = read_body(response, time.monotonic() + self._timeout)
        except HTTPError as error:
            self._reached = True
            raise judge(error) from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            hopeless = isinstance(cause, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError)
            if hopeless and not self._reached:
                reason = f"cannot be reached: {explain(cause)}; is the server running?"
                raise Refused(request.full_url, reason) from error
            raise TryAgain(explain(cause)) from error
        try:
            return load_json(content)
        except ValueError as error:
            kind = response.headers.get_content_type()
            raise TryAgain(f"the answer is no JSON ({len(content)} bytes of {kind})") from error


class RedirectGets(HTTPRedirectHandler):
    """Follows no redirect of a POST: it would turn it into a GET, and take a key to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The next request, None to take the redirect as an error."""
        return super().redirect_request(req, fp, code, msg, headers, newurl) if req.data is None else None


def judge(error: HTTPError) -> TryAgain | Refused:
    """What a status means for the request."""
    said = f"status {error.code}: {read_message(error)}"
    if error.code >= 500 or error.code in BUSY:
        return TryAgain(said, read_retry_after(error.headers))
    return Refused(error.url, said, error.code)


def choose_pause(first: float, attempt: int, after: float) -> float:
    """Seconds before a try: doubling, at random by a half so that requests spread, or what the server says.

    What is random here decides no result.
    """
    doubling: float = min(LONGEST_PAUSE, first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    return max(doubling, min(after, LONGEST_RETRY_AFTER))


def read_body(response: HTTPResponse, deadline: float) -> bytes:
    """The body of an answer; raise `TimeoutError` when it goes on past a moment of the monotonic clock."""
    parts = []
    while part := response.read1(1 << 16):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return b"".join(parts)


def read_message(error: HTTPError) -> str:
    """What a server says of a failed request: its JSON's message, else its first words."""
    try:
        with error:
            content = error.read(1 << 16)
    except (OSError, HTTPException):
        content = b""
    try:
        raw = load_json(content)
        raw = raw.get("error", raw)
        said = raw if isinstance(raw, str) else raw.get("message") or raw.get("detail")
    except (ValueError, AttributeError):
        said = content.decode(errors="replace")
    return " ".join(str(said or error.reason).split())[:300]


def read_retry_after(headers: Message) -> float:
    """Seconds that a server asks us to wait, given as a number or a date; 0 when it does not."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def explain(error: object) -> str:
    """A failed connection in words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
