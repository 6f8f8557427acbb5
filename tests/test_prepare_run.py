"""Workers, interruption and repair: the same bytes however a run goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli import reading
from toolrl_cli.errors import ConfigError, SetupError
from toolrl_cli.prepare import Changes, Choice, PrepareConfig, prepare_examples, spool
from toolrl_cli.records import Json

TOOL = {
    "name": "weather",
    "description": "Now.",
    "parameters": {"city": {"type": "str"}, "days": {"type": "int, optional"}},
}


def row(number: int, **arguments: Any) -> Json:
    answer = {"name": "weather", "arguments": {"city": f"City {number}", **arguments}}
    return {"query": f"Weather in city {number}?", "tools": [TOOL], "answers": [answer]}


def write_rows(path: Path, count: int) -> Path:
    """Rows of which every seventh has a wrong call and every eleventh is no JSON."""
    with path.open("w") as stream:
        for number in range(count):
            wrong = {"days": "x"} if number % 7 == 0 else {}
            line = json.dumps(row(number, **wrong))
            stream.write((line[:-5] if number % 11 == 0 else line) + "\n")
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 5000)
    monkeypatch.setattr(spool, "SAVE_EVERY", 3)


CHANGES = Changes(mask_names=0.3, shuffle_tools=True, irrelevance=0.2)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("choice", [Choice(), Choice(dedupe="exact", shuffle=True, split={"test": 0.1})])
@pytest.mark.slow
def test_workers_change_no_byte(tmp_path: Path, choice: Choice) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1500)
    if choice.split:
        rows = write_own_tools(rows)
    outputs = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        config = PrepareConfig(
            inputs=(rows,), output=folder / "out.jsonl", changes=CHANGES, choice=choice, workers=workers
        )
        summary = prepare_examples(config).to_json()
        assert summary["rows"] == 1500 == summary["converted"] + summary["rejected"]
        outputs.append(content(folder))
    assert outputs[0] == outputs[1]
    assert set(outputs[0]) == {"out.jsonl", "out.rejects.jsonl", *(["out.test.jsonl"] if choice.split else [])}


def write_own_tools(path: Path) -> Path:
    """The same rows with a tool of its own in each, so that they can be split."""
    lines = [line.replace('"weather"', f'"weather_{n}"') for n, line in enumerate(path.read_text().splitlines())]
    path.write_text("\n".join(lines) + "\n")
    return path


SLOW_RUN = """
import sys, time
from pathlib import Path
from toolrl_cli import reading
from toolrl_cli.prepare import Changes, PrepareConfig, prepare_examples, run, spool
reading.CHUNK_BYTES, spool.SAVE_EVERY = 5000, 3
resume, pause = sys.argv[2] == "resume", float(sys.argv[3])
append = spool.Spool.append
def slow(self, done):
    append(self, done)
    time.sleep(pause)
spool.Spool.append = slow
folder = Path(sys.argv[1])
changes = Changes(mask_names=0.3, shuffle_tools=True, irrelevance=0.2)
inputs, output = (folder / "rows.jsonl",), folder / "out" / "out.jsonl"
config = PrepareConfig(inputs=inputs, output=output, changes=changes, resume=resume)
print(prepare_examples(config).to_json()["rows"])
"""


def start(folder: Path, mode: str, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, str(folder), mode, str(pause)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, how: signal.Signals) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1500)
    whole = PrepareConfig(inputs=(rows,), output=tmp_path / "whole" / "out.jsonl", changes=CHANGES)
    expected = prepare_examples(whole).to_json()
    out = tmp_path / "out"
    for stop in (6, 17):
        run = start(tmp_path, "resume", 0.02)
        wait_for_pieces(out / ".out.jsonl.part.json", stop)
        run.send_signal(how)
        assert run.wait(30) != 0
        assert not (out / "out.jsonl").exists()
        with (out / ".out.jsonl.part").open("ab") as stream:
            stream.write(b'{"id": "half a li')
    last = start(tmp_path, "resume", 0.0)
    assert last.communicate(timeout=60)[0] == f"{expected['rows']}\n"
    assert content(out) == content(tmp_path / "whole")


def wait_for_pieces(path: Path, count: int) -> None:
    """Wait until a run has noted that so many pieces are done."""
    deadline = time.time() + 30
    while time.time() < deadline:
        if path.exists() and json.loads(path.read_text())["pieces"] >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path}: no progress")


@pytest.mark.usefixtures("small_chunks")
def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1500)
    run = start(tmp_path, "resume", 0.02)
    wait_for_pieces(tmp_path / "out" / ".out.jsonl.part.json", 3)
    run.kill()
    run.wait()
    options: dict[str, Any] = {"inputs": (rows,), "output": tmp_path / "out" / "out.jsonl", "changes": CHANGES}
    with pytest.raises(ConfigError, match="had other inputs or options"):
        prepare_examples(PrepareConfig(**options, seed=1, resume=True))
    with pytest.raises(ConfigError, match="had other inputs or options"):
        prepare_examples(PrepareConfig(**options, limit=7, resume=True))
    with pytest.raises(ConfigError, match="had other inputs or options"):
        prepare_examples(PrepareConfig(**options, choice=Choice(dedupe="exact"), resume=True))
    os.utime(rows, (1, 1))
    with pytest.raises(ConfigError, match="had other inputs or options"):
        prepare_examples(PrepareConfig(**options, resume=True))
    prepare_examples(PrepareConfig(**options))
    assert sorted(content(tmp_path / "out")) == ["out.jsonl", "out.rejects.jsonl"]


def test_streams_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume needs files"):
        prepare_examples(PrepareConfig(inputs=(Path("-"),), output=tmp_path / "out.jsonl", resume=True))


def interrupt_at_fifth_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise what Ctrl-C does, once, when five chunks are on the disk."""
    append, seen = spool.Spool.append, list[Any]()

    def interrupted(self: spool.Spool, done: Any) -> None:
        append(self, done)
        seen.append(done)
        if len(seen) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(spool.Spool, "append", interrupted)


def test_ids_of_examples_stay_unique_over_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    prepare_examples(PrepareConfig(inputs=(rows,), output=tmp_path / "ex.jsonl"))
    twice = tmp_path / "twice.jsonl"
    twice.write_bytes((tmp_path / "ex.jsonl").read_bytes() * 2)
    config = PrepareConfig(inputs=(twice,), output=tmp_path / "whole.jsonl")
    prepare_examples(config)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(spool, "SAVE_EVERY", 1)
    interrupt_at_fifth_chunk(monkeypatch)
    again = PrepareConfig(inputs=(twice,), output=tmp_path / "out.jsonl", resume=True)
    with pytest.raises(KeyboardInterrupt):
        prepare_examples(again)
    prepare_examples(again)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(set(ids)) == len(ids) > 50


@pytest.mark.parametrize("where", ["before", "within"])
def test_a_resumed_run_that_stops_at_once_or_within_a_piece_keeps_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Behind the last note stand lines of a run that was killed, and then of one that was interrupted."""
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3000)
    options: dict[str, Any] = {"inputs": (rows,), "changes": CHANGES}
    whole = prepare_examples(PrepareConfig(output=tmp_path / "whole" / "out.jsonl", **options)).to_json()
    again = PrepareConfig(output=tmp_path / "out" / "out.jsonl", resume=True, **options)
    with monkeypatch.context() as once:
        interrupt_at_fifth_chunk(once)
        with pytest.raises(KeyboardInterrupt):
            prepare_examples(again)
    for name in (".out.jsonl.part", ".out.jsonl.rejects.part"):
        with (tmp_path / "out" / name).open("ab") as stream:
            stream.write(b'{"id": "behind the note"}\n' * 3)

    def interrupted(self: spool.Spool, done: Any) -> None:
        if where == "within":
            self._examples.writelines(done.lines[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(spool.Spool, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_examples(again)
    resumed = prepare_examples(again).to_json()
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert (resumed["rows"], resumed["sources"]) == (whole["rows"], whole["sources"])


def test_a_worker_that_dies_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3000)
    append, seen = spool.Spool.append, list[Any]()

    def note(done: Any) -> Any:
        seen.append(done)
        return done

    def dying(self: spool.Spool, done: Any) -> None:
        append(self, note(done))
        if len(seen) == 5:
            raise SetupError("a worker died")

    config = PrepareConfig(inputs=(rows,), output=tmp_path / "out" / "out.jsonl", resume=True)
    with monkeypatch.context() as once:
        once.setattr(spool.Spool, "append", dying)
        with pytest.raises(SetupError):
            prepare_examples(config)
    before = len(seen)
    with monkeypatch.context() as once:
        once.setattr(spool.Spool, "append", lambda self, done: append(self, note(done)))
        prepare_examples(config)
    prepare_examples(PrepareConfig(inputs=(rows,), output=tmp_path / "whole" / "out.jsonl"))
    assert before == 5
    assert sum(len(done.lines) for done in seen) == len((tmp_path / "out" / "out.jsonl").read_bytes().splitlines())
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_choice_after_an_interruption_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3000)
    options: dict[str, Any] = {"inputs": (rows, rows), "changes": CHANGES, "choice": Choice(dedupe="exact")}
    whole = prepare_examples(PrepareConfig(output=tmp_path / "whole" / "out.jsonl", **options)).to_json()
    interrupt_at_fifth_chunk(monkeypatch)
    again = PrepareConfig(output=tmp_path / "out" / "out.jsonl", resume=True, **options)
    with pytest.raises(KeyboardInterrupt):
        prepare_examples(again)
    resumed = prepare_examples(again).to_json()
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert (resumed["changed"], resumed["dropped"]) == (whole["changed"], whole["dropped"])


def test_repair_mends_what_the_schema_leaves_no_doubt_about(tmp_path: Path) -> None:
    rows = [
        row(0, days="3"),
        row(1, Days=3),
        row(2, days=None),
        row(3, colour="red"),
        row(4, days="three"),
        {**row(5), "answers": '[{"name": "Weather", "arguments": {"city": 5}},]'},
        row(6),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = PrepareConfig(inputs=(tmp_path / "rows.jsonl",), output=tmp_path / "out.jsonl", on_invalid="repair")
    summary = prepare_examples(config).to_json()
    examples = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    calls = [example["target"]["tool_calls"][0] for example in examples]
    assert [call["arguments"] for call in calls] == [
        {"city": "City 0", "days": 3},
        {"city": "City 1", "days": 3},
        {"city": "City 2"},
        {"city": "City 3"},
        {"city": "5"},
        {"city": "City 6"},
    ]
    assert {call["name"] for call in calls} == {"weather"}
    assert [example["meta"].get("repairs") for example in examples][:4] == [
        ["type: 'weather'.days: '3' -> 3"],
        ["argument name: 'weather'.Days -> days"],
        ["null argument: 'weather'.days dropped"],
        ["unknown argument: 'weather'.colour dropped"],
    ]
    assert summary["sources"]["xlam"]["reasons"] == {"wrong type": 1}
    assert summary["sources"]["xlam"]["repairs"]["tool name"] == 1
    unrepaired = PrepareConfig(inputs=config.inputs, output=tmp_path / "strict.jsonl")
    assert prepare_examples(unrepaired).to_json()["rejected"] == 6
