"""Rows scored a second from JSONL to JSONL, by `toolrl score` as a user runs it.

    python benchmarks/score.py ROWS.json [--rows 200000] [--workers 2]

ROWS is as for `reward.py`, whose right and wrong completions become the file. Times are those of
the whole process; the start-up is that of a file of 100 rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from reward import FORMAT, make_pairs

ROUNDS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, short in (("the thoughts of the rows", False), ("thoughts of one sentence", True)):
            lines = make_lines(options.data, short=short)
            many, few, out = folder / "many.jsonl", folder / "few.jsonl", folder / "out.jsonl"
            for path, count in ((many, options.rows), (few, 100)):
                path.write_text("".join(islice(cycle(lines), count)), "utf-8")
            print(f"{name}: {options.rows:,} rows, {many.stat().st_size / 1e6:,.0f} MB, median of {ROUNDS} (range)")
            written = ("-o", out, "--overwrite")
            report(
                f"JSONL to JSONL, {options.workers} workers", options.rows, many, *written, "--workers", options.workers
            )
            report("JSONL to JSONL, 1 worker", options.rows, many, *written)
            report(f"summary alone, {options.workers} workers", options.rows, many, "--workers", options.workers)
        report("100 rows", 100, few)


def report(name: str, count: int, *arguments: object) -> None:
    """Run several times and print the time and the rate."""
    seconds = sorted(run(*arguments) for _ in range(ROUNDS))
    middle = statistics.median(seconds)
    print(f"{name:28} {middle:6.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})  {count / middle:>9,.0f} rows/s")


def make_lines(data: Path, *, short: bool) -> list[str]:
    """Rows as `toolrl grpo` writes them, without their scores; short ones have thoughts as the RL data has them."""
    rows = []
    for i, (text, gold) in enumerate(make_pairs(json.loads(data.read_text("utf-8")))):
        target = FORMAT.parse_target(gold).to_json()
        if short and "</think>" in text:
            text = "<think> I should use the appropriate tool with proper parameters. " + text[text.find("</think>") :]
            target["thought"] = None
        rows.append({"id": f"row-{i}", "step": 0, "completion": text, "truncated": False, "target": target})
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def run(*arguments: object) -> float:
    """Seconds that `toolrl score` takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "toolrl_cli", "score", *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
