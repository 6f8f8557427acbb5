"""Work on many pieces, in this process or in several, with the results in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, Never, TypeVar

from toolrl_cli.errors import SetupError

T = TypeVar("T")
R = TypeVar("R")
PENDING = 3
"""Pieces that wait for each worker, so that memory stays constant."""


def map_in_order(
    make: Callable[..., Callable[[T], R]], arguments: tuple[Any, ...], pieces: Iterable[T], workers: int
) -> Iterator[R]:
    """Apply `make(*arguments)` to each piece; each process makes its own function, so it need not be picklable.

    Raises:
        SetupError: a worker died.
    """
    if workers == 1:
        yield from map(make(*arguments), pieces)
        return
    pending: deque[Future[R]] = deque()
    with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(make, arguments, os.getpid())) as pool:
        try:
            for piece in pieces:
                with signals_held():
                    pending.append(pool.submit(work, piece))
                if len(pending) >= PENDING * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise SetupError("a worker died, killed for memory perhaps; try fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


FUNCTION: list[Callable[[Any], Any]] = []


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a block that forks: what they raise in a fork, Python drops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {stop: signal.signal(stop, lambda number, frame: held.append(number)) for stop in stops}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
        for number in held:
            signal.raise_signal(number)


def start_worker(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], parent: int) -> None:
    """Make a worker process ready; Ctrl-C is the main process's to handle, and the worker ends when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    try:
        FUNCTION.append(make(*arguments))
    except Exception as error:  # told by the work, as one process would tell it
        FUNCTION.append(partial(fail, error))


def fail(error: Exception, piece: object) -> Never:
    """Raise what kept this worker from having its function."""
    raise error


def end_with(parent: int) -> None:
    """End this process once its parent is gone: a pipe alone does not tell, since its siblings hold it too."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def work(piece: Any) -> Any:
    """Apply the function of this worker process."""
    return FUNCTION[0](piece)
