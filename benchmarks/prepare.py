"""Rows a second of `toolrl prepare`, beside `datasets.map` with the same conversion on one core.

    python benchmarks/prepare.py [--rows 100000] [--workers 2]

Rows are generated as xLAM's: queries, tools and answers as JSON text, mixed types, one in fifty
with a wrong call. Both sides read the same JSONL and write JSONL. The two alternate, and the ratio
comes with its spread; the peak memory is that of a process of its own over all rows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from toolrl_cli.prepare import PrepareConfig, prepare_examples

ROUNDS = 3
TYPES = ("str", "int", "float", "bool", "List[int]", "str, optional", "Dict[str, Any]")
VALUES = {"str": "Rome", "int": 7, "float": 2.5, "bool": True, "List[int]": [1, 2], "Dict[str, Any]": {"a": 1}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, some = Path(folder) / "rows.jsonl", Path(folder) / "some.jsonl"
        write_rows(rows, options.rows)
        write_rows(some, min(options.rows, 20_000))
        size = rows.stat().st_size / options.rows
        one, mapped, ratios = [], [], []
        for _ in range(ROUNDS):
            one.append(rate(lambda: prepare(some, 1), 20_000))
            mapped.append(rate(lambda: map_rows(some), 20_000))
            ratios.append(one[-1] / mapped[-1])
        print(f"rows of {size:,.0f} bytes, median of {ROUNDS} alternating rounds of 20,000, one core")
        print(f"toolrl prepare  {statistics.median(one):>8,.0f} rows/s")
        print(f"datasets.map    {statistics.median(mapped):>8,.0f} rows/s")
        print(f"ratio           {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        seconds, peak = measure_process(rows, options.workers)
        speed = f"{options.rows / seconds:,.0f} rows/s, peak {peak:,} MB a process"
        print(f"{options.rows:,} rows, {options.workers} workers: {speed}")


def write_rows(path: Path, count: int) -> None:
    """Generated rows; the same for the same count."""
    chance = random.Random(0)
    catalogue = [make_tool(n, chance) for n in range(3000)]
    with path.open("w") as stream:
        for number in range(count):
            stream.write(json.dumps(make_row(number, chance, catalogue)) + "\n")


def make_tool(number: int, chance: random.Random) -> dict[str, object]:
    """A tool as xLAM describes one."""
    kinds = chance.choices(TYPES, k=chance.randint(1, 5))
    parameters = {
        f"parameter_{i}": {"description": f"What parameter {i} of tool {number} is for.", "type": kind}
        for i, kind in enumerate(kinds)
    }
    return {"name": f"tool_{number}", "description": f"Does thing number {number}.", "parameters": parameters}


def make_row(number: int, chance: random.Random, catalogue: list[dict[str, object]]) -> dict[str, object]:
    """A row with one to five tools and one to three calls."""
    tools = chance.sample(catalogue, chance.randint(1, 5))
    answers = []
    for tool in chance.choices(tools, k=chance.randint(1, 3)):
        declared: dict[str, dict[str, str]] = tool["parameters"]  # type: ignore[assignment]
        arguments = {name: VALUES[kind["type"].removesuffix(", optional")] for name, kind in declared.items()}
        if chance.random() < 0.02:
            arguments["undeclared"] = 1
        answers.append({"name": tool["name"], "arguments": arguments})
    return {
        "id": number,
        "query": f"A question of some twenty words, number {number}, that asks for a few things in a row, please.",
        "tools": json.dumps(tools),
        "answers": json.dumps(answers),
    }


def prepare(path: Path, workers: int) -> None:
    """`toolrl prepare` as a library."""
    output = path.with_suffix(f".{workers}.out.jsonl")
    prepare_examples(PrepareConfig(inputs=(path,), output=output, workers=workers, overwrite=True))


def map_rows(path: Path) -> None:
    """The same source and checks in `datasets.map`, one process, no cache."""
    import datasets

    from toolrl_cli.jsonl import Line, dump_json
    from toolrl_cli.prepare.converting import Input, convert_line
    from toolrl_cli.sources.registry import find_source

    datasets.disable_progress_bars()
    datasets.disable_caching()
    item = Input(path, path.stem, find_source("xlam"))

    def convert(batch: dict[str, list[object]], places: list[int]) -> dict[str, list[str]]:
        lines = []
        for row in range(len(places)):
            record = {name: column[row] for name, column in batch.items()}
            for result in convert_line(Line(places[row] + 1, record), item, "reject"):
                lines += [dump_json(example.to_json()) for example in result] if isinstance(result, list) else []
        return {"line": lines}

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        done = rows.map(convert, batched=True, with_indices=True, remove_columns=rows.column_names)
        with path.with_suffix(".map.jsonl").open("w") as stream:
            stream.writelines(line + "\n" for line in done["line"])


def rate(work: Callable[[], object], count: int) -> float:
    """Items a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def measure_process(rows: Path, workers: int) -> tuple[float, int]:
    """Seconds, and megabytes of the largest process, of the command over a file."""
    code = (
        "import resource, sys; from toolrl_cli.cli import app\n"
        "try: app(['prepare', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN\n"
        "print('peak', max(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1000)"
    )
    output = rows.with_suffix(".all.jsonl")
    arguments = [str(rows), "-o", str(output), "--workers", str(workers), "--json"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
