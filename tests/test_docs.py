"""Every command line and every option that the documentation shows exists, and the cheap ones are run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from toolrl_cli.cli import COMMANDS, app, load_command
from toolrl_cli.prepare import PrepareConfig, prepare_examples

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (toolrl .*)$", re.MULTILINE)
SPAN = re.compile(r"`((?:toolrl |--|-\w)[^`\n]+)`")
PLACEHOLDER = re.compile(r"\.\.\.|<\w+>|…")
GROUP: Any = get_command(app)
LOADED = {name: load_command(name) for name in COMMANDS}
GOLD = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'


def shell_lines(page: Path) -> list[str]:
    """The lines of shell blocks in which toolrl is called, without prompts and joined where they continue."""
    text = page.read_text("utf-8")
    blocks = "\n".join([*FENCED.findall(text), *INDENTED.findall(text)]).replace("\\\n", " ")
    lines = [line.removeprefix("$ ").strip() for line in blocks.splitlines()]
    return [line for line in lines if toolrl_calls(line) and not PLACEHOLDER.search(line)]


def toolrl_calls(line: str) -> list[list[str]]:
    """The arguments of each toolrl of a shell line, redirections left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in ("<", ">", ">>"):
            next(words)
        elif set(word) <= set("|&;"):
            calls.append([])
        else:
            calls[-1].append(word)
    return [call[1:] for call in calls if call[:1] == ["toolrl"]]


def options_of(command: str) -> list[str]:
    """The options of a command in each spelling; those of the group where an option stands for it."""
    params = (GROUP if command.startswith("-") else LOADED[command]).params
    return [option for param in params for option in (*param.opts, *param.secondary_opts)]


ALL_OPTIONS = {option for command in LOADED for option in options_of(command)}
LINES = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in shell_lines(page)]
CHEAP = [line for line in LINES if all(call[0] in ("prepare", "score") for call in toolrl_calls(str(line.values[0])))]
SPANS = sorted({(page.name, span) for page in PAGES for span in SPAN.findall(page.read_text("utf-8"))})


def test_the_readme_shows_every_command() -> None:
    shown = {call[0] for line in shell_lines(PAGES[0]) for call in toolrl_calls(line)}
    assert shown == set(LOADED)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_understood(line: str) -> None:
    for name, *arguments in toolrl_calls(line):
        LOADED[name].make_context(name, arguments)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data as examples."""
    path = tmp_path_factory.mktemp("examples") / "examples.jsonl"
    inputs = tuple(sorted((ROOT / "data_samples").glob("*.jsonl")))
    prepare_examples(PrepareConfig(inputs=inputs, output=path))
    return path


@pytest.mark.parametrize("line", CHEAP)
def test_a_cheap_command_line_runs(line: str, tmp_path: Path, examples: Path) -> None:
    prepare_folder(tmp_path)
    shutil.copy(ROOT / "toolrl_cli" / "formats" / "templates" / "toolrl.jinja", tmp_path / "wording.jinja")
    if "-o examples.jsonl" not in line and "> examples.jsonl" not in line:
        shutil.copy(examples, tmp_path / "examples.jsonl")
    if "-o mixed.jsonl" not in line:
        shutil.copy(examples, tmp_path / "mixed.jsonl")
    if "--extract-template" in line:
        (tmp_path / "wording.jinja").unlink()
    script = f'toolrl() {{ {shlex.quote(sys.executable)} -m toolrl_cli "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, re.findall(r"^toolrl: .*|Traceback", done.stderr, re.MULTILINE)) == (0, [])


def prepare_folder(folder: Path) -> None:
    """What the lines read: the sample data, rows of it, and scored completions, most of them good."""
    shutil.copytree(ROOT / "data_samples", folder / "data_samples")
    shutil.copy(ROOT / "data_samples" / "train-xlam.jsonl", folder / "rows.jsonl")
    shutil.copy(ROOT / "data_samples" / "train-toolrl.jsonl", folder / "rlla_sft.json")
    target = {"thought": "t", "tool_calls": [{"name": "f", "arguments": {}}], "response": None}
    texts = [GOLD] * 9 + ["<tool_call>f()</tool_call>"]
    rows = "".join(json.dumps({"id": "1", "completion": text, "target": target}) + "\n" for text in texts)
    for path in (folder / "completions.jsonl", folder / "runs" / "grpo" / "completions.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows, "utf-8")


@pytest.mark.parametrize(("page", "span"), [pytest.param(*span, id=": ".join(span)) for span in SPANS])
def test_an_option_in_the_text_exists(page: str, span: str) -> None:
    words = span.split()
    known = {*options_of(words[1]), "--help"} if words[0] == "toolrl" else ALL_OPTIONS
    assert [word for word in words if word.startswith("-") and word != "-" and word not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
