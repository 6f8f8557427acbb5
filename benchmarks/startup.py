"""Time to the help text of each command, beside a bare `import typer`.

python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from machine import show_spread

from toolrl_cli.cli import COMMANDS

LOWEST = ("-c", "import typer")


def main() -> None:
    """Measure by turns and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    names = ["", *COMMANDS]
    print(f"seconds, median of {rounds} (range); ratio to a bare import of typer, by turns")
    for name in names:
        pairs = [(run("-m", "toolrl_cli", *name.split(), "--help"), run(*LOWEST)) for _ in range(rounds)]
        ratios = [ours / bare for ours, bare in pairs]
        print(f"toolrl {name + ' --help':18} {show_spread([p[0] for p in pairs], 2)}  {show_spread(ratios, 2)}")


def run(*words: str) -> float:
    """Seconds of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
