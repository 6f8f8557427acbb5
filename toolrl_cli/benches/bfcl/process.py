"""The official checker's process: isolated, with a time limit, started again after it died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

from toolrl_cli.errors import SetupError
from toolrl_cli.records import Json

ROOT = Path(__file__).parents[3]
START = """
import sys
sys.path.insert(0, sys.argv[1])
import toolrl_cli
del sys.path[0]
from toolrl_cli.benches.bfcl.worker import serve
serve(*sys.argv[2:])
"""
"""Isolated Python finds our package nowhere or elsewhere, and what lies beside it must not hide other modules."""


class Checker:
    """Runs `worker.py` with an empty environment in a temporary folder; use it as a context manager.

    Args:
        packages: the folders of the unpacked wheels.
        time_limit: seconds for one request.
        memory_limit: bytes for the process, where the system can limit them.
    """

    def __init__(self, *packages: Path, time_limit: float = 30.0, memory_limit: int = 2 << 30) -> None:
        self._packages = packages
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="toolrl-bfcl-")

    def ask(self, job: str, **arguments: object) -> Json:
        """Send one request and wait for its reply; `{"failure": why}` when the worker fails, dies or takes too long.

        Raises:
            SetupError: the worker cannot be started.
        """
        process = self._process = self._process or self._start()
        timer = threading.Timer(self._time_limit, process.kill)
        timer.start()
        try:
            line = exchange(process, json.dumps({"job": job, **arguments}))
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self._stop()
            return {"failure": f"the checker stopped or took over {self._time_limit:g} s"}
        reply: Json = json.loads(line)
        return reply

    def _start(self) -> subprocess.Popen[str]:
        # Windows starts no Python without SYSTEMROOT; the project root keeps result folders out of the wheel's folder.
        kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
        python = [sys.executable, "-I", "-B", "-X", "utf8", "-c", START]
        try:
            return subprocess.Popen(
                [*python, str(ROOT), str(self._memory_limit), *map(str, self._packages)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, "BFCL_PROJECT_ROOT": self._folder.name},
                cwd=self._folder.name,
                encoding="utf-8",
            )
        except OSError as error:
            raise SetupError(f"the BFCL checker cannot be started ({error}); check the Python installation") from error

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()
        self._folder.cleanup()


def exchange(process: subprocess.Popen[str], request: str) -> str:
    """Write a line to the process and read a line back; less than a line when it dies meanwhile."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return ""
