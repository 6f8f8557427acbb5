"""The sample data: regenerable, counted, valid, and training apart from held-out."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.records import Json, ToolCall

SAMPLES = Path(__file__).parents[1] / "data_samples"
TRAIN = ("train-openai.jsonl", "train-toolrl.jsonl", "train-xlam.jsonl")
HELDOUT = "heldout/heldout.jsonl"
GENERATOR = runpy.run_path(str(SAMPLES / "generate.py"))
TRAIN_CATALOG, HELDOUT_CATALOG, BAD_ROWS = (
    GENERATOR["load_catalog"](name) for name in ("train", "heldout", "bad_rows")
)
SLOT = re.compile(r"\{\w+\}")


def bad_numbers(name: str) -> list[int]:
    """Line numbers, from 1, of the bad rows of a file."""
    after = sorted(bad["after"] for bad in BAD_ROWS if bad["file"] == name)
    return [position + i for i, position in enumerate(after, start=1)]


def good_rows(name: str) -> list[Json]:
    bad = bad_numbers(name)
    lines = (SAMPLES / name).read_text("utf-8").splitlines()
    return [json.loads(line) for number, line in enumerate(lines, start=1) if number not in bad]


def user_text(row: Json) -> str:
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"] if message["role"] == "user")
    return str(row["query"] if "query" in row else row["input"])


def last_calls(row: Json) -> list[ToolCall]:
    """The calls of the step to be learned."""
    if "answers" in row:
        return [ToolCall.from_json(answer) for answer in json.loads(row["answers"])]
    if "output" in row:
        return list(ToolrlFormat().parse_target(row["output"]).tool_calls)
    return read_message(row["messages"][-1])


def read_message(message: Json) -> list[ToolCall]:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [ToolCall(function["name"], json.loads(function["arguments"])) for function in functions]


def all_calls(row: Json) -> list[ToolCall]:
    """The calls of the whole dialogue."""
    if "messages" in row:
        return [call for message in row["messages"] for call in read_message(message)]
    return last_calls(row)


def declared(row: Json) -> list[str]:
    if "instruction" in row:
        return re.findall(r"^\d+\. Name: (.+)$", row["instruction"], re.MULTILINE)
    tools = row["tools"] if isinstance(row["tools"], list) else json.loads(row["tools"])
    return [tool.get("function", tool)["name"] for tool in tools]


def texts_in(value: Any) -> Iterator[str]:
    """Every string at any depth of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


TRAIN_ROWS = [row for name in TRAIN for row in good_rows(name)]
HELDOUT_ROWS = good_rows(HELDOUT)


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLES / "generate.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "1"})
    for name in (*TRAIN, HELDOUT):
        assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()


def test_another_seed_gives_other_rows(tmp_path: Path) -> None:
    GENERATOR["write_samples"](tmp_path, 1)
    for name in (*TRAIN, HELDOUT):
        assert (tmp_path / name).read_bytes() != (SAMPLES / name).read_bytes()


def test_only_training_files_match_the_glob_of_the_readme() -> None:
    assert sorted(path.name for path in SAMPLES.glob("*.jsonl")) == list(TRAIN)


def test_rows_are_counted_as_the_readme_says() -> None:
    readme = (SAMPLES / "README.md").read_text("utf-8")
    stated = re.findall(r"^\| `(\S+\.jsonl)` \| \w+ \| (\d+) \| (\d+) \|", readme, re.MULTILINE)
    real = [(name, str(len(good_rows(name))), str(len(bad_numbers(name)))) for name in (*TRAIN, HELDOUT)]
    live = len((SAMPLES / "live/tasks.jsonl").read_text("utf-8").splitlines())
    assert stated == [*real, ("live/tasks.jsonl", str(live), "0")]
    assert len(BAD_ROWS) == 12


def test_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 1_000_000


def test_training_has_enough_rows_and_tools() -> None:
    assert len(TRAIN_ROWS) == 360
    assert len({name for row in TRAIN_ROWS for name in declared(row)}) == 52
    assert len({call.name for row in TRAIN_ROWS for call in last_calls(row)}) == 52


def test_heldout_has_enough_rows_and_tools() -> None:
    assert len(HELDOUT_ROWS) == 160
    assert len({call.name for row in HELDOUT_ROWS for call in last_calls(row)}) == 40


@pytest.mark.parametrize("rows", [TRAIN_ROWS, HELDOUT_ROWS], ids=["train", "heldout"])
def test_the_mix_of_kinds_is_the_same_in_both_parts(rows: list[Json]) -> None:
    """About 62% one call, 18% several, 20% none (no tool fits, or an argument is missing)."""
    sizes = Counter(min(len(last_calls(row)), 2) for row in rows)
    assert sizes[1] / len(rows) == pytest.approx(0.62, abs=0.01)
    assert sizes[2] / len(rows) == pytest.approx(0.18, abs=0.01)
    assert sizes[0] / len(rows) == pytest.approx(0.20, abs=0.01)


def test_no_request_comes_twice() -> None:
    queries = Counter(map(user_text, TRAIN_ROWS + HELDOUT_ROWS))
    assert [query for query, count in queries.items() if count > 1] == []


def test_calls_fit_their_tools() -> None:
    """Each call's tool is declared in the row, and the arguments fit its schema with no stranger among them."""
    tools = {tool["name"]: tool for tool in TRAIN_CATALOG["tools"] + HELDOUT_CATALOG["tools"]}
    for row in TRAIN_ROWS + HELDOUT_ROWS:
        for call in all_calls(row):
            schema = GENERATOR["openai_tool"](tools[call.name])["function"]["parameters"]
            assert call.name in declared(row)
            Draft202012Validator({**schema, "additionalProperties": False}).validate(call.arguments)


def test_most_values_stand_in_the_request() -> None:
    literal = [
        text in user_text(row)
        for row in TRAIN_ROWS + HELDOUT_ROWS
        for call in all_calls(row)
        for text in map(str, call.arguments.values())
    ]
    assert 0.8 < sum(literal) / len(literal) < 0.97


def test_heldout_shares_no_tool_with_training() -> None:
    train, heldout = ({name for row in rows for name in declared(row)} for rows in (TRAIN_ROWS, HELDOUT_ROWS))
    assert train & heldout == set()


def test_heldout_shares_no_tool_description_with_training() -> None:
    train, heldout = (
        {tool[key].lower() for tool in catalog["tools"] for key in ("description", "topic")}
        for catalog in (TRAIN_CATALOG, HELDOUT_CATALOG)
    )
    assert train & heldout == set()


def test_heldout_shares_no_text_value_with_training() -> None:
    """Strings with four letters or more, or any letter beyond Latin; case does not count."""

    def values(rows: list[Json]) -> set[str]:
        texts = {text.casefold() for row in rows for call in all_calls(row) for text in texts_in(call.arguments)}
        return {text for text in texts if sum(map(str.isalpha, text)) >= 4 or re.search(r"[^\W\d_a-zÀ-ÿ]", text)}

    train, heldout = values(TRAIN_ROWS), values(HELDOUT_ROWS)
    assert min(len(train), len(heldout)) > 60
    assert train & heldout == set()


def test_heldout_shares_no_phrasing_with_training() -> None:
    def phrasings(catalog: Json) -> set[str]:
        parts = [catalog[key] for key in ("wrap", "join", "join_three", "refuse", "request_missing", "chat")]
        parts += [tool.get(key, []) for tool in catalog["tools"] for key in ("say", "do", "also", "both", "both_also")]
        parts += [item["say"] for tool in catalog["tools"] for item in tool["ask"]]
        parts += [tool["turn"]["follow"] for tool in catalog["tools"] if "turn" in tool]
        # Of a language code of small talk nothing needs to be apart.
        return {SLOT.sub("{}", text).casefold() for text in texts_in(parts) if len(text) > 2}

    assert len(phrasings(TRAIN_CATALOG)) > 400
    assert phrasings(TRAIN_CATALOG) & phrasings(HELDOUT_CATALOG) == set()


@pytest.mark.parametrize("catalog", [TRAIN_CATALOG, HELDOUT_CATALOG], ids=["train", "heldout"])
def test_every_tool_has_four_phrasings(catalog: Json) -> None:
    few = [tool["name"] for tool in catalog["tools"] if len(set(tool["say"] + tool["do"])) < 4]
    assert few == []


def test_thoughts_are_short_and_their_own() -> None:
    thoughts = [str(ToolrlFormat().parse_target(row["output"]).thought) for row in good_rows("train-toolrl.jsonl")]
    assert max(len(thought.split()) for thought in thoughts) <= 25
    assert len(set(thoughts)) > 0.9 * len(thoughts)


def test_bad_rows_stand_where_the_catalog_says() -> None:
    tools = {tool["name"]: tool for tool in TRAIN_CATALOG["tools"]}
    for name in TRAIN:
        lines = (SAMPLES / name).read_text("utf-8").splitlines()
        expected = {GENERATOR["bad_line"](bad, tools) for bad in BAD_ROWS if bad["file"] == name}
        assert {lines[number - 1] for number in bad_numbers(name)} == expected


def test_prepare_rejects_the_bad_rows_and_no_other(tmp_path: Path) -> None:
    files = [str(SAMPLES / name) for name in TRAIN]
    command = [sys.executable, "-m", "toolrl_cli", "prepare", *files, "-o", str(tmp_path / "ex.jsonl")]
    subprocess.run(command, check=True, capture_output=True)
    rejects = [json.loads(line) for line in (tmp_path / "ex.rejects.jsonl").read_text("utf-8").splitlines()]
    found = {(Path(reject["path"]).name, reject["line"]) for reject in rejects}
    assert found == {(name, number) for name in TRAIN for number in bad_numbers(name)}


def test_prepare_takes_every_heldout_row(tmp_path: Path) -> None:
    output = tmp_path / "held.jsonl"
    command = [sys.executable, "-m", "toolrl_cli", "prepare", str(SAMPLES / HELDOUT), "-o", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    # A dialogue of two turns gives three steps: call, reply, call.
    steps = sum(m["role"] == "assistant" for row in HELDOUT_ROWS for m in row["messages"])
    assert len(output.read_text("utf-8").splitlines()) == steps == 176


def test_catalogs_are_plain_yaml() -> None:
    for path in (SAMPLES / "catalog").glob("*.yaml"):
        assert yaml.safe_load(path.read_text("utf-8"))
