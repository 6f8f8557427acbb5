"""The benches by name, and the example of the documentation as one of them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from test_eval import ScriptedEngine, call_line

from toolrl_cli import benches
from toolrl_cli.benches import registry
from toolrl_cli.evaluation import EvalConfig, evaluate

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def test_every_bench_is_found() -> None:
    assert list(registry.BENCHES) == ["api-bank", "bamboogle", "bfcl", "bfcl-v3", "examples"]
    assert registry.owners("data") == ["api-bank", "bamboogle", "examples"]
    assert registry.owners("limit") == []


def test_the_documented_bench_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 32
    (tmp_path / "sums.py").write_text(code, "utf-8")
    monkeypatch.setattr(benches, "__path__", [*benches.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "BENCHES", registry.load_benches())
    monkeypatch.delitem(sys.modules, "toolrl_cli.benches.sums")

    texts = {f"{a}+{b}": call_line("add", {"a": a, "b": b}) for a in range(1, 10) for b in range(1, 10)}
    config = EvalConfig(bench="sums", output=tmp_path / "out", model="scripted")
    summary = evaluate(config, engine=ScriptedEngine(texts | {"1+2": call_line("add", {"a": 2, "b": 1})}))
    assert (summary.n, summary.categories["sums"].correct) == (81, 80)
    assert summary.metrics["accuracy"].value == pytest.approx(80 / 81)
