"""What the worker's process may not do, whatever the official code is brought to do in it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

FORBIDDEN = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "urllib.", "webbrowser.", "pty.", "winreg.", "os.system", "os.exec",
    "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir",
    "os.truncate", "os.link", "os.symlink", "os.chmod", "os.chown", "os.putenv", "signal.pthread_kill",
)  # fmt: skip
"""Audit events (https://docs.python.org/3/library/audit_events.html) of the network, of processes and of files."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def lock_down(memory_limit: int) -> None:
    """Limit the memory, where the system can, and forbid network, processes and writing; for good."""
    limit_memory(memory_limit)
    sys.addaudithook(forbid)


def limit_memory(size: int) -> None:
    """Let every allocation beyond `size` bytes fail; Windows has no such limit, and macOS may refuse it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def forbid(event: str, details: tuple[object, ...]) -> None:
    """An audit hook; raise `PermissionError` on what is forbidden."""
    if event.startswith(FORBIDDEN) or (event == "open" and writes(details)):
        raise PermissionError(f"{event} is forbidden here")


def writes(details: tuple[object, ...]) -> bool:
    """Whether an `open` event (path, mode, flags) is more than reading."""
    flags = details[2]
    return isinstance(flags, int) and bool(flags & WRITING)
