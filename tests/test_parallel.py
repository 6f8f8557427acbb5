"""Work in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl_cli.errors import DataError
from toolrl_cli.parallel import map_in_order

PARENT = """
import os, time
from toolrl_cli.parallel import map_in_order

def make():
    def work(piece):
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(60)
    return work

list(map_in_order(make, (), range(8), 2))
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.time() + 20
    while any(is_running(worker) for worker in workers):
        assert time.time() < deadline
        time.sleep(0.1)


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SIGNALLED = """
import os, signal, sys
from toolrl_cli.parallel import map_in_order

def make():
    return abs

def pieces():
    yield 1
    print("lost")

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), int(sys.argv[1])))
signal.signal(signal.SIGTERM, signal.default_int_handler)
list(map_in_order(make, (), pieces(), 2))
"""


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers are no forks")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_worker_starts_is_not_lost(number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(int(number))], capture_output=True, text=True)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "KeyboardInterrupt")


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order(workers: int) -> None:
    assert list(map_in_order(make_square, (), range(30), workers)) == [piece * piece for piece in range(30)]


def make_square() -> Callable[[int], int]:
    """A function that takes longest for the first pieces."""

    def square(piece: int) -> int:
        time.sleep(0.02 if piece < 3 else 0.0)
        return piece * piece

    return square


@pytest.mark.parametrize("workers", [1, 2])
def test_what_keeps_a_worker_from_working_is_told(workers: int) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        list(map_in_order(make_nothing, (), range(4), workers))


def make_nothing() -> Callable[[int], int]:
    """Fails as a file does that is not there."""
    raise DataError("gone.jsonl: no such file")
