"""Freed memory that the C library keeps goes back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def trim_heap() -> None:
    """Give freed pages back: glibc keeps them, scattered, and a process on a CPU grows from step to step."""
    with suppress(OSError, AttributeError):  # no C library to ask, or another one than glibc
        ctypes.CDLL(None).malloc_trim(0)


def release_memory() -> None:
    """Free what only refers to itself, such as a trainer and its model, and give the pages back."""
    gc.collect()
    trim_heap()
