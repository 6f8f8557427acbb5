"""`toolrl prepare --stats`, `--show`, `--plot` and `--extract-template`, as a user runs them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess

from toolrl_cli.formats import find_format

SAMPLES = Path(__file__).parents[1] / "data_samples"


@pytest.fixture
def examples(tmp_path: Path, cli: InProcess) -> Path:
    """The sample data as examples."""
    path = tmp_path / "examples.jsonl"
    done = cli("prepare", *sorted(SAMPLES.glob("*.jsonl")), "-o", path)
    assert done.exit_code == 0, done.output
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_statistics_are_those_of_the_file(examples: Path, cli: InProcess, tiny_model: Path) -> None:
    rows = read(examples)
    calls = [len(row["target"]["tool_calls"]) for row in rows]
    done = cli("prepare", "--stats", examples, "--json", "--tokenizer", tiny_model)
    found = json.loads(done.stdout)
    assert found["examples"] == len(rows)
    assert found["no_call_share"] == round(calls.count(0) / len(rows), 6)
    assert sum(found["sources"].values()) == sum(found["targets"].values()) == len(rows)
    called = sorted(n for n in calls if n)
    middle = called[-(-len(called) // 2) - 1]
    assert found["calls"] == {
        "mean": round(sum(called) / len(called), 3),
        "p50": middle,
        "p90": called[-(-len(called) * 90 // 100) - 1],
        "p99": called[-(-len(called) * 99 // 100) - 1],
        "max": called[-1],
        "examples": len(called),
    }
    assert found["prompt_tokens"]["examples"] == found["target_tokens"]["examples"] == len(rows)
    assert 0 < found["target_tokens"]["p50"] < found["prompt_tokens"]["p50"]


def test_a_table_and_a_picture(examples: Path, cli: InProcess, tmp_path: Path) -> None:
    done = cli("prepare", "--stats", examples, "--plot", tmp_path / "lengths.png", "--limit", "50")
    assert "50 examples" in done.stdout
    assert "arguments" in done.stdout
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_leaves_out_the_largest_values_says_so(
    tmp_path: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    labels: list[str] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: labels.extend(a.get_xlabel() for a in self.axes))
    texts = ["word"] * 199 + ["word " * 500]
    rows = [
        {"id": f"a-{n}", "source": "a", "tools": [], "messages": [{"role": "user", "content": "Hi"}]}
        | {"target": {"thought": text, "response": "x"}, "meta": {}}
        for n, text in enumerate(texts)
    ]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("prepare", "--stats", path, "--plot", tmp_path / "lengths.png")
    assert done.exit_code == 0, done.output
    assert labels == ["tools", "messages", "thought words\n(up to the 99th percentile; the largest is 500)"]


def test_whatever_prepare_reads_is_looked_at(examples: Path, cli: InProcess, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(examples.read_bytes()))
    (folder / "b.json").write_text(json.dumps(read(examples)[:5]))
    found = json.loads(cli("prepare", "--stats", folder, "--json").stdout)
    assert found["examples"] == len(read(examples)) + 5
    shown = [cli("prepare", "--show", "1", path).stdout for path in (folder / "a.jsonl.gz", examples)]
    assert shown[0] == shown[1]
    (folder / "b.json").write_text('[{"id": 5}]')
    done = cli("prepare", "--stats", folder)
    assert (done.exit_code, f"{folder / 'b.json'}:1: " in done.output) == (1, True)


def test_lengths_of_prompts_are_in_the_table_too(examples: Path, cli: InProcess, tiny_model: Path) -> None:
    options = ("prepare", examples, "-o", "/dev/null", "--tokenizer", tiny_model)
    tokens = json.loads(cli(*options, "--json").stdout)["prompt_tokens"]
    line = "  ".join(f"{name} {count}" for name, count in tokens.items())
    assert f"prompt tokens: {line}\n" in cli(*options).stdout


def test_a_prompt_is_shown_as_the_tokenizers_template_writes_it(
    examples: Path, cli: InProcess, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    row = read(examples)[0]
    prompt = find_format("hermes").render_prompt(row["tools"], row["messages"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.apply_chat_template(
        prompt.messages, tools=prompt.tools, tokenize=False, add_generation_prompt=True
    )
    done = cli("prepare", "--show", "1", examples, "--format", "hermes", "--tokenizer", tiny_model)
    assert done.stdout.startswith(f"@ {row['id']}\n--- prompt\n{text}\n--- target\n")


@pytest.mark.parametrize("options", [["-o", "/dev/null"], ["--stats"], ["--show", "9"]])
def test_an_example_that_a_format_cannot_express_is_named(
    cli: InProcess, tmp_path: Path, tiny_model: Path, options: list[str]
) -> None:
    call = {"type": "function", "function": {"name": "ping", "arguments": {}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "user", "content": "Go on"},
    ]
    row = {"id": "two-calls", "source": "a", "tools": [], "messages": messages, "target": {"response": "x"}, "meta": {}}
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    done = cli("prepare", path, *options, "--format", "llama3", "--tokenizer", tiny_model)
    assert done.exit_code == 1
    assert "two-calls: a message of the history makes several calls" in done.output


@pytest.mark.parametrize(
    ("text_format", "wanted"),
    [
        ("toolrl", ["--- system\n", "--- user\n**History**\n<user> ", "--- target\n<think> "]),
        ("hermes", ["--- tools\n{", "--- user\n", '--- target\n<tool_call>\n{"name": ']),
        ("llama3", ["--- tools\n{", '--- target\n{"name": ', '"parameters": ']),
    ],
)
def test_examples_are_shown_as_the_model_sees_them(
    examples: Path, cli: InProcess, text_format: str, wanted: list[str]
) -> None:
    done = cli("prepare", "--show", "2", examples, "--format", text_format)
    assert done.exit_code == 0, done.output
    assert [line for line in done.stdout.splitlines() if line.startswith("@ ")] == [
        f"@ {row['id']}" for row in read(examples)[:2]
    ]
    for text in wanted:
        assert text in done.stdout


def test_the_wording_of_rows_is_recovered_and_used(examples: Path, cli: InProcess, tmp_path: Path) -> None:
    template = tmp_path / "wording.jinja"
    rows = SAMPLES / "train-toolrl.jsonl"
    done = cli("prepare", rows, "--extract-template", template)
    assert done.exit_code == 0, done.output
    again = cli("prepare", rows, "--extract-template", template)
    assert again.exit_code == 1
    assert "exists; add --overwrite" in again.output
    row = json.loads(rows.read_text().splitlines()[0])
    cli("prepare", rows, "-o", tmp_path / "t.jsonl")
    shown = cli("prepare", "--show", "1", tmp_path / "t.jsonl", "--template", template).stdout
    assert row["instruction"] in shown
    assert row["input"] in shown


def test_an_output_is_needed_unless_rows_are_only_looked_at(examples: Path, cli: InProcess) -> None:
    done = cli("prepare", examples)
    assert done.exit_code == 2
    assert "--output" in done.output
