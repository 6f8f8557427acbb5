"""JSON over HTTP: one request with a time-out, tried again where that may help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from toolrl_cli import __version__
from toolrl_cli.errors import SetupError, first_line
from toolrl_cli.jsonl import dump_json, load_json

USER_AGENT = f"toolrl/{__version__}"
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class WebClient:
    """Asks for JSON; 429, 5xx, a broken connection and a broken answer are tried again.

    `timeout` is how many seconds the server may be silent, `tries` how often a request is sent at most, `pause` how
    many seconds go by before the second try; each further pause is twice as long, or what the server asks for in
    `Retry-After`, up to 30 seconds.
    """

    timeout: float = 30.0
    tries: int = 4
    pause: float = 1.0

    def fetch_json(self, url: str, payload: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON answer to a GET, or with a payload to a POST of it.

        Raises:
            SetupError: there is none; the message holds the address and what the server said.
        """
        body = None if payload is None else dump_json(payload).encode()
        sent = {"User-Agent": USER_AGENT, "Content-Type": "application/json", **(headers or {})}
        for left in reversed(range(self.tries)):
            pause = self.pause * 2 ** (self.tries - 1 - left)
            try:
                with urlopen(Request(url, body, sent), timeout=self.timeout) as reply:
                    return load_json(reply.read())
            except HTTPError as error:
                with error:
                    reason = f"HTTP {error.code} {error.reason}{read_reason(error)}"
                if error.code != 429 and error.code < 500:
                    break
                pause = asked_pause(error.headers, pause)
            except (OSError, HTTPException) as error:
                reason = first_line(getattr(error, "reason", None) or error)
            except ValueError as error:
                reason = f"the answer is no JSON ({first_line(error)})"
            if left:
                time.sleep(pause)
        raise SetupError(f"{url}: {reason}")


def read_reason(error: HTTPError) -> str:
    """What an error's body says, in one line and short."""
    try:
        text = " ".join(error.read(2000).decode(errors="replace").split())
    except (OSError, HTTPException):
        return ""
    return f": {text[:200]}" if text else ""


def asked_pause(headers: Message, otherwise: float) -> float:
    """The seconds of `Retry-After`, where it is a number, within bounds."""
    asked = headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdigit() else otherwise
