"""Completions scored a second by one core, beside the code that was released with ToolRL.

    python benchmarks/reward.py ROWS.json [--released rlla.py]

ROWS holds gold completions in the toolrl text format, as ToolRL's `rlla_sft.json` (an array with
`output`). Completions are made from them, four a row: the gold itself, one argument changed, a
surplus call, and text that is cut off. RLLA is `verl/utils/reward_score/rlla.py` of a clone of
https://github.com/qiancheng0/ToolRL; it runs with its prints switched off. The two alternate, and
the ratio comes with its spread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import dump_json
from toolrl_cli.records import Rollout, Target, ToolCall
from toolrl_cli.rewards import find_reward

ROUNDS = 7
FORMAT = find_format("toolrl")
Pair = tuple[str, str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--released", type=Path)
    parser.add_argument("--reward", default="fine-grained")
    options = parser.parse_args()
    pairs = make_pairs(json.loads(options.rows.read_text("utf-8")))
    rollouts = [Rollout(text, FORMAT.parse_target(gold)) for text, gold in pairs]
    reward = find_reward(options.reward)
    ours, explained, theirs = [], [], []
    released = load_released(options.released) if options.released else None
    for _ in range(ROUNDS):
        ours.append(rate(lambda: reward.score_batch(rollouts, explain=False), len(rollouts)))
        explained.append(rate(lambda: reward.score_batch(rollouts), len(rollouts)))
        if released:
            theirs.append(rate(lambda: [released(text, gold) for text, gold in pairs], len(pairs)))
    print(f"{len(pairs)} completions, reward {reward.name}, one core, median of {ROUNDS} alternating rounds")
    print(f"toolrl    {statistics.median(ours):>9,.0f} completions/s, {statistics.median(explained):,.0f} with reasons")
    if released:
        ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
        print(f"released  {statistics.median(theirs):>9,.0f} completions/s")
        print(f"ratio     {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


def make_pairs(rows: list[dict[str, Any]]) -> list[Pair]:
    """(completion, gold text) pairs: right ones and wrong ones, shuffled."""
    generator = random.Random(0)
    pairs: list[Pair] = []
    for row in rows:
        gold = row["output"]
        if "<tool_call>" in gold.split("</think>")[0]:
            continue  # the released code reads the gold of these wrongly
        target = FORMAT.parse_target(gold)
        pairs += [(gold, gold), (FORMAT.render_target(change(target)), gold), (with_surplus(gold), gold)]
        pairs.append((gold[: int(len(gold) * 0.9)], gold))
    generator.shuffle(pairs)
    return pairs


def change(target: Target) -> Target:
    """The target with the last argument of its last call changed, the gold itself where it has none."""
    if not target.tool_calls:
        return target
    *others, last = target.tool_calls
    names = list(last.arguments)
    arguments = {**last.arguments, names[-1]: "something else"} if names else {"surplus": 1}
    return Target(target.thought, (*others, ToolCall(last.name, arguments)), target.response)


def with_surplus(gold: str) -> str:
    """The gold with one call more."""
    call = dump_json({"name": "surplus", "parameters": {"a": 1}})
    return gold.replace("\n</tool_call>", f"\n{call}\n</tool_call>", 1)


def load_released(path: Path) -> Callable[[str, str], float]:
    """`compute_score` of the released code as a function of completion and gold, silent."""
    os.environ["EXPERIMENT_NAME"] = "qwen"
    spec = importlib.util.spec_from_file_location("released", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.print = lambda *_: None  # type: ignore[attr-defined]
    return lambda text, gold: module.compute_score("rlla", text, gold, {})  # type: ignore[no-any-return]


def rate(work: Callable[[], object], count: int) -> float:
    """Items a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
