"""Every container of rows gives the same rows, and a damaged one says what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli import reading
from toolrl_cli.errors import DataError
from toolrl_cli.reading import find_files, read_chunks

ROWS: list[Any] = [{"query": f'q{i} "ü\n, ]', "tools": "[]", "answers": "[]"} for i in range(1200)]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_array(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    table = pytest.importorskip("pyarrow").Table.from_pylist(ROWS)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)


def write_zstandard(path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    path.write_bytes(zstd.compress(as_lines(ROWS)))


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(as_lines(ROWS)),
    "rows": lambda path: path.write_bytes(as_lines(ROWS)),
    "rows.json": lambda path: path.write_bytes(as_array(ROWS)),
    "lines.json": lambda path: path.write_bytes(as_lines(ROWS)),
    "compact.json": lambda path: path.write_bytes(json.dumps(ROWS).encode()),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_lines(ROWS))),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(as_array(ROWS))),
    "rows.jsonl.zst": write_zstandard,
    "rows.csv": write_csv,
    "rows.parquet": write_parquet,
}


def values(path: Path) -> list[Any]:
    """The rows of a file, which are numbered from 1."""
    lines = [line for chunk in read_chunks(path) for line in chunk.lines()]
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert not any(line.error for line in lines)
    return [line.value for line in lines]


def test_values_that_json_has_not_become_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    row = {"at": datetime(2026, 1, 2, 3, 4), "price": Decimal("1.50"), "raw": b"caf\xc3\xa9", "tags": ["a", None]}
    path = tmp_path / "rows.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), path)
    assert values(path) == [{"at": "2026-01-02 03:04:00", "price": "1.50", "raw": "café", "tags": ["a", None]}]


def test_a_time_that_python_has_not_is_a_fault_of_the_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"at": pyarrow.array([-(1 << 62)], pyarrow.timestamp("us"))})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    with pytest.raises(DataError, match=r"rows\.parquet: a value of rows 1 and on cannot be read"):
        values(path)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("chunk_bytes", [97, 1 << 20])
def test_every_container_gives_the_same_rows(
    tmp_path: Path, name: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path / name)
    monkeypatch.setattr(reading, "CHUNK_BYTES", chunk_bytes)
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", WRITERS)
def test_the_sizes_of_the_chunks_are_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    total = sum(chunk.size for chunk in read_chunks(path))
    assert abs(total - path.stat().st_size) <= 3


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("rows.csv", "rows")])
def test_a_file_that_is_cut_off_is_no_silent_loss(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    try:
        lines = [line for chunk in read_chunks(path) for line in chunk.lines()]
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert lines[-1].error, "a line of JSONL is rejected for itself"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"a": 1}, {"a": 2}, nonsense and more of it]', "element 3 of its array cannot be read"),
        (b"[1, 2,", "cut off after 2 elements"),
        (b'[1, "open', "cut off after 1 elements"),
        (b"[1, " + b"[" * 100_000, "element 2 of its array cannot be read"),
        (b"[1, 2]\n[3]", r"'\[3\]' follows its array of 2 elements; give each array as a file of its own"),
        (b"[1, 2] trailing", "'trailing' follows its array of 2 elements"),
        (b"[1, 2]]", "']' follows its array of 2 elements"),
        (b"[1, 2,]", "']' in place of an element behind 2 elements"),
        (b"[,1]", "',' in place of an element behind 0 elements"),
        (b"[1,,2]", "',' in place of an element behind 1 elements"),
        (b"[1 2]", "'2' in place of a comma behind 1 elements"),
    ],
)
def test_a_broken_array(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=why):
        values(tmp_path / "a.json")


def test_what_follows_an_array_is_found_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("[1, 2] \n [3]")
    for size in range(1, 12):
        monkeypatch.setattr(reading, "CHUNK_BYTES", size)
        with pytest.raises(DataError, match="follows its array of 2 elements"):
            values(tmp_path / "a.json")


def test_an_array_of_large_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * 5000, "n": -12345.5e-3}, 123456789, "]", [], {}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    monkeypatch.setattr(reading, "CHUNK_BYTES", 64)
    assert values(tmp_path / "a.json") == rows


def test_a_csv_with_a_short_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match=r"a\.csv:3: a record has another number of fields"):
        values(tmp_path / "a.csv")


def test_a_csv_with_a_column_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"a\.csv:1: its header names 'a' twice"):
        values(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_with_a_key_twice_is_refused_for_itself(tmp_path: Path, name: str) -> None:
    rows = ['{"q": "a: b", "n": {"x": 1}}', '{"q": 1, "n": {"x": 1, "x" : 2}}', '{"q": "\\u0022q\\u0022: 1"}']
    text = "\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]"
    (tmp_path / name).write_text(text)
    lines = [line for chunk in read_chunks(tmp_path / name) for line in chunk.lines()]
    assert [(line.number, line.value, line.error) for line in lines] == [
        (1, {"q": "a: b", "n": {"x": 1}}, None),
        (2, None, "a key twice; 'x'"),
        (3, {"q": '"q": 1'}, None),
    ]


def test_a_folder_stands_for_its_data_files_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json", "a/c.csv.gz", "notes.txt", "model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / ".out.jsonl.part.json").write_text("{}")
    assert list(find_files([tmp_path])) == [tmp_path / "a/c.csv.gz", tmp_path / "a/z.json", tmp_path / "b.jsonl"]


def test_a_data_set_by_its_id_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "org" / "set").mkdir(parents=True)
    (tmp_path / "org" / "set" / "train.jsonl").write_bytes(as_lines(ROWS[:700]))
    (tmp_path / "org" / "set" / "test.jsonl").write_bytes(as_lines(ROWS[700:710]))
    monkeypatch.chdir(tmp_path)
    assert values(Path("hf://org/set")) == ROWS[:700]
    assert [line.value for c in read_chunks(Path("hf://org/set"), "test") for line in c.lines()] == ROWS[700:710]
    with pytest.raises(DataError, match="hf://org/set: "):
        list(read_chunks(Path("hf://org/set"), "gone"))


def test_an_array_takes_constant_memory(tmp_path: Path) -> None:
    """Peak memory of a fresh process that reads 100 MB, against one that reads 1 MB."""
    import subprocess

    row = json.dumps({"text": "x" * 1000})
    peaks = []
    for count in (1_000, 100_000):
        (tmp_path / "a.json").write_text("[" + ",\n".join([row] * count) + "]")
        code = (
            "import resource, sys; from pathlib import Path; from toolrl_cli.reading import read_chunks\n"
            "assert sum(len(c.rows) for c in read_chunks(Path(sys.argv[1]))) == int(sys.argv[2])\n"
            "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.json"), str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 20_000, "kilobytes"
