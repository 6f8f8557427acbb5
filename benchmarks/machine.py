"""What a figure was measured on, and how its spread is told."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def describe_machine() -> str:
    """Processor, cores in use, memory and the versions that matter."""
    import torch
    import transformers
    import trl

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    processor = next(names, platform.processor())
    return f"{processor}, {torch.get_num_threads()} threads, {memory:.0f} GiB; {versions}, trl {trl.__version__}"


def show_spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range: `3.2 (3.0 to 3.5)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
