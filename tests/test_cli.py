"""The command line as a user meets it: help, exit statuses, errors, options and configuration files."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from toolrl_cli import __version__
from toolrl_cli.cli import COMMANDS, app, load_command
from toolrl_cli.commands.options import SETTINGS, parse_settings, takes
from toolrl_cli.errors import ConfigError, GateFailed, Terminated, TrainingStopped
from toolrl_cli.training.config import GrpoConfig, SftConfig

HEAVY = ["torch", "transformers", "datasets", "trl", "peft", "pydantic", "rich", "yaml", "jinja2", "numpy"]
HELPS = [["--help"], *([command, "--help"] for command in COMMANDS)]
SAMPLES = Path(__file__).parents[1] / "data_samples"
EXACT = {
    "completion": '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>',
    "target": {"thought": "t", "tool_calls": [{"name": "f", "arguments": {}}], "response": None},
}


def python(*words: object, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python away from any terminal."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, input=stdin, capture_output=True, encoding="utf-8", env=environment, timeout=60, check=False
    )


def toolrl(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "toolrl_cli", *words, **environment)


class TestHelp:
    @pytest.mark.parametrize("words", HELPS, ids=" ".join)
    def test_it_is_printed_and_loads_nothing_heavy(self, words: list[str]) -> None:
        code = (
            "import sys\n"
            "from toolrl_cli.cli import app\n"
            "try:\n    app(prog_name='toolrl')\n"
            f"finally:\n    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
        )
        done = python("-c", code, *words)
        assert (done.returncode, done.stderr) == (0, "[]\n")
        assert done.stdout.startswith(" ".join(["Usage: toolrl", *words[:-1]]) + " [OPTIONS]")

    @pytest.mark.slow
    def test_it_comes_quickly(self) -> None:
        """Each takes at most 1.6 times as long as importing Typer, the list of all commands 1.8 times.

        The best of 7 rounds counts, of more on a busy machine. Processor time stands for the clock, since other
        processes change it less.
        """
        commands = [["-c", "import typer"], *(["-m", "toolrl_cli", *words] for words in HELPS)]
        limits = [1.0, 1.8, *[1.6] * len(COMMANDS)]
        best = [float("inf")] * len(commands)
        for done in range(1, 22):
            best = [min(known, processor_time(command)) for known, command in zip(best, commands, strict=True)]
            slow = [time for time, limit in zip(best, limits, strict=True) if time > limit * best[0]]
            if done >= 7 and not slow:
                return
        assert not slow, best

    @pytest.mark.parametrize("words", HELPS[:3], ids=" ".join)
    def test_the_script_and_the_module_are_the_same(self, words: list[str]) -> None:
        script = Path(sys.executable).with_name("toolrl")
        if not script.exists():
            pytest.skip("toolrl is not installed as a script here")
        done = subprocess.run([script, *words], capture_output=True, encoding="utf-8", timeout=60)
        assert (done.returncode, done.stdout) == (0, toolrl(*words).stdout)

    @pytest.mark.parametrize(("command", "config"), [("sft", SftConfig), ("grpo", GrpoConfig)])
    def test_it_words_every_field_of_the_configuration(self, command: str, config: type) -> None:
        words = " ".join(toolrl(command, "--help").stdout.split())
        for name, hint in get_type_hints(config, include_extras=True).items():
            option = ({"data": "data <path>"} | SETTINGS).get(name, f"--{name.replace('_', '-')}")
            assert option in words
            assert get_args(hint)[1] in words
        shown = {option.lstrip("-").replace("-", "_") for option in re.findall(r"(?<=[ ,])--[a-z-]+", words)}
        renamed = {name: option.lstrip("-").replace("-", "_") for name, option in SETTINGS.items()}
        own = {renamed.get(field.name, field.name) for field in fields(config)} - {"data"}
        assert own | {"json", "config", "debug", "help"} <= shown


def processor_time(words: list[str]) -> float:
    """Seconds of processor time that a process of this Python takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class TestUsage:
    def test_version(self) -> None:
        done = toolrl("--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"toolrl {__version__}\n", "")

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["scor"], "Error: No such command 'scor'. Did you mean 'score'?"),
            (["--nosuch"], "Error: No such option: --nosuch"),
            (["score", "x", "--nosuch"], "Error: No such option: --nosuch"),
            (["score"], "Error: Missing argument 'data'."),
            (["score", "x", "y"], "Error: Got unexpected extra argument(s) (y)"),
            (["sft", "x", "--model", "m", "-o", "o", "--limit", "few"], "Error: Invalid value for '--limit'"),
            (["sft", "x", "--model", "m", "-o", "o", "--tuning", "half"], "Error: Invalid value for '--tuning'"),
        ],
        ids=lambda words: " ".join(words) if isinstance(words, list) else "",
    )
    def test_what_is_not_understood(self, words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            app(words, prog_name="toolrl")
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out) == (2, "")
        assert printed.err.startswith("Usage: toolrl")
        assert printed.err.splitlines()[-1].startswith(error)

    def test_no_words_at_all(self) -> None:
        done = toolrl()
        assert (done.returncode, done.stdout) == (2, "")
        assert all(f"\n  {command} " in done.stderr for command in COMMANDS)


def test_whether_a_path_can_be_read_is_never_a_usage_error() -> None:
    """Typer would end with status 2 where the commands say in one line what is wrong."""
    params: list[tuple[str, Any]] = [(name, param) for name in COMMANDS for param in load_command(name).params]
    paths = [
        (name, param.name, param.type_descriptor.parameter_info.readable)
        for name, param in params
        if "Path" in str(param.type_descriptor.annotation)
    ]
    assert len(paths) >= 15
    assert [path for path in paths if path[2]] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
@pytest.mark.parametrize("words", ["score {}", "prepare {} -o -", "prepare - -o - --config {}"])
def test_a_file_that_cannot_be_read(words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    path.chmod(0)
    done = toolrl(*words.format(path).split())
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"toolrl: {path}: permission denied\n")


class TestErrors:
    def test_one_line_and_status_1(self) -> None:
        done = toolrl("score", "none.jsonl")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "toolrl: none.jsonl: no such file\n")

    def test_the_traceback_comes_when_asked_for(self) -> None:
        done = toolrl("score", "none.jsonl", "--debug")
        first, *_, error, last = done.stderr.splitlines()
        assert (done.returncode, done.stdout, first) == (1, "", "Traceback (most recent call last):")
        assert error == "toolrl_cli.errors.DataError: none.jsonl: no such file"
        assert last == "toolrl: none.jsonl: no such file"

    @pytest.mark.parametrize(
        ("failure", "status", "told"),
        [
            (
                ZeroDivisionError("division by zero"),
                1,
                "toolrl: internal error: ZeroDivisionError: division by zero; "
                "run again with --debug for the traceback\n",
            ),
            (
                RuntimeError("two\nlines"),
                1,
                "toolrl: internal error: RuntimeError: two lines; run again with --debug for the traceback\n",
            ),
            (EOFError(), 1, "toolrl: internal error: EOFError; run again with --debug for the traceback\n"),
            (OSError(28, "No space left on device"), 1, "toolrl: system: No space left on device\n"),
            (PermissionError(13, "Permission denied", "a.json"), 1, "toolrl: a.json: Permission denied\n"),
            (
                ModuleNotFoundError("no", name="torch.nn"),
                1,
                "toolrl: torch is not installed; run: python -m pip install -c constraints.txt -e '.[train]'\n",
            ),
            (
                ModuleNotFoundError("no", name="liger_kernel.ops"),
                1,
                "toolrl: liger_kernel is not installed; run: python -m pip install liger_kernel\n",
            ),
            (
                ModuleNotFoundError("no jinja2", name="jinja2"),
                1,
                "toolrl: no jinja2; reinstall with the pinned versions of constraints.txt\n",
            ),
            (
                ImportError("no x in y", name="y"),
                1,
                "toolrl: no x in y; reinstall with the pinned versions of constraints.txt\n",
            ),
            (GateFailed("too low"), 3, "toolrl: too low\n"),
            (TrainingStopped("run: why"), 4, "toolrl: run: why\n"),
            (KeyboardInterrupt(), 130, "interrupted\n"),
            (Terminated(), 143, "interrupted\n"),
            (typer.Exit(5), 5, ""),
        ],
    )
    def test_every_failure_inside_a_command(
        self,
        failure: BaseException,
        status: int,
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(*words: object, **options: object) -> None:
            raise failure

        monkeypatch.setattr("toolrl_cli.scoring.run.score_file", fail)
        for stream in ("stdout", "stderr"):  # Typer wraps them after a broken pipe
            monkeypatch.setattr(sys, stream, getattr(sys, stream))
        with pytest.raises(SystemExit) as stop:
            app(["score", "rows.jsonl"], prog_name="toolrl")
        assert (stop.value.code, *capsys.readouterr()) == (status, "", told)

    def test_an_internal_error_in_full(self) -> None:
        code = (
            "from toolrl_cli.scoring import run; run.score_file = None\n"
            "from toolrl_cli.cli import app; app(prog_name='toolrl')"
        )
        lines = python("-c", code, "score", "rows.jsonl", "--debug").stderr.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-2] == "TypeError: 'NoneType' object is not callable"
        assert lines[-1].startswith("toolrl: internal error: TypeError: 'NoneType' object is not callable; ")


class TestStreams:
    @pytest.mark.parametrize("workers", ["1", "2"])
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_leaves_nothing_half_written(
        self, tmp_path: Path, number: signal.Signals, status: int, workers: str
    ) -> None:
        pipe, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
        os.mkfifo(pipe)
        command = [sys.executable, "-m", "toolrl_cli", "score", str(pipe), "-o", str(out), "--workers", workers]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with pipe.open("w", encoding="utf-8") as stream:  # opens once the command reads
            stream.write(json.dumps(EXACT) + "\n")
            stream.flush()
            process.send_signal(number)
            printed = process.communicate(timeout=60)
        assert (process.returncode, printed) == (status, ("", "interrupted\n"))
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]

    @pytest.mark.parametrize(
        ("words", "status"),
        [
            ("score {} -o -", 141),
            ("prepare {} -o -", 141),
            ("score {} --json", 0),
            ("score {}", 0),
            ("score {} --explain", 0),
            ("score {} --fail-under 99", 3),
            ("score --help", 141),
        ],
    )
    def test_a_reader_that_has_gone(self, words: str, status: int, tmp_path: Path) -> None:
        done = into(closed_pipe(), words, tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (status, int(status == 3))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("score {}", "standard output: Bad file descriptor"),
            ("score {} --json", "standard output: Bad file descriptor"),
            ("score {} -o -", "system: Bad file descriptor"),
            ("prepare {} -o -", "system: Bad file descriptor"),
            ("audit robust --limit 1", "standard output: Bad file descriptor"),
            ("--version", "standard output: Bad file descriptor"),
        ],
    )
    @pytest.mark.slow
    def test_a_result_that_goes_nowhere(self, words: str, told: str, tmp_path: Path) -> None:
        done = closing(">&-", words, tmp_path)
        assert (done.returncode, done.stderr) == (1, f"toolrl: {told}\n")
        assert closing(">&- 2>&-", words, tmp_path).returncode == 1

    @pytest.mark.parametrize(("words", "status"), [("score {} --json", 0), ("score {} --fail-under 99 --json", 3)])
    def test_nowhere_to_complain(self, words: str, status: int, tmp_path: Path) -> None:
        done = closing("2>&-", words, tmp_path)
        assert (done.returncode, json.loads(done.stdout)["n"]) == (status, 1)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    @pytest.mark.parametrize("words", ["score {} -o -", "prepare {} -o -"])
    def test_a_full_disk(self, words: str, tmp_path: Path) -> None:
        done = into(os.open("/dev/full", os.O_WRONLY), words, tmp_path)
        assert (done.returncode, done.stderr) == (1, "toolrl: system: No space left on device\n")

    def test_stdout_holds_the_rows_and_nothing_else(self, tmp_path: Path) -> None:
        source = SAMPLES / "train-xlam.jsonl"
        piped = toolrl("prepare", source, "-o", "-", "--limit", "3")
        filed = toolrl("prepare", source, "-o", tmp_path / "out.jsonl", "--limit", "3", "--json", FORCE_COLOR="1")
        assert (piped.returncode, filed.returncode) == (0, 0)
        assert piped.stdout == (tmp_path / "out.jsonl").read_text("utf-8")
        assert len(piped.stdout.splitlines()) == 3
        assert (json.loads(filed.stdout)["examples"], filed.stderr) == (3, "")


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def into(descriptor: int, words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run toolrl on rows that it can score or prepare, with this standard output, buffered as is usual."""
    command = command_on_rows(words, folder)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        return subprocess.run(
            command, stdout=descriptor, stderr=subprocess.PIPE, encoding="utf-8", env=buffered, timeout=60, check=False
        )
    finally:
        os.close(descriptor)


def closing(streams: str, words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run toolrl on such rows with streams closed, as a shell writes it."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", *command_on_rows(words, folder)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)


def command_on_rows(words: str, folder: Path) -> list[str]:
    """The command line of toolrl on rows that it can score or prepare."""
    rows = folder / "rows.jsonl"
    if words.startswith("prepare"):
        rows.write_text((SAMPLES / "train-xlam.jsonl").read_text("utf-8"), "utf-8")
    else:
        rows.write_text(json.dumps(EXACT) + "\n", "utf-8")
    return [sys.executable, "-m", "toolrl_cli", *words.format(rows).split()]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration with a field of every kind that the commands use."""

    output: Annotated[Path, "Where to write."]
    data: Annotated[Path, "What to read."]
    kind: Annotated[Literal["small", "large"], "Which one."] = "small"
    learning_rate: Annotated[float, "How fast."] = 0.5
    limit: Annotated[int | None, "How many."] = None
    overrides: Annotated[dict[str, Any], "Anything else."] = field(default_factory=dict)
    dry_run: Annotated[bool, "Only look."] = False


Run = Callable[..., tuple[Settings, bool]]


@pytest.fixture
def run() -> Run:
    """Runs a command of `Settings` in this process and returns what it was given."""

    def run_command(*words: object) -> tuple[Settings, bool]:
        given: list[tuple[Settings, bool]] = []
        maker = typer.Typer(rich_markup_mode=None)
        maker.command("make")(takes(Settings)(lambda settings, as_json: given.append((settings, as_json))))
        result = CliRunner().invoke(maker, [*map(str, words)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert given, result.output
        return given[0]

    return run_command


PLAIN = Settings(data=Path("in"), output=Path("out"))


class TestOptions:
    def test_defaults(self, run: Run) -> None:
        assert run("in", "--output", "out") == (PLAIN, False)

    def test_every_option(self, run: Run) -> None:
        words = "in -o out --kind large --learning-rate 1e-3 --limit 5 --set a=1 --set b=x --dry-run --json --debug"
        settings = Settings(
            data=Path("in"),
            output=Path("out"),
            kind="large",
            learning_rate=0.001,
            limit=5,
            overrides={"a": 1, "b": "x"},
            dry_run=True,
        )
        assert run(*words.split()) == (settings, True)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", 1),
            ("1e-6", 1e-6),
            ("-2.5", -2.5),
            ("true", True),
            ("null", None),
            ("", None),
            ("cosine", "cosine"),
            ("[1, a]", [1, "a"]),
            ("{b: 1}", {"b": 1}),
            ("a=b", "a=b"),
            ("'quoted text'", "quoted text"),
            ("2024-01-31", "2024-01-31"),
            ("@home", "@home"),
            ("[", "["),
        ],
    )
    def test_a_setting(self, text: str, value: object) -> None:
        [(key, parsed)] = parse_settings([f"key={text}"], "--set").items()
        assert (key, parsed, type(parsed)) == ("key", value, type(value))

    @pytest.mark.parametrize("setting", ["", "a", "=1"])
    def test_a_setting_without_key_or_value(self, setting: str) -> None:
        with pytest.raises(ConfigError) as error:
            parse_settings([setting], "--set")
        assert str(error.value) == f"--set {setting}: must read key=value"


class TestConfigFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "run.yaml"

    def test_it_gives_values_and_the_command_line_wins(self, run: Run, file: Path) -> None:
        file.write_text(
            "data: in\noutput: out\nlearning-rate: 1e-3\nkind: large\nlimit: 5\ndry-run: true\njson: true\nset: [a=1]\n"
        )
        settings = Settings(
            data=Path("in"),
            output=Path("out"),
            kind="large",
            learning_rate=0.001,
            limit=5,
            overrides={"a": 1},
            dry_run=True,
        )
        assert run("--config", file) == (settings, True)
        told, _ = run("other", "--config", file, "--limit", "6", "--kind", "small", "--set", "b=2")
        assert (told.data, told.limit, told.kind, told.overrides) == (Path("other"), 6, "small", {"b": 2})
        assert (told.output, told.learning_rate) == (Path("out"), 0.001)

    @pytest.mark.parametrize(
        ("text", "overrides"),
        [
            ("set: a=1", {"a": 1}),
            ("set: [a=1, b=x]", {"a": 1, "b": "x"}),
            (
                "set: {a: 1e-6, b: [1, 'é'], c: {d: null}, e: no}",
                {"a": 1e-6, "b": [1, "é"], "c": {"d": None}, "e": False},
            ),
            ("set: {}", {}),
            ("set:", {}),
        ],
    )
    def test_settings(self, run: Run, file: Path, text: str, overrides: dict[str, Any]) -> None:
        file.write_text(text, "utf-8")
        assert run("in", "-o", "out", "--config", file)[0].overrides == overrides

    def test_null_is_as_if_left_out(self, run: Run, file: Path) -> None:
        file.write_text("limit: null\nkind:\n")
        assert run("in", "-o", "out", "--config", file) == (PLAIN, False)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"learning_rte: 1\n", ": no option 'learning_rte' in toolrl make; did you mean 'learning-rate'?"),
            (b"dry_rn: true\n", ": no option 'dry_rn' in toolrl make; did you mean 'dry-run'?"),
            (b"overrides: [a=1]\n", ": no option 'overrides' in toolrl make"),
            (b"o: out\n", ": no option 'o' in toolrl make"),
            (b"zzz: 1\n", ": no option 'zzz' in toolrl make"),
            (b"config: other.yaml\n", ": no option 'config' in toolrl make"),
            (b"1: 2\n", ": no option 1 in toolrl make"),
            (b"limit: few\n", ": limit: Input should be a valid integer, unable to parse string as an integer"),
            (b"limit: true\n", ": limit: Input should be a valid integer, unable to parse string as an integer"),
            (b"limit: [1, 2]\n", ": limit: Input should be a valid integer"),
            (b"dry-run: perhaps\n", ": dry-run: Input should be a valid boolean, unable to interpret input"),
            (b"kind: huge\n", ": kind: Value error, 'huge' is not one of 'small', 'large'."),
            (b"a: 1\nb: [1\n", ":3: not YAML (expected ',' or ']', but got '<stream end>')"),
            (b"a: \x00\n", ": not YAML (unacceptable character #x0000: special characters are not allowed)"),
            (b"a: \xff\n", ": not UTF-8 text"),
            (b"", ": must hold a mapping of names to values"),
            (b"- a\n", ": must hold a mapping of names to values"),
            (None, ": no such file"),
        ],
        ids=range(18),
    )
    def test_a_fault_is_one_line(self, file: Path, content: bytes | None, why: str, run: Run) -> None:
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(Exception) as error:  # the group's handler prints it, whatever its class
            run("in", "-o", "out", "--config", file)
        assert str(error.value) == f"{file}{why}"

    def test_in_a_command(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text(
            json.dumps(
                {"inputs": [str(SAMPLES / "train-xlam.jsonl")], "output": str(tmp_path / "out.jsonl"), "limit": 2}
            )
        )
        done = toolrl("prepare", "--config", tmp_path / "run.yaml", "--json")
        assert (done.returncode, json.loads(done.stdout)["examples"], done.stderr) == (0, 2, "")
        for name in ("source", "as_json"):
            (tmp_path / "bad.yaml").write_text(f"{name}: xlam\n")
            done = toolrl("prepare", "--config", tmp_path / "bad.yaml")
            assert (done.returncode, f"no option {name!r} in toolrl prepare" in done.stderr) == (1, True)
        (tmp_path / "bad.yaml").write_text("limti: 2\n")
        done = toolrl("prepare", "--config", tmp_path / "bad.yaml")
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr
            == f"toolrl: {tmp_path / 'bad.yaml'}: no option 'limti' in toolrl prepare; did you mean 'limit'?\n"
        )
