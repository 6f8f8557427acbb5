"""Templates that word the toolrl format: a file in place of ours, and the one that the rows of a data set share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, write_lines
from test_sources import DATA, needs_data, real_rows

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.formats import find_format
from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.formats.tools import describe_tool
from toolrl_cli.manifest import Manifest
from toolrl_cli.records import Json
from toolrl_cli.sources.extraction import extract_template
from toolrl_cli.sources.registry import find_source
from toolrl_cli.sources.toolrl import read_texts
from toolrl_cli.training.text_format import TEMPLATE_FILE, choose_format

PING: Json = {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}}


class TestTemplate:
    def test_it_words_the_system_message_and_the_heading(self) -> None:
        text_format = ToolrlFormat(
            '{% set history_heading = "So far:" %}\nTools{% for tool in tools %} {{ tool.name }}{% endfor %}'
        )
        messages = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Own."}]
        assert text_format.render_prompt([PING, PING], messages).messages == [
            {"role": "system", "content": "Tools ping ping\n\nOwn."},
            {"role": "user", "content": "So far:\n<user> Hi </user>"},
        ]

    def test_without_a_heading_the_history_begins_at_once(self) -> None:
        text_format = ToolrlFormat('{% set history_heading = "" %}')
        assert text_format.render_history([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) == (
            "<user> a </user>\n\n<user> b </user>"
        )

    def test_what_it_may_show_of_a_tool(self) -> None:
        properties = {
            "a": {"type": "number", "default": 1, "x-type": "float"},
            "b": {"description": "é", "type": "array", "items": {"type": "integer"}, "x-type": "List[int]"},
            "c": {"description": "d", "x-type": "Callable"},
            "d": True,
        }
        schema = {"type": "object", "properties": properties, "required": ["b", "c", "d"]}
        plain = {
            "a": {"type": "number", "default": 1},
            "b": {"description": "é", "type": "array", "items": {"type": "integer"}},
            "c": {"description": "d", "x-type": "Callable"},
            "d": True,
        }
        assert describe_tool({"name": "f", "parameters": schema}) == {
            "name": "f",
            "description": "",
            "parameters": '{"a": {"type": "number", "default": 1}, "b": {"description": "é", "type": "array", '
            '"items": {"type": "integer"}}, "c": {"description": "d", "x-type": "Callable"}, "d": true} (optional: a)',
            "properties": {
                "a": {"type": "float", "default": 1},
                "b": {"description": "é", "type": "List[int]"},
                "c": {"description": "d", "type": "Callable"},
                "d": True,
            },
            "filled": {
                "a": {"description": "", "type": "float", "default": 1},
                "b": {"description": "é", "type": "List[int]", "default": ""},
                "c": {"description": "d", "type": "Callable", "default": ""},
                "d": True,
            },
            "schema": {"type": "object", "properties": plain, "required": ["b", "c", "d"]},
        }

    def test_its_text_is_in_the_digest(self, tmp_path: Path) -> None:
        (tmp_path / "a.jinja").write_text("a", "utf-8")
        found = find_format("toolrl", tmp_path / "a.jinja")
        assert found.template == "a"
        assert found.digest == ToolrlFormat("a").digest
        assert len({found.digest, ToolrlFormat("b").digest, ToolrlFormat().digest}) == 3

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            ("{% for", "cannot be read: "),
            ("{{ nothing }}", "cannot be rendered: 'nothing' is undefined"),
            ("{{ tools[0].name.colour }}", "cannot be rendered: "),
            ("{{ 1 / 0 }}", "cannot be rendered: division by zero"),
            ("{{ tools.__class__.__base__.__subclasses__() }}", "cannot be rendered: access to attribute '__class__'"),
            ("{{ tools.append(1) }}", "cannot be rendered: "),
            ("{% for i in range(10**9) %}{% endfor %}", "cannot be rendered: Range too big"),
            ("{% include '/etc/passwd' %}", "cannot be rendered: no loader for this environment specified"),
        ],
    )
    def test_one_that_fails_or_wants_out_of_its_sandbox(self, source: str, why: str, tmp_path: Path) -> None:
        path = tmp_path / "t.jinja"
        path.write_text(source, "utf-8")
        with pytest.raises(ConfigError) as error:
            find_format("toolrl", path)
        assert str(error.value).startswith(f"{path}: the prompt template {why}")

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "latin").write_bytes(b"\xe9")
        for name in ("gone", "latin"):
            with pytest.raises(ConfigError, match="cannot be read"):
                find_format("toolrl", tmp_path / name)

    def test_it_is_for_the_toolrl_format(self) -> None:
        with pytest.raises(ConfigError, match=r"t\.jinja: a template words the toolrl format, and the hermes format"):
            find_format("hermes", Path("t.jinja"))


def toolrl_row(opening: str, closing: str, tools: str, history: str = "**H**\n<user> Hi </user>") -> Json:
    return {"instruction": opening + tools + closing, "input": history, "output": "<think> t </think>"}


def prompt_of(template: str, row: Json) -> tuple[str, str]:
    [example] = find_source("toolrl").convert(row, "r")
    system, user = ToolrlFormat(template).render_prompt(example.tools, example.messages).messages
    return system["content"], user["content"]


ONE = '1. Name: f\nDescription: d\nParameters: {"a": {"type": "str"}}'
TWO = ONE + '\n2. Name: g h\nDescription: \nParameters: {"b": {"description": "é", "type": "List[int]", "default": 2}}'


class TestExtraction:
    @pytest.mark.parametrize(
        ("opening", "closing", "between"),
        [
            ("Tools:\n", "\n\nRules.", "\n"),
            ("", "", "\n"),
            ("\n", "\n", "\n\n"),
            ("{{ a }} {% b %} {# c #} {{% raw %} \r\n {", "{\n{% endraw %}\r\n{", "\n \n"),
        ],
    )
    def test_the_wording_around_the_tools(self, opening: str, closing: str, between: str) -> None:
        opening += "\n" if opening and not opening.endswith("\n") else ""
        rows = [toolrl_row(opening, closing, TWO.replace("\n2.", between + "2.")), toolrl_row(opening, closing, ONE)]
        template = extract_template(rows)
        for row in rows:
            assert prompt_of(template, row) == (row["instruction"], row["input"])

    @pytest.mark.parametrize(
        "parameters",
        [
            '{"a": {"description": "\\u00e9", "type": "str, optional", "default": ""}}',
            '{"a": {"description": "é", "type": "float", "default": ""}}',
            '{"a": {"type": "List[int]"}}',
            '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}',
            '{"a": {"type": "string"}, "b": {"type": "integer", "default": 1}} (optional: b)',
        ],
    )
    def test_the_wording_of_the_parameters(self, parameters: str) -> None:
        row = toolrl_row("Tools:\n", "\nRules.", f"1. Name: f\nDescription: d\nParameters: {parameters}")
        if parameters.endswith(")"):
            row["instruction"] = row["instruction"].replace("\nRules.", "")
        assert prompt_of(extract_template([row]), row) == (row["instruction"], row["input"])

    @pytest.mark.parametrize("heading", ["", "**So far**\n", "**A \\ \" 'é'**\n"])
    def test_the_heading_of_the_history(self, heading: str) -> None:
        row = toolrl_row("", "", ONE, heading + "<user> Hi </user>\n\n<think> t </think>\n\n<user> So? </user>")
        assert prompt_of(extract_template([row]), row) == (row["instruction"], row["input"])

    def test_rows_that_share_none(self) -> None:
        rows = [toolrl_row("B\n", "", ONE), toolrl_row("A\n", "", TWO), toolrl_row("A\n", "", ONE)]
        with pytest.raises(DataError) as error:
            extract_template(rows)
        assert str(error.value) == (
            "the rows share no template: 1 of 3 examples are worded in another way than the others; example 1: "
            '\'B\\n1. Name: f\\nDescription: d\\nParameters: {"a": {"type": "str"}}\' stands where '
            '\'A\\n1. Name: f\\nDescription: d\\nParameters: {"a": {"type": "str"}}\' was expected'
        )

    def test_rows_without_examples(self) -> None:
        with pytest.raises(DataError, match="no row of the toolrl source gives an example"):
            extract_template([{"query": "q"}, {"instruction": 1}])

    @needs_data
    def test_every_real_row_renders_back_byte_for_byte(self) -> None:
        rows: list[Any] = []
        for name in ("rlla_sft.json", "rlla_rl_test.jsonl"):
            rows += real_rows(DATA / "toolrl" / name)
        template = extract_template(rows)
        assert [prompt_of(template, row) for row in rows] == [read_texts(row)[:2] for row in rows]
        assert len(rows) == 480


class TestChoice:
    def test_a_run_keeps_its_format_and_its_template(self, tmp_path: Path) -> None:
        assert choose_format(None).name == choose_format("no-such-run").name == "toolrl"
        Manifest.create("sft", {}, seed=0, format="hermes", hashes={}).write(tmp_path)
        assert choose_format(str(tmp_path)).name == "hermes"
        assert choose_format(str(tmp_path), "llama3").name == "llama3"
        Manifest.create("sft", {}, seed=0, format="toolrl", hashes={}).write(tmp_path)
        assert choose_format(str(tmp_path)).digest == ToolrlFormat().digest
        (tmp_path / TEMPLATE_FILE).write_text("a", "utf-8")
        assert choose_format(str(tmp_path)).digest == ToolrlFormat("a").digest

    def test_native_needs_a_model(self) -> None:
        with pytest.raises(
            ConfigError, match=r"name the model \(--model, in prepare --tokenizer\), or give hermes or llama3"
        ):
            choose_format(None, "native")

    def test_native_is_refused_where_the_chat_template_knows_no_tools(self, tiny_model: Path) -> None:
        pytest.importorskip("transformers")
        with pytest.raises(ConfigError, match="shows no tools; use --format toolrl"):
            choose_format(str(tiny_model), "native")

    @pytest.mark.slow
    def test_a_trained_run_is_evaluated_with_the_template_of_its_training(
        self, toolrl: Any, tiny_model: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("trl")
        write_lines(tmp_path / "ex.jsonl", EXAMPLES)
        (tmp_path / "t.jinja").write_text("Answer.", "utf-8")
        sft = ("sft", "ex.jsonl", "--model", tiny_model, "-o", "run", "--max-steps", 1, "--template", "t.jinja")
        assert toolrl(*sft, cwd=tmp_path).returncode == 0
        assert (tmp_path / "run" / TEMPLATE_FILE).read_text("utf-8") == "Answer."
        (tmp_path / "t.jinja").unlink()
        words = (
            "eval",
            "--bench",
            "examples",
            "--data",
            "ex.jsonl",
            "--model",
            "run",
            "-o",
            "out",
            "--dry-run",
            "--json",
        )
        planned = toolrl(*words, cwd=tmp_path)
        assert (planned.returncode, ToolrlFormat("Answer.").digest in planned.stdout) == (0, True), planned.stderr

    def test_a_model_learns_its_own_format(self, tiny_model: Path) -> None:
        """The prompt holds the tools as the chat template shows them, and the target is what follows."""
        pytest.importorskip("trl")
        from transformers import AutoTokenizer

        from toolrl_cli.records import Example
        from toolrl_cli.training.data import sft_dataset

        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.chat_template = (
            "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
            "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        )
        text_format, example = find_format("hermes"), Example.from_json(EXAMPLES[0])
        [row] = sft_dataset([example], text_format, tokenizer)
        names = "".join(f"{tool['function']['name']} " for tool in example.tools)
        contents = "".join(f"<|im_start|>{message['content']}<|im_end|>" for message in example.messages)
        target = text_format.render_target(example.target)
        assert tokenizer.decode(row["input_ids"]) == f"{names}{contents}{target}<|im_end|>"
