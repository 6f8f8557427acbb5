"""JSON and JSONL in and out."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrl_cli.errors import DataError, SetupError
from toolrl_cli.jsonl import (
    Line,
    RecordLog,
    dump_json,
    flatten,
    load_json,
    read_json,
    read_lines,
    read_records,
    write_json,
    write_records,
)

NOT_JSON = "not JSON; each line must hold one JSON value"


def lines_of(path: Path, content: bytes) -> list[Line]:
    path.write_bytes(content)
    return list(read_lines(path))


def python(code: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], input=stdin, capture_output=True, env=environment, timeout=60)


class TestReadLines:
    def test_lines_are_numbered_as_an_editor_does(self, tmp_path: Path) -> None:
        content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n \t\n[2]\n"\xc3\xa9\xe2\x80\xa8"\n\n3.5'
        assert lines_of(tmp_path / "a", content) == [
            Line(1, {"a": 1}),
            Line(4, [2]),
            Line(5, "é\u2028"),  # a line separator inside a string ends no line
            Line(7, 3.5),
        ]

    @pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n", b"\xef\xbb\xbf"])
    def test_a_file_without_lines(self, tmp_path: Path, content: bytes) -> None:
        assert lines_of(tmp_path / "a", content) == []

    @pytest.mark.parametrize(
        "bad",
        ["{", '{"a": 1', "{'a': 1}", '{"a": 1} {"b": 2}', "null", "\x00", '{"a":\t"\t"}'],
        ids=range(7),
    )
    def test_a_bad_line_does_not_hide_the_next(self, tmp_path: Path, bad: str) -> None:
        assert lines_of(tmp_path / "a", f"1\n{bad}\n2\n".encode()) == [Line(1, 1), Line(2, error=NOT_JSON), Line(3, 2)]

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
            ('{"n": ' + "9" * 10_000 + "}", f"a number has over {sys.get_int_max_str_digits()} digits"),
        ],
        ids=["deep", "long"],
    )
    def test_json_that_python_cannot_decode(self, tmp_path: Path, line: str, why: str) -> None:
        assert lines_of(tmp_path / "a", f"{line}\n2\n".encode()) == [Line(1, error=why), Line(2, 2)]

    def test_what_python_reads_beyond_json(self, tmp_path: Path) -> None:
        [line] = lines_of(tmp_path / "a", b'{"x": NaN, "y": -Infinity, "big": 123456789012345678901234567890}\n')
        assert math.isnan(line.value.pop("x"))
        assert line.value == {"y": -math.inf, "big": 123456789012345678901234567890}

    def test_a_lone_surrogate_is_text(self, tmp_path: Path) -> None:
        assert lines_of(tmp_path / "a", b'"\\ud800"\n') == [Line(1, "\ud800")]

    @pytest.mark.parametrize("good_lines", [0, 1, 100_000])
    def test_bytes_that_are_no_utf8(self, tmp_path: Path, good_lines: int) -> None:
        """The fault may show itself long after the first lines were read."""
        (tmp_path / "a").write_bytes(b"1\n" * good_lines + b'"\xff"\n')
        with pytest.raises(DataError) as error:
            list(read_lines(tmp_path / "a"))
        assert str(error.value) == f"{tmp_path / 'a'}:{good_lines + 1}: not UTF-8 text"

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (gzip.compress(b"1\n"), "is compressed (gzip); uncompress it first, with zcat"),
            (b"\x28\xb5\x2f\xfd\x04", "is compressed (Zstandard); uncompress it first, with zstdcat"),
            (b"PAR1\x15", "is a Parquet file; it must be text, one JSON value a line"),
        ],
        ids=("gzip", "zstd", "parquet"),
    )
    def test_what_is_no_text(self, tmp_path: Path, content: bytes, why: str) -> None:
        (tmp_path / "a").write_bytes(content)
        for known in (None, content):
            with pytest.raises(DataError) as error:
                list(read_lines(tmp_path / "a", known))
            assert str(error.value) == f"{tmp_path / 'a'}: {why}"

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "is a directory")):
            with pytest.raises(DataError) as error:
                list(read_lines(path))
            assert str(error.value) == f"{path}: {why}"


class TestReadRecords:
    def test_an_error_names_path_and_line(self, tmp_path: Path) -> None:
        def parse(value: object) -> object:
            if value == 2:
                raise DataError("two is refused")
            return value

        path = tmp_path / "a.jsonl"
        for content, read, why in (
            ("1\n\n2\n", [1], f"{path}:3: two is refused"),
            ("1\n{\n", [1], f"{path}:2: {NOT_JSON}"),
        ):
            path.write_text(content, "utf-8")
            records = read_records(path, parse)
            assert [next(records)] == read
            with pytest.raises(DataError) as error:
                next(records)
            assert str(error.value) == why

    def test_they_are_read_one_by_one(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text('1\n{"cut off', "utf-8")
        assert next(read_records(tmp_path / "a", lambda value: value)) == 1


class TestReadJson:
    def test_a_whole_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b'\xef\xbb\xbf[1,\n {"b": null}]\n')
        assert read_json(tmp_path / "a") == [1, {"b": None}]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "not JSON (Expecting value: line 1 column 1 (char 0))"),
            (b'{"a": 1', "not JSON (Expecting ',' delimiter: line 1 column 8 (char 7))"),
            (b"[" * 10_000, "not JSON (nested too deeply)"),
            (b'"\xff"', "not UTF-8 text"),
        ],
        ids=range(4),
    )
    def test_a_broken_file(self, tmp_path: Path, content: bytes, why: str) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError) as error:
            read_json(tmp_path / "a")
        assert str(error.value) == f"{tmp_path / 'a'}: {why}"


class TestDump:
    def test_text_stays_readable_unless_no_utf8_can_hold_it(self) -> None:
        assert dump_json({"é": "\u2028\n"}) == '{"é": "\u2028\\n"}'
        assert dump_json(["é", "\ud800"]) == '["\\u00e9", "\\ud800"]'

    @given(st.text() | st.dictionaries(st.text(), st.lists(st.integers() | st.floats(allow_nan=False))))
    def test_what_is_dumped_loads_again(self, value: object) -> None:
        line = dump_json(value)
        assert "\n" not in line
        assert load_json(line.encode()) == value

    def test_flatten(self) -> None:
        nested = {"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": {}, "g": None}
        assert flatten(nested) == {"a.b.c": 1, "a.d": [{"e": 2}], "g": None}


class TestWriteAtomically:
    def test_records(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "a.jsonl"
        assert write_records(path, iter([{"é": 1}, "\ud800", None])) == 3
        assert path.read_bytes() == '{"é": 1}\n"\\ud800"\nnull\n'.encode()
        assert write_records(path, []) == 0
        assert path.read_bytes() == b""

    def test_json(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"é": [1]})
        assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "é": [\n    1\n  ]\n}\n'
        write_json(tmp_path / "a.json", "\udcff")  # as in the name of a file that is no UTF-8
        assert (tmp_path / "a.json").read_text("utf-8") == '"\\udcff"\n'

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, failure: type[BaseException]) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("old\n", "utf-8")

        def records() -> Any:
            yield 1
            raise failure

        with pytest.raises(failure):
            write_records(path, records())
        with pytest.raises(failure):
            write_records(tmp_path / "new.jsonl", records())
        with pytest.raises(TypeError):
            write_records(path, [1, object()])
        assert (path.read_text("utf-8"), [p.name for p in tmp_path.iterdir()]) == ("old\n", ["a.jsonl"])

    def test_the_old_file_stays_readable_until_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("1\n", "utf-8")
        write_records(path, (line.value + 1 for line in read_lines(path)))
        assert path.read_text("utf-8") == "2\n"

    def test_permission_bits(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
            path.unlink(missing_ok=True)
            before = os.umask(mask)
            try:
                write_records(path, [1])
                assert os.umask(mask) == mask
            finally:
                os.umask(before)
            assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o640)
        write_records(path, [2])
        assert path.stat().st_mode & 0o777 == 0o640

    def test_what_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old", "utf-8")
        for path, why in (
            (tmp_path, f"{tmp_path}: not a file; choose another output"),
            *(
                (path, f"{path}: cannot create its folder ({tmp_path / 'file'} is a file); choose another output")
                for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a")
            ),
        ):
            with pytest.raises(SetupError) as error:
                write_records(path, [1])
            assert str(error.value) == why
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_device_or_a_pipe_is_written_and_stays(self, tmp_path: Path) -> None:
        assert write_records(Path(os.devnull), [1]) == 1
        assert Path(os.devnull).is_char_device()
        os.mkfifo(tmp_path / "pipe")
        code = "import sys; print(open(sys.argv[1]).read())"
        reader = subprocess.Popen([sys.executable, "-c", code, tmp_path / "pipe"], stdout=subprocess.PIPE)
        write_records(tmp_path / "pipe", [1, 2])
        assert (reader.communicate(timeout=60)[0], (tmp_path / "pipe").is_fifo()) == (b"1\n2\n\n", True)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
    def test_a_folder_that_cannot_be_written(self) -> None:
        with pytest.raises(SetupError, match=r"^/proc/self/a: cannot write here \(.+\); choose another output$"):
            write_records(Path("/proc/self/a"), [1])


class TestStandardStreams:
    def test_a_dash_is_standard_input_and_output(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from toolrl_cli.jsonl import *; dash = Path('-')\n"
            "print(write_records(dash, (line.value for line in read_lines(dash))), flush=True)"
        )
        done = python(code, '\ufeff{"é": 1}\r\n\n"\u6f22"'.encode(), PYTHONIOENCODING="latin-1")  # UTF-8 all the same
        assert (done.stdout, done.stderr) == ('{"é": 1}\n"漢"\n2\n'.encode(), b"")

    def test_broken_bytes_on_standard_input(self) -> None:
        code = "from pathlib import Path; from toolrl_cli.jsonl import *; list(read_lines(Path('-')))"
        done = python(code, b'"\xff"\n', PYTHONIOENCODING=":surrogateescape")
        assert done.stderr.decode().splitlines()[-1] == "toolrl_cli.errors.DataError: -:1: not UTF-8 text"


class TestRecordLog:
    def test_records_are_appended_and_visible_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "log.jsonl"
        for i in (1, 2):
            with RecordLog(path) as log:
                log.append({"é": i})
                assert path.read_text("utf-8").endswith(f'{{"é": {i}}}\n')
        assert path.read_text("utf-8") == '{"é": 1}\n{"é": 2}\n'

    @pytest.mark.parametrize(
        ("before", "after"),
        [("", "3\n"), ('{"a"', "3\n"), ("1\n", "1\n3\n"), ('1\n2\n{"a": "é', "1\n2\n3\n"), ("1\n\n", "1\n\n3\n")],
    )
    def test_a_line_cut_off_by_a_kill_goes(self, tmp_path: Path, before: str, after: str) -> None:
        path = tmp_path / "log.jsonl"
        path.write_text(before, "utf-8")
        with RecordLog(path) as log:
            log.append(3)
        assert path.read_text("utf-8") == after

    def test_a_killed_process_loses_nothing_it_appended(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from toolrl_cli.jsonl import RecordLog\n"
            "log = RecordLog(Path(sys.argv[1])); log.append('kept'); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "log.jsonl")], timeout=60)
        assert json.loads((tmp_path / "log.jsonl").read_text("utf-8")) == "kept"
