"""Completions from any server with OpenAI's chat completions: many requests at a time, each tried until it counts."""

from __future__ import annotations

import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from queue import SimpleQueue
from threading import Event, Thread
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from toolrl_cli import __version__
from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.wire import build_request, read_reply
from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.records import Completion, Json, expect

KEYS = ("TOOLRL_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key of the server; the first that is set counts."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries of a request, at most, unless the server asks for more."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds that a server may make us wait."""
REFUSALS = (400, 413, 422)
"""Statuses by which a server refuses one request: too long a prompt, say. Other ones from 300 to 499 end the run."""
BUSY = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may succeed."""
MOST_FAILURES = 20
"""So many failures in a row are no longer about single prompts."""
QUESTION = Prompt("", ({"role": "user", "content": "Hi"},))
"""What every server answers that answers at all."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, the name of the model there, and how patiently it is asked.

    `concurrency` requests run at a time. A request that fails is repeated up to `retries` times, after
    a pause of `pause` seconds that doubles each time; `timeout` is in seconds, for one try.
    """

    url: str
    model: str
    concurrency: int = 8
    retries: int = 5
    timeout: float = 600.0
    pause: float = 1.0


class TryAgain(Exception):
    """A request that may succeed later; `after` is what the server says, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Exception):
    """A request that the server takes as wrong; `final` when all others will be, too."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class EndpointEngine:
    """Asks a server for each prompt, and yields the completions as they come.

    A prompt whose tries are used up, or which the server refuses, becomes a `Failure`. Failures wait for
    the next completion: when the server turns out to be at fault the run ends without them. That is so after
    `MOST_FAILURES` in a row, or when it refuses every prompt, and a short question as well.

    Args:
        endpoint: the server; the key comes from the environment, see `KEYS`.
        sampling: how completions are drawn; the server gets a seed for each when the temperature is above 0.
        native: the format in which the server's tool calls are written as text; None reads its text as it is.

    Raises:
        ConfigError: the URL is none of http or https, or the key is no plain text.
    """

    def __init__(self, endpoint: Endpoint, sampling: Sampling, native: TextFormat | None = None) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        self._native = native
        self._url = completions_url(endpoint.url)
        self._key = read_key(os.environ)
        self._opener = build_opener(NoRedirect)
        self._reached = False
        self._answered = False

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion | Failure]]:
        """Yield each prompt with its completion or failure as soon as it is known.

        Raises:
            SetupError: the server cannot be reached, refuses the key or the model, or fails on end.
        """
        held: list[tuple[Prompt, Completion | Failure]] = []
        for prompt, outcome in self._ask_all(prompts):
            held.append((prompt, outcome))
            if isinstance(outcome, Completion):
                self._answered = True
            elif not self._excuses(held):
                continue
            yield from held
            held.clear()
        self._excuses(held, last=True)
        yield from held

    def _excuses(self, held: Sequence[tuple[Prompt, object]], *, last: bool = False) -> bool:
        """Whether failures in a row are known to be the prompts' own; nothing comes after the `last`.

        Raises:
            SetupError: they are the server's.
        """
        failures = [outcome for _, outcome in held if isinstance(outcome, Failure)]
        refused = [failure for failure in failures if failure.refused]
        if len(failures) - len(refused) >= MOST_FAILURES:
            raise self._broken(f"{MOST_FAILURES} requests in a row got no answer, the last: {failures[-1].reason}")
        if refused and not self._answered and (last or len(failures) >= MOST_FAILURES):
            if isinstance(self._ask(QUESTION, Event()), Failure):
                raise self._broken(refused[-1].reason)
            self._answered = True
        return self._answered and failures == refused

    def _ask_all(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion | Failure]]:
        """Each prompt once; the threads are daemons, so that Ctrl-C need not wait for an answer."""
        waiting, stop = deque(prompts), Event()
        done: SimpleQueue[tuple[Prompt, Completion | Failure | Exception]] = SimpleQueue()
        for _ in range(min(self._endpoint.concurrency, len(prompts))):
            Thread(target=self._work, args=(waiting, done, stop), daemon=True).start()
        try:
            for _ in prompts:
                prompt, outcome = done.get()
                if isinstance(outcome, Exception):
                    raise outcome
                yield prompt, outcome
        finally:
            stop.set()

    def _work(
        self,
        waiting: deque[Prompt],
        done: SimpleQueue[tuple[Prompt, Completion | Failure | Exception]],
        stop: Event,
    ) -> None:
        """Take prompts until there are none; an error that ends the run is handed to the reader."""
        while not stop.is_set():
            try:
                prompt = waiting.popleft()
            except IndexError:
                return
            try:
                done.put((prompt, self._ask(prompt, stop)))
            except Exception as error:  # the reader raises it
                stop.set()
                done.put((prompt, error))

    def _ask(self, prompt: Prompt, stop: Event) -> Completion | Failure:
        """The completion of a prompt, after as many tries as it takes and is allowed.

        Raises:
            SetupError: the server will answer no prompt.
        """
        request = build_request(prompt, self._endpoint.model, self._sampling, native=self._native is not None)
        body, reason, after = dump_json(request).encode(), "", 0.0
        for attempt in range(self._endpoint.retries + 1):
            try:
                return read_reply(self._post(body), prompt, self._native)
            except TryAgain as again:
                reason, after = str(again), again.after
            except DataError as error:
                reason, after = str(error), 0.0
            except Refused as refusal:
                if refusal.final:
                    raise self._broken(str(refusal)) from refusal
                return Failure(self._hide_key(str(refusal)), refused=True)
            if attempt < self._endpoint.retries and stop.wait(self._pause(attempt, after)):
                break
        tries, reason = self._endpoint.retries + 1, self._hide_key(reason)
        return Failure(f"{reason} (tried {tries} times)" if tries > 1 else reason)

    def _pause(self, attempt: int, after: float) -> float:
        """Seconds before the next try: doubling, at random by a half so that requests spread, or what the server says.

        What is random here decides no result.
        """
        doubling: float = min(LONGEST_PAUSE, self._endpoint.pause * 2**attempt) * random.uniform(0.5, 1.0)
        return max(doubling, min(after, LONGEST_RETRY_AFTER))

    def _post(self, body: bytes) -> Json:
        """One try.

        Raises:
            TryAgain: there was no answer, or none that can be read.
            Refused: the server takes the request as wrong.
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"toolrl/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            request = Request(self._url, body, headers)
            with self._opener.open(request, timeout=self._endpoint.timeout) as response:
                self._reached = True
                content = read_body(response, time.monotonic() + self._endpoint.timeout)
        except HTTPError as error:
            self._reached = True
            raise self._judge(error) from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            hopeless = isinstance(cause, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError)
            if hopeless and not self._reached:
                raise Refused(f"cannot be reached: {explain(cause)}; is the server running?", final=True) from error
            raise TryAgain(explain(cause)) from error
        try:
            return expect(load_json(content), dict, "the answer")
        except (ValueError, DataError) as error:
            kind = response.headers.get_content_type()
            raise TryAgain(f"the answer is no JSON object ({len(content)} bytes of {kind})") from error

    def _judge(self, error: HTTPError) -> TryAgain | Refused:
        """What a status means for the request."""
        said = f"status {error.code}: {read_message(error)}"
        if error.code >= 500 or error.code in BUSY:
            return TryAgain(said, read_retry_after(error.headers))
        return Refused(said, final=error.code not in REFUSALS)

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _broken(self, reason: str) -> SetupError:
        return SetupError(
            f"{self._url}: {self._hide_key(reason)}; "
            f"check --endpoint, --served-model and {KEYS[0]}, then continue with --resume"
        )


class NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: it would turn a POST into a GET, and take the key to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Nothing, which makes the redirect an `HTTPError`."""


def completions_url(url: str) -> str:
    """Where chat completions are: a URL without a path gets `/v1`, as servers have it.

    Raises:
        ConfigError: it is no http URL, or holds a user, a query or a fragment, which are no place for a key.
    """
    malformed = ConfigError(f"--endpoint: not http(s)://host[:port][/path]; give the key in {KEYS[0]}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018
    except ValueError:
        raise malformed from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise malformed
    if parts.query or parts.fragment:
        raise ConfigError(f"--endpoint {url.partition('?')[0]}: leave out what follows ? or #; give a key in {KEYS[0]}")
    path = (parts.path.rstrip("/") or "/v1").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"


def read_key(environment: Mapping[str, str]) -> str | None:
    """The server's key; raise `ConfigError` when it cannot stand in a header."""
    name = next((name for name in KEYS if environment.get(name, "").strip()), None)
    if name is None:
        return None
    key = environment[name].strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{name}: holds other characters than printable ASCII; set the key alone")
    return key


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
