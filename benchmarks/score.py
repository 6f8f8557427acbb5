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
        many, few = folder / "many.jsonl", folder / "few.jsonl"
        lines = make_lines(options.data)
        for path, count in ((many, options.rows), (few, 100)):
            path.write_text("".join(islice(cycle(lines), count)), "utf-8")
        megabytes = many.stat().st_size / 1e6
        print(f"{options.rows:,} rows, {megabytes:,.0f} MB, median of {ROUNDS} runs (fastest to slowest)")
        written = ("-o", folder / "out.jsonl", "--overwrite")
        for name, arguments, count in (
            (
                f"JSONL to JSONL, {options.workers} workers",
                (many, *written, "--workers", options.workers),
                options.rows,
            ),
            ("JSONL to JSONL, 1 worker", (many, *written), options.rows),
            (f"summary alone, {options.workers} workers", (many, "--workers", options.workers), options.rows),
            ("100 rows", (few,), 100),
        ):
            seconds = sorted(run(*arguments) for _ in range(ROUNDS))
            middle = statistics.median(seconds)
            print(f"{name:28} {middle:6.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})  {count / middle:>9,.0f} rows/s")


def make_lines(data: Path) -> list[str]:
    """Rows as `toolrl grpo` writes them, without their scores."""
    pairs = make_pairs(json.loads(data.read_text("utf-8")))
    rows = (
        {
            "id": f"row-{i}",
            "step": 0,
            "completion": text,
            "truncated": False,
            "target": FORMAT.parse_target(gold).to_json(),
        }
        for i, (text, gold) in enumerate(pairs)
    )
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def run(*arguments: object) -> float:
    """Seconds that `toolrl score` takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "toolrl_cli", "score", *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
