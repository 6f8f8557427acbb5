"""Freed memory that the C library keeps goes back to the system; and how much was held at most."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def trim_heap() -> None:
    """Give freed pages back: glibc keeps them, scattered, and a process on a CPU grows from step to step."""
    with suppress(OSError, AttributeError):  # no C library to ask, or another one than glibc
        ctypes.CDLL(None).malloc_trim(0)


def release_memory() -> None:
    """Free what only refers to itself, such as a trainer and its model, and give the pages back."""
    gc.collect()
    trim_heap()


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were held at most so far: of the device, or of this process on a CPU; None where nobody counts."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    try:
        import resource
    except ImportError:  # no Unix
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
