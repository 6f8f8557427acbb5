"""Completions from any server with OpenAI's chat completions: many requests at a time, each tried until it counts."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.inference.base import Failure, Prompt, Sampling
from toolrl_cli.inference.wire import build_request, leave_out, read_reply, refused_parameter
from toolrl_cli.records import Completion, Json
from toolrl_cli.web import Refused, Unanswered, WebClient

KEYS = ("TOOLRL_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key of the server; the first that is set counts."""
REFUSALS = (400, 413, 422)
"""Statuses by which a server refuses one request: too long a prompt, say. Other refusals end the run."""
MOST_FAILURES = 20
"""So many failures in a row are no longer about single prompts."""
QUESTION = Prompt("", ({"role": "user", "content": "Hi"},))
"""What every server answers that answers at all."""

T = TypeVar("T")


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


class Chat:
    """The chat completions of a server; once a parameter has turned out to be refused, it is sent no more.

    Args:
        url: where they are, path and all.
        key: sent as a bearer token, if any.
        client: how patiently the server is asked.
    """

    def __init__(self, url: str, key: str | None, client: WebClient) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client
        self._refused: frozenset[str] = frozenset()

    def ask(
        self, request: Json, read: Callable[[Any], T], wait: Callable[[float], object] = time.sleep
    ) -> tuple[T, frozenset[str]]:
        """What `read` makes of the answer, and the parameters of the request that the server did not take.

        Raises:
            Refused: as `WebClient.ask`, and where it is about something else than such a parameter.
            Unanswered: as `WebClient.ask`.
        """
        refused = self._refused.intersection(request)
        while True:
            sent = leave_out(request, refused)
            try:
                answer = self._client.ask(self._url, sent, self._headers, read=read, wait=wait)
            except Refused as refusal:
                name = refused_parameter(refusal.reason, sent) if refusal.status in REFUSALS else None
                if name is None:
                    raise
                refused |= {name}
            else:
                self._refused |= refused
                return answer, refused


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
        client = WebClient(timeout=endpoint.timeout, retries=endpoint.retries, pause=endpoint.pause)
        self._chat = Chat(self._url, self._key, client)
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
        try:
            completion, refused = self._chat.ask(request, lambda raw: read_reply(raw, prompt, self._native), stop.wait)
        except Refused as refusal:
            if refusal.status not in REFUSALS:
                raise self._broken(refusal.reason) from refusal
            return Failure(self._hide_key(refusal.reason), refused=True)
        except Unanswered as error:
            return Failure(self._hide_key(error.reason))
        return replace(completion, unset=tuple(sorted(refused - {"max_tokens"})))

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _broken(self, reason: str) -> SetupError:
        return SetupError(
            f"{self._url}: {self._hide_key(reason)}; "
            f"check --endpoint, --served-model and {KEYS[0]}, then continue with --resume"
        )


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
