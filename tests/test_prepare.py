"""`toolrl prepare`: as a library, and as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.prepare import Choice, PrepareConfig, plan, prepare_examples
from toolrl_cli.records import Json
from toolrl_cli.sources.registry import SOURCES

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SAMPLES = Path(__file__).parents[1] / "data_samples"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not here")

TOOL = {"name": "weather", "description": "Now.", "parameters": {"city": {"type": "str"}}}
GOOD = {"query": "Rome?", "tools": [TOOL], "answers": [{"name": "weather", "arguments": {"city": "Rome"}}]}
WRONG = {**GOOD, "answers": [{"name": "weather", "arguments": {"city": 5, "day": 1}}]}
CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ]
}
EXAMPLE = {
    "id": "xlam-rows-1",
    "source": "xlam",
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Now.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ],
    "messages": [{"role": "user", "content": "Rome?"}],
    "target": {"thought": None, "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}], "response": None},
    "meta": {},
}
WRONG_REASON = "unknown argument: 'weather': 'day'; wrong type: 'weather.city': 5 is not of type string"


def write(path: Path, *rows: object) -> Path:
    """A JSONL file of these rows; a string stands as its line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def read(path: Path) -> list[Any]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run(*inputs: Path, **options: Any) -> tuple[list[Any], Json]:
    """The examples that these inputs give, and the summary."""
    output = inputs[0].parent / "out.jsonl"
    summary = prepare_examples(PrepareConfig(inputs=inputs, output=output, **options)).to_json()
    return read(output), summary


def ids(examples: list[Any]) -> list[str]:
    """The ids of examples."""
    return [example["id"] for example in examples]


def toolrl(*arguments: object, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`toolrl prepare` as a user runs it."""
    command = [sys.executable, "-m", "toolrl_cli", "prepare", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


class TestConvert:
    def test_good_rows_become_examples_and_bad_rows_rejects(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", GOOD, '{"query": "cut o', "", WRONG, [1], "null", GOOD)
        examples, summary = run(rows)
        assert examples == [EXAMPLE, {**EXAMPLE, "id": "xlam-rows-7"}]
        rejects = read(tmp_path / "out.rejects.jsonl")
        assert rejects == [
            reject(rows, 2, "not JSON: each line must hold one JSON value", '{"query": "cut o'),
            reject(rows, 4, WRONG_REASON, WRONG),
            reject(rows, 5, "wrong shape: a row must be an object, not a list", [1]),
            reject(rows, 6, "wrong shape: a row must be an object, not null", None),
        ]
        counts = {"rows": 6, "converted": 2, "rejected": 4, "examples": 2}
        reasons = {"not JSON": 1, "unknown argument": 1, "wrong shape": 2}
        assert summary.pop("seconds") > 0 < summary.pop("rows_per_second")
        assert summary == {
            **counts,
            "output": str(tmp_path / "out.jsonl"),
            "rejects": str(tmp_path / "out.rejects.jsonl"),
            "sources": {"xlam": {**counts, "reasons": reasons, "repairs": {}, "warnings": {}}},
        }

    def test_a_dialogue_gives_several_examples(self, tmp_path: Path) -> None:
        examples, summary = run(write(tmp_path / "chat.jsonl", CHAT))
        assert ids(examples) == ["openai-chat-1-1", "openai-chat-1-2"]
        assert (summary["rows"], summary["converted"], summary["examples"]) == (1, 1, 2)

    def test_keep_notes_what_is_wrong_and_a_second_pass_accepts_it(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", WRONG, GOOD)
        examples, summary = run(rows, on_invalid="keep")
        assert [example["meta"] for example in examples] == [{"warnings": WRONG_REASON.split("; ")}, {}]
        assert summary["sources"]["xlam"]["warnings"] == {"unknown argument": 1, "wrong type": 1}
        (tmp_path / "out.jsonl").rename(tmp_path / "first.jsonl")
        assert run(tmp_path / "first.jsonl")[0] == examples

    def test_an_example_edited_to_be_wrong_is_rejected(self, tmp_path: Path) -> None:
        edited = {**EXAMPLE, "target": {"tool_calls": [{"name": "wether", "arguments": {}}]}}
        examples, summary = run(write(tmp_path / "e.jsonl", EXAMPLE, edited))
        assert examples == [EXAMPLE]
        assert summary["sources"]["examples"]["reasons"] == {"undeclared tool": 1}

    def test_toolrl_rows_keep_what_contradicts_their_tools(self, tmp_path: Path) -> None:
        row = {
            "instruction": '1. Name: f\nDescription: d\nParameters: {"x": {"type": "float", "default": ""}}',
            "input": "<user> Hi </user>",
            "output": '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"x": "1.0"}}\n</tool_call>',
        }
        [example], _ = run(write(tmp_path / "t.jsonl", row))
        assert example["meta"] == {"warnings": ["wrong type: 'f.x': '1.0' is not of type number"]}

    def test_nan_and_deep_nesting_are_rejected_with_their_text(self, tmp_path: Path) -> None:
        nan = '{"query": "q", "tools": [], "answers": [], "x": NaN}'
        deep = '{"query": "q", "tools": [], "answers": [], "x": ' + "[" * 750 + "]" * 750 + "}"
        too_deep = '{"query": "q", "tools": ' + "[" * 100_000
        examples, summary = run(write(tmp_path / "h.jsonl", nan, deep, too_deep, GOOD))
        assert ids(examples) == ["xlam-h-4"]
        assert summary["sources"]["xlam"]["reasons"] == {"not finite": 1, "nested too deeply": 2}
        assert [row["row"] for row in read(tmp_path / "out.rejects.jsonl")] == [nan, deep, too_deep]

    def test_nan_in_an_array_is_rejected_with_its_text(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text('[{"query": "q", "tools": [], "answers": [], "x": NaN},\n' + json.dumps(GOOD) + "]")
        examples, _ = run(path)
        assert ids(examples) == ["xlam-a-2"]
        [rejected] = read(tmp_path / "out.rejects.jsonl")
        assert (rejected["line"], rejected["row"]) == (1, '{"query": "q", "tools": [], "answers": [], "x": NaN}')

    @pytest.mark.parametrize(
        "answers",
        [
            '[{"name": "weather", "arguments": {"city": "A", "city": "B"}}]',
            json.dumps('[{"name": "weather", "arguments": {"city": "A", "city": "B"}}]'),
            '[{"name": "weather", "arguments": "{\\"city\\": \\"A\\", \\"city\\": \\"B\\"}"}]',
        ],
    )
    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
    def test_a_key_twice_loses_no_value_in_silence(self, tmp_path: Path, answers: str, name: str) -> None:
        twice = f'{{"query": "Rome?", "tools": {json.dumps([TOOL])}, "answers": {answers}}}'
        rows = tmp_path / name
        text = f"{json.dumps(GOOD)}SEP{twice}"
        rows.write_text(f"[{text.replace('SEP', ',')}]" if name == "rows.json" else text.replace("SEP", "\n"))
        for on_invalid in ("reject", "repair"):
            examples, summary = run(rows, on_invalid=on_invalid, overwrite=True)
            assert ids(examples) == ["xlam-rows-1"]
            assert summary["sources"]["xlam"]["reasons"] == {"a key twice": 1}
            (found,) = read(tmp_path / "out.rejects.jsonl")
            assert (found["line"], found["reason"]) == (2, "a key twice: 'city'")

    def test_lone_surrogates_are_rejected_with_their_text(self, tmp_path: Path) -> None:
        broken = {**GOOD, "query": "\ud800"}
        rows = write(tmp_path / "s.jsonl", GOOD, broken, {**GOOD, "query": "\U0001f600"})
        assert ids(run(rows)[0]) == ["xlam-s-1", "xlam-s-3"]
        reason = "not Unicode text: lone surrogate '\\ud800'"
        assert read(tmp_path / "out.rejects.jsonl") == [reject(rows, 2, reason, json.dumps(broken))]

    def test_a_number_too_long_to_decode_is_said_to_be_so(self, tmp_path: Path) -> None:
        _, summary = run(write(tmp_path / "n.jsonl", GOOD, '{"query": ' + "9" * 5000 + "}"))
        assert summary["sources"]["xlam"]["reasons"] == {"a number has over 4300 digits": 1}

    def test_a_row_of_another_source_is_said_to_be_so(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", *[GOOD] * 20, CHAT)
        _, summary = run(rows)
        assert summary["sources"]["xlam"]["reasons"] == {"wrong shape": 1}
        reason = "wrong shape: looks like openai; give the sources as separate files"
        assert read(tmp_path / "out.rejects.jsonl") == [reject(rows, 21, reason, CHAT)]

    def test_bom_and_windows_line_ends_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(GOOD)}\r\n{json.dumps(GOOD)}\r\n".encode())
        assert ids(run(path)[0]) == ["xlam-rows-1", "xlam-rows-2"]

    @pytest.mark.parametrize("text", ["[{row},\n {row}]", "\ufeff\n  [\n{row},{row}]\n", "{row}\n{row}\n"])
    def test_a_json_file_holds_an_array_or_lines(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "rows.json"
        path.write_text(text.replace("{row}", json.dumps(GOOD)), "utf-8")
        assert run(path)[0][0] == EXAMPLE


def reject(path: Path, line: int, reason: str, row: object) -> Json:
    """A line of a rejects file."""
    return {"path": str(path), "line": line, "source": "xlam", "reason": reason, "row": row}


class TestIds:
    def test_files_of_one_stem_do_not_collide(self, tmp_path: Path) -> None:
        files = [write(tmp_path / name, GOOD) for name in ("rows.jsonl", "b/rows.jsonl", "rows.2.jsonl")]
        examples, _ = run(*files, files[0])
        assert ids(examples) == ["xlam-rows-1", "xlam-rows.2-1", "xlam-rows.2.2-1", "xlam-rows.3-1"]

    def test_ids_that_rows_bring_are_made_unique(self, tmp_path: Path) -> None:
        examples, _ = run(write(tmp_path / "e.jsonl", EXAMPLE, EXAMPLE, {**EXAMPLE, "id": "xlam-rows-1.2"}, EXAMPLE))
        assert ids(examples) == ["xlam-rows-1", "xlam-rows-1.2", "xlam-rows-1.2.2", "xlam-rows-1.3"]


class TestOrder:
    def test_limit_stops_reading(self, tmp_path: Path) -> None:
        examples, summary = run(write(tmp_path / "rows.jsonl", GOOD, CHAT, GOOD, GOOD), source="xlam", limit=2)
        assert ids(examples) == ["xlam-rows-1", "xlam-rows-3"]
        assert (summary["rows"], summary["rejected"], summary["examples"]) == (3, 1, 2)

    def test_shuffle_is_decided_by_the_seed_and_comes_before_the_limit(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", *[GOOD] * 20)
        first, _ = run(rows, choice=SHUFFLED, seed=1)
        again, _ = run(rows, choice=SHUFFLED, seed=1, overwrite=True)
        other, _ = run(rows, choice=SHUFFLED, seed=2, overwrite=True)
        some, summary = run(rows, choice=SHUFFLED, seed=1, limit=5, overwrite=True)
        assert first == again != other
        assert sorted(ids(first)) == sorted(ids(other)) == sorted(f"xlam-rows-{n}" for n in range(1, 21))
        assert (some, summary["rows"], summary["examples"]) == (first[:5], 20, 5)


SHUFFLED = Choice(shuffle=True)


class TestRefusals:
    def test_an_unknown_source_name(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="unknown source 'nope'"):
            run(write(tmp_path / "rows.jsonl", GOOD), source="nope")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "rows.jsonl: empty; expected one JSON row a line"),
            ("\n \n", "rows.jsonl: empty; expected one JSON row a line"),
            ("\nquery: Rome\n", "rows.jsonl:2: not JSON; each line must hold one JSON value"),
            ("[1]\n[2]\n", "rows.jsonl:1: a row must be an object, not a list"),
            (
                '{"q": 1, "a": 2}\n',
                r"rows.jsonl: unknown row format \(keys: q, a\); pass --from with one of .*examples",
            ),
            (f"{json.dumps(GOOD)}\n{json.dumps(CHAT)}\n", "rows.jsonl: holds rows of xlam and openai"),
            (
                json.dumps({**GOOD, "query": ""}),
                r"not written, .*; first .*rows.jsonl:1: no user message: query is empty",
            ),
        ],
    )
    def test_a_file_that_gives_nothing(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            run(path)
        assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("{}", "unknown row format (keys: none); pass --from with one of "),
            (json.dumps({"a": {}}, indent=1), "unknown row format (keys: a); pass --from with one of "),
        ],
    )
    def test_a_file_that_is_one_unknown_object(self, tmp_path: Path, content: str, why: str) -> None:
        (tmp_path / "obj.json").write_text(content)
        with pytest.raises(DataError) as error:
            run(tmp_path / "obj.json")
        assert str(error.value) == f"{tmp_path / 'obj.json'}: {why}{', '.join(SOURCES)}"

    def test_a_file_that_is_one_row(self, tmp_path: Path) -> None:
        (tmp_path / "obj.json").write_text(json.dumps(GOOD, indent=1))
        assert ids(run(tmp_path / "obj.json")[0]) == ["xlam-obj-1"]

    def test_a_rejects_file_is_no_input(self, tmp_path: Path) -> None:
        run(write(tmp_path / "rows.jsonl", GOOD, WRONG))
        rejects = tmp_path / "out.rejects.jsonl"
        with pytest.raises(DataError) as error:
            prepare_examples(PrepareConfig(inputs=(rejects,), output=tmp_path / "again.jsonl"))
        assert str(error.value) == f"{rejects}: is a rejects file of prepare; leave it out"

    def test_bytes_that_are_no_text_and_a_cut_off_array(self, tmp_path: Path) -> None:
        (tmp_path / "latin.jsonl").write_bytes(b'{"query": "\xe9"}\n')
        (tmp_path / "cut.json").write_text('[{"query": "a"}, {"que')
        with pytest.raises(DataError, match=r"latin\.jsonl:1: not UTF-8 text"):
            run(tmp_path / "latin.jsonl")
        with pytest.raises(DataError, match=r"cut\.json: not a JSON array"):
            run(tmp_path / "cut.json")

    def test_a_second_array_is_no_silent_loss(self, tmp_path: Path) -> None:
        array = json.dumps([GOOD, GOOD])
        done = toolrl("-", "-o", tmp_path / "out.jsonl", stdin=f"{array}\n{array}")
        assert done.returncode == 1
        assert "-: '[{" in done.stderr
        assert "follows its array of 2 elements; give each array as a file of its own" in done.stderr
        assert not list(tmp_path.iterdir())

    def test_a_missing_second_file_stops_before_any_work(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", GOOD)
        with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
            run(rows, tmp_path / "gone.jsonl")
        assert not (tmp_path / "out.jsonl").exists()

    def test_nothing_is_overwritten_unasked(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", GOOD)
        stale = write(tmp_path / "out.rejects.jsonl", {"old": 1})
        with pytest.raises(ConfigError, match=r"out\.rejects\.jsonl: exists; add --overwrite"):
            run(rows)
        run(rows, overwrite=True)
        assert not stale.exists()
        with pytest.raises(ConfigError, match=r"out\.jsonl: exists; add --overwrite"):
            run(rows)

    def test_own_outputs_and_empty_files_in_a_folder_are_no_inputs(self, tmp_path: Path) -> None:
        folder = tmp_path / "dd"
        write(folder / "rows.jsonl", GOOD, WRONG)
        (folder / "none.jsonl").touch()
        written = []
        for _ in range(2):
            done = toolrl(folder, "-o", folder / "out.jsonl", "--overwrite")
            assert done.returncode == 0, done.stderr
            assert f"{folder / 'none.jsonl'}: empty, left out\n" in done.stderr
            written.append((read(folder / "out.jsonl"), read(folder / "out.rejects.jsonl")))
        assert written[0] == written[1]
        assert ids(written[0][0]) == ["xlam-rows-1"]

    def test_named_rejects_are_written_even_when_there_are_none(self, tmp_path: Path) -> None:
        _, summary = run(write(tmp_path / "rows.jsonl", GOOD), rejects=tmp_path / "bad.jsonl")
        assert (summary["rejects"], (tmp_path / "bad.jsonl").read_text()) == (str(tmp_path / "bad.jsonl"), "")

    def test_examples_and_rejects_in_one_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot share a file"):
            run(write(tmp_path / "rows.jsonl", GOOD), rejects=tmp_path / "out.jsonl")

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", GOOD)
        with pytest.raises(SetupError, match=r"rows\.jsonl/out\.jsonl: cannot create its folder"):
            prepare_examples(PrepareConfig(inputs=(rows,), output=rows / "out.jsonl"))

    @pytest.mark.parametrize("paths", [{"output": "{rows}"}, {"output": "out", "rejects": "{rows}"}])
    def test_an_input_is_never_replaced(self, tmp_path: Path, paths: dict[str, str]) -> None:
        rows = write(tmp_path / "rows.jsonl", GOOD, WRONG)
        before = rows.read_bytes()
        (tmp_path / "link").symlink_to(rows)
        for name in ("rows.jsonl", "link"):
            told = {key: tmp_path / value.format(rows=name) for key, value in paths.items()}
            config = PrepareConfig(inputs=(rows,), overwrite=True, **told)  # type: ignore[arg-type]
            with pytest.raises(ConfigError) as error:
                prepare_examples(config)
            assert str(error.value) == f"{tmp_path / name}: is an input, and would be lost; choose another name"
        assert rows.read_bytes() == before
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
    def test_a_folder_that_cannot_be_written_is_named_with_the_output(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "rows.jsonl", WRONG, GOOD)
        with pytest.raises(SetupError, match=r"^/proc/self/out\.jsonl: cannot write here"):
            prepare_examples(PrepareConfig(inputs=(rows,), output=Path("/proc/self/out.jsonl")))


def test_the_plan_names_sources_and_touches_nothing(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", GOOD)
    config = PrepareConfig(inputs=(rows, Path("-")), output=tmp_path / "new" / "out.jsonl", limit=3)
    shown = plan(config)
    assert (shown.pop("changes")["thought"], shown.pop("choice")["shuffle"]) == ("keep", False)
    assert shown == {
        "inputs": {str(rows): "xlam", "-": "detected while reading"},
        "output": str(tmp_path / "new" / "out.jsonl"),
        "rejects": str(tmp_path / "new" / "out.rejects.jsonl"),
        "on_invalid": "reject",
        "splits": {},
        "limit": 3,
        "seed": 0,
    }
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rejects_that_are_asked_for_are_written_even_when_no_row_converts(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", WRONG, WRONG)
    with pytest.raises(DataError, match="no row could be converted"):
        run(rows, rejects=tmp_path / "why.jsonl")
    assert [reject["line"] for reject in read(tmp_path / "why.jsonl")] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "why.jsonl"]


class TestCommand:
    def test_a_table_and_an_exit_of_0_even_with_rejects(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", GOOD, WRONG)
        done = toolrl("rows.jsonl", "-o", "out.jsonl", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "1 of 2 rows rejected, see out.rejects.jsonl\n")
        cells = [line.strip("│┃").split("│") for line in done.stdout.splitlines() if line.startswith("│")]
        assert [[cell.strip() for cell in row] for row in cells] == [
            ["xlam", "2", "1", "1", "1"],
            ["total", "2", "1", "1", "1"],
        ]
        assert done.stdout.splitlines()[-1] == "xlam: unknown argument  1"
        assert read(tmp_path / "out.jsonl") == [EXAMPLE]
        assert read(tmp_path / "out.rejects.jsonl")[0]["path"] == "rows.jsonl"

    def test_json_is_one_object(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", GOOD)
        done = toolrl("rows.jsonl", "-o", "out.jsonl", "--json", cwd=tmp_path)
        counts = {"rows": 1, "converted": 1, "rejected": 0, "examples": 1}
        sources = {"xlam": {**counts, "reasons": {}, "repairs": {}, "warnings": {}}}
        summary = json.loads(done.stdout)
        assert summary.pop("seconds") > 0 < summary.pop("rows_per_second")
        assert summary == {**counts, "output": "out.jsonl", "rejects": None, "sources": sources}

    def test_a_pipe_reads_stdin_and_writes_stdout(self, tmp_path: Path) -> None:
        stdin = f"{json.dumps(GOOD)}\n{json.dumps(WRONG)}\n"
        done = toolrl("-", "-o", "-", "--json", stdin=stdin, cwd=tmp_path)
        assert done.returncode == 0
        assert [json.loads(line) for line in done.stdout.splitlines()] == [{**EXAMPLE, "id": "xlam-stdin-1"}]
        summary = json.loads(done.stderr)
        assert (summary["rejected"], summary["rejects"]) == (1, None)
        assert list(tmp_path.iterdir()) == []

    def test_a_device_only_checks(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", GOOD, WRONG)
        done = toolrl("rows.jsonl", "-o", "/dev/null", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "1 of 2 rows rejected\n")
        assert Path("/dev/null").is_char_device()
        assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]

    def test_options_come_from_a_file_too(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", WRONG, GOOD, GOOD)
        (tmp_path / "run.yaml").write_text("on-invalid: keep\nlimit: 2\n")
        done = toolrl("rows.jsonl", "-o", "out.jsonl", "--config", "run.yaml", "--limit", 1, cwd=tmp_path)
        assert (done.returncode, ids(read(tmp_path / "out.jsonl"))) == (0, ["xlam-rows-1"])

    def test_a_dry_run_prints_the_plan(self, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", GOOD)
        done = toolrl("rows.jsonl", "-o", "out.jsonl", "--dry-run", cwd=tmp_path)
        assert json.loads(done.stdout)["inputs"] == {"rows.jsonl": "xlam"}
        assert not (tmp_path / "out.jsonl").exists()

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (["gone.jsonl", "-o", "out.jsonl"], 1, "toolrl: gone.jsonl: no such file\n"),
            (
                ["empty", "-o", "out.jsonl"],
                1,
                "toolrl: empty: no data files in this folder (.json, .jsonl, .parquet, .csv)\n",
            ),
            (["rows.jsonl", "-o", "rows.jsonl"], 2, "toolrl: rows.jsonl: is an input, and would be lost"),
            (
                ["rows.jsonl", "-o", "rows.jsonl/out"],
                1,
                "toolrl: rows.jsonl/out: cannot create its folder (rows.jsonl is a file); choose another output\n",
            ),
            (["-", "-", "-o", "out.jsonl"], 2, "toolrl: - given twice; standard input can be read only once\n"),
            (["rows.jsonl", "-o", "out.jsonl", "--from", "xlan"], 2, "toolrl: unknown source 'xlan'; choose from"),
            (["rows.jsonl", "-o", "out.jsonl", "--from", "openai"], 1, "no row could be converted; first rows.jsonl:1"),
            (["rows.jsonl", "-o", "out.jsonl", "--on-invalid", "fix"], 2, "Invalid value for '--on-invalid'"),
            (["rows.jsonl", "-o", "out.jsonl", "--limit", "0"], 2, "Invalid value for '--limit'"),
            (["rows.jsonl"], 2, "Invalid value for --output: needed"),
            (["rows.jsonl", "-o", "out.jsonl.gz"], 2, "toolrl: out.jsonl.gz: what is written is plain JSONL; name it"),
            (["rows.jsonl", "-o", "out.parquet"], 2, "toolrl: out.parquet: what is written is plain JSONL; name it"),
            (["rows.jsonl", "-o", "o", "--rejects", "r.zst"], 2, "toolrl: r.zst: what is written is plain JSONL"),
            (["rows.jsonl", "-o", "o", "--format", "llama3"], 2, "--format: belongs to --show or --tokenizer"),
            (["rows.jsonl", "-o", "o", "--template", "w.jinja"], 2, "--template: belongs to --show or --tokenizer"),
        ],
    )
    def test_a_failure_is_one_line(self, tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
        write(tmp_path / "rows.jsonl", GOOD)
        (tmp_path / "empty").mkdir()
        done = toolrl(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (status, "")
        assert message in done.stderr
        assert status == 2 or done.stderr.count("\n") == 1
        assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "rows.jsonl"]


@needs_data
class TestRealData:
    def test_every_released_row_converts_and_passes_unchanged_through_examples(self, tmp_path: Path) -> None:
        files = tuple(DATA / "toolrl" / name for name in ("rlla_sft.json", "rlla_rl_test.jsonl"))
        first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
        summary = prepare_examples(PrepareConfig(inputs=files, output=first)).to_json()
        assert (summary["rows"], summary["converted"], summary["examples"]) == (480, 480, 480)
        assert len(set(ids(read(first)))) == 480
        prepare_examples(PrepareConfig(inputs=(first,), output=second))
        assert first.read_bytes() == second.read_bytes()

    def test_double_encoded_arguments(self, tmp_path: Path) -> None:
        path = DATA / "openai_cookbook" / "drone_training.excerpt.jsonl"
        prepare_examples(PrepareConfig(inputs=(path,), output=tmp_path / "out.jsonl"))
        calls = [example["target"]["tool_calls"] for example in read(tmp_path / "out.jsonl")]
        takeoff = [{"name": "takeoff_drone", "arguments": {"altitude": 100}}]
        assert calls == [takeoff, takeoff, [{"name": "land_drone", "arguments": {"location": "current"}}]]

    def test_hammer_rows_are_converted_or_rejected_for_a_reason(self, tmp_path: Path) -> None:
        files = tuple(DATA / "hammer" / f"test_original_{name}.json" for name in ("sealtool", "toolalpaca"))
        summary = prepare_examples(PrepareConfig(inputs=files, output=tmp_path / "out.jsonl")).to_json()
        reasons = {"wrong type": 59, "undeclared tool": 6, "missing argument": 4, "broken schema": 1}
        assert (summary["rows"], summary["converted"]) == (408, 338)
        assert summary["sources"]["xlam"]["reasons"] == reasons


@pytest.mark.parametrize(
    ("name", "examples", "reasons"),
    [
        (
            "train-xlam",
            120,
            {"undeclared tool": 1, "tools not JSON": 1, "missing argument": 1, "wrong type": 1, "no user message": 1},
        ),
        (
            "train-openai",
            140,
            {"arguments not JSON": 1, "no user message": 1, "unknown argument": 1, "wrong shape": 1},
        ),
        ("train-toolrl", 120, {"format": 2, "not JSON": 1}),
        ("heldout/heldout", 176, {}),
    ],
)
def test_sample_rows_convert_and_their_dirt_is_rejected(
    tmp_path: Path, name: str, examples: int, reasons: dict[str, int]
) -> None:
    config = PrepareConfig(inputs=(SAMPLES / f"{name}.jsonl",), output=tmp_path / "out.jsonl")
    summary = prepare_examples(config).to_json()
    [counts] = summary["sources"].values()
    assert (counts["examples"], counts["reasons"], counts["warnings"]) == (examples, reasons, {})
