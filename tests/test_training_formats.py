"""Training and evaluation in every text format: the same prompt tokens everywhere, and the whole pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import EXAMPLES, InProcess, change_trainer, read_rows, refusal, write_lines
from test_formats_native import DIALOGUE, TOOLS, chat_templates

from toolrl_cli.benches.base import Entry
from toolrl_cli.evaluation.planning import to_prompt
from toolrl_cli.formats import find_format
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.manifest import read_manifest
from toolrl_cli.records import Example

pytestmark = pytest.mark.slow

TEMPLATES = {"hermes": ("qwen2_5", "qwen3", "qwen3_instruct_2507"), "llama3": ("llama3_1", "llama3_2")}
TEMPLATES["toolrl"] = (*TEMPLATES["hermes"], *TEMPLATES["llama3"])
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
DIALOGUE_EXAMPLE = Example(
    "dialogue",
    "test",
    tuple(TOOLS),
    tuple(DIALOGUE),
    Example.from_json(EXAMPLES[2] | {"target": {"response": "Rain."}}).target,
)


def without_thoughts() -> list[Any]:
    return [row | {"target": row["target"] | {"thought": None}} for row in EXAMPLES]


def dress(tiny_model: Path, template: str, folder: Path) -> Path:
    """A copy of the model with a real chat template; as Llama's, its tokenizer adds `<|begin_of_text|>` to a text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = "<|eot_id|>" if "llama" in template else "<|im_end|>"
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", end
    tokenizer.chat_template = (chat_templates() / f"{template}.jinja").read_text("utf-8")
    if "llama" in template:
        begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{begin[0]} $A", special_tokens=[begin])
    tokenizer.save_pretrained(folder)
    return folder


def grow_embeddings(folder: Path) -> Path:
    """The same model with room for the tokens that its tokenizer got."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grow_embeddings(dress(tiny_model, "qwen2_5", tmp_path_factory.mktemp("dressed") / "qwen"))


@pytest.fixture(scope="module")
def llama(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grow_embeddings(dress(tiny_model, "llama3_1", tmp_path_factory.mktemp("dressed") / "llama"))


def eval_tokens(tokenizer: Any, text_format: TextFormat, example: Example) -> list[int]:
    """The token ids that a local engine gives to the model."""
    from toolrl_cli.inference.transformers_engine import tokenize_prompt

    entry = Entry(example.id, example.source, example.tools, example.messages, payload=example.target)
    prompt = to_prompt(entry, text_format)
    return tokenize_prompt(tokenizer, prompt.messages, prompt.tools)


@pytest.mark.parametrize(("name", "template"), [(name, t) for name, found in TEMPLATES.items() for t in found])
def test_prompts_are_the_same_tokens_in_sft_grpo_and_eval(
    name: str, template: str, tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    from transformers import AutoTokenizer

    from toolrl_cli.training.data import grpo_dataset, sft_dataset
    from toolrl_cli.training.prompts import WrittenPromptsGRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(dress(tiny_model, template, tmp_path / "m"))
    text_format = find_format(name)
    examples = [*map(Example.from_json, without_thoughts()), DIALOGUE_EXAMPLE]
    sft = sft_dataset(examples, text_format, tokenizer)
    learned = [row["input_ids"][: row["completion_mask"].index(1)] for row in sft]
    trainer: Any = SimpleNamespace(processing_class=tokenizer)
    prompts = grpo_dataset(examples, text_format, tokenizer)["prompt"]
    sampled, images, other = WrittenPromptsGRPOTrainer._tokenize_prompts(trainer, list(prompts))
    assert learned == sampled == [eval_tokens(tokenizer, text_format, example) for example in examples]
    assert (images, other) == (None, {})
    assert all(ids.count(tokenizer.bos_token_id) == ("llama" in template) for ids in sampled)
    shown = [("Rings after some minutes." in tokenizer.decode(ids)) for ids in sampled]
    assert shown == [False, True, False, False, True, False, False]


def grpo_words(data: Path, model: Path, output: Path, *options: object) -> tuple[object, ...]:
    size = ("--batch-size", 4, "--micro-batch-size", 4, "--num-generations", 2, "--max-completion-length", 12)
    return ("grpo", data, "--model", model, "-o", output, "--max-steps", 2, *size, *options)


def test_the_trainer_generates_from_these_tokens(
    qwen: Path, examples_file: Path, cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    seen: list[list[int]] = []

    def watch(trainer: Any) -> None:
        stock = trainer._generate_single_turn

        def generate(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            seen.extend(prompt_ids)
            return stock(prompt_ids, *args, **kwargs)

        trainer._generate_single_turn = generate

    change_trainer(monkeypatch, "grpo", watch)
    done = cli(*grpo_words(examples_file, qwen, tmp_path / "run", "--format", "hermes", "--json"))
    assert done.exit_code == 0, done.stderr
    tokenizer, text_format = AutoTokenizer.from_pretrained(qwen), find_format("hermes")
    known = {raw["id"]: eval_tokens(tokenizer, text_format, Example.from_json(raw)) for raw in EXAMPLES}
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert seen == [known[row["id"]] for row in rows]
    assert len(rows) == 8


def test_completions_are_scored_as_they_are_written(
    qwen: Path, examples_file: Path, cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that parses responses itself takes nothing out of them."""
    texts = [find_format("hermes").render_target(Example.from_json(raw).target) for raw in EXAMPLES]

    def answer(trainer: Any) -> None:
        tokenizer = trainer.processing_class
        tokenizer.response_template = {"start": "", "fields": {"content": {"open": "", "close": "</think>"}}}

        def generate(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            ids = tokenizer(texts, add_special_tokens=False)["input_ids"][: len(prompt_ids)]
            return [[*row, tokenizer.eos_token_id] for row in ids], None

        trainer._generate_single_turn = generate

    change_trainer(monkeypatch, "grpo", answer)
    words = grpo_words(examples_file, qwen, tmp_path / "run", "--format", "native", "--reward", "robust", "--json")
    done = cli(*words)
    assert done.exit_code == 0, done.stderr
    rows = read_rows(tmp_path / "run/completions.jsonl")
    assert [row["completion"] for row in rows] == texts[:4] * 2
    assert {row["text_format"] for row in rows} == {"hermes"}
    targets = [json.loads(json.dumps(raw["target"])) for raw in EXAMPLES]
    right = [row["target"] == target for row, target in zip(rows, targets[:4] * 2, strict=True)]
    assert [row["score"]["total"] == 4.0 for row in rows] == right


def test_prompts_of_another_wording_are_refused(
    qwen: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    words = grpo_words(examples_file, qwen, tmp_path / "run", "--format", "hermes")
    line = refusal(cli(*words, "--set", 'chat_template_kwargs={"enable_thinking": false}'), 2)
    assert line == "--set chat_template_kwargs: prompts are those of sft and eval, which take none"


@pytest.mark.parametrize("command", ["sft", "grpo", "eval"])
def test_what_a_format_cannot_express_says_the_fix(
    command: str, llama: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    words: dict[str, tuple[object, ...]] = {
        "sft": ("sft", examples_file, "--model", llama, "-o", tmp_path / "run", "--format", "llama3"),
        "grpo": grpo_words(examples_file, llama, tmp_path / "run", "--format", "native"),
        "eval": (
            *("eval", "--bench", "examples", "--data", examples_file),
            *("--model", llama, "-o", tmp_path / "run", "--format", "llama3"),
        ),
    }
    assert refusal(cli(*words[command])) == (
        f"{examples_file}:1: the llama3 format cannot express this target "
        "(its thought; toolrl prepare --thought drop takes it away)"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_a_chat_template_that_shows_no_tools_is_refused(
    command: str, tiny_model: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    sft = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run")
    words = sft if command == "sft" else grpo_words(examples_file, tiny_model, tmp_path / "run")
    assert refusal(cli(*words, "--format", "hermes")) == (
        "the model's chat template shows no tools, and the hermes format leaves them to it; use --format toolrl"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_a_chat_template_that_opens_the_thought_is_refused_for_completions_that_open_it(
    command: str, tiny_model: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    model = dress(tiny_model, "qwen3_5_think", tmp_path / "m")
    sft = ("sft", examples_file, "--model", model, "-o", tmp_path / "run")
    words = sft if command == "sft" else grpo_words(examples_file, model, tmp_path / "run")
    assert refusal(cli(*words)) == (
        "the model's chat template ends a prompt with <think>, and completions of the toolrl format begin with it; "
        "use --format native, or a copy of the model whose template leaves it to the completion"
    )
    assert not (tmp_path / "run").exists()


def test_sft_goes_on_in_the_thought_that_the_prompt_has_opened(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from transformers import AutoTokenizer

    from toolrl_cli.training.data import sft_dataset

    tokenizer = AutoTokenizer.from_pretrained(dress(tiny_model, "qwen3_5_think", tmp_path / "m"))
    thoughtful = Example.from_json(EXAMPLES[0])
    silent = replace(thoughtful, target=replace(thoughtful.target, thought=None))
    text_format = find_format("hermes")
    calls = text_format.render_target(silent.target)
    thoughts = [f"<think>\n{thoughtful.target.thought}\n</think>", "<think>\n</think>"]
    for row, thought in zip(sft_dataset([thoughtful, silent], text_format, tokenizer), thoughts, strict=True):
        answer = f"<|im_start|>assistant\n{thought}\n\n{calls}<|im_end|>"
        assert tokenizer.decode(row["input_ids"]).rstrip("\n").endswith(answer)


@pytest.mark.parametrize(
    ("opened", "completion", "rest"),
    [
        ("", "<think>\na\n</think>\n\nb", "<think>\na\n</think>\n\nb"),
        ("<think>", "<think>\na\n</think>\n\nb", "\na\n</think>\n\nb"),
        ("<think>\n", "<think>\na\n</think>\n\nb", "a\n</think>\n\nb"),
        ("<think>\n\n", "<think>\na\n</think>\n\nb", "a\n</think>\n\nb"),
        ("<think>\n", "b", "</think>\n\nb"),
        ("<think>", "b", "\n</think>\n\nb"),
    ],
)
def test_a_completion_behind_an_opened_thought_reads_as_the_target(opened: str, completion: str, rest: str) -> None:
    pytest.importorskip("torch")
    from toolrl_cli.training.data import continue_thought

    assert continue_thought(opened, completion) == rest
    assert find_format("hermes").parse_tool_calls(rest) == []


def test_a_run_that_goes_on_in_another_format_says_so(
    qwen: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    first = ("sft", examples_file, "--model", qwen, "-o", tmp_path / "first", "--max-steps", 1, "--batch-size", 2)
    assert cli(*first).exit_code == 0
    again = ("sft", examples_file, "--model", tmp_path / "first", "-o", tmp_path / "second", "--dry-run")
    note = f"{tmp_path / 'first'}: was trained in the toolrl format, with other words; goes on in hermes"
    assert note in cli(*again, "--format", "hermes").stderr
    assert "other words" not in cli(*again).stderr


def test_an_evaluation_tells_when_the_template_opens_the_thought_that_the_completions_should_open(
    tiny_model: Path, examples_file: Path, cli: InProcess, tmp_path: Path
) -> None:
    model = grow_embeddings(dress(tiny_model, "qwen3_5_think", tmp_path / "m"))
    words = ("eval", "--bench", "examples", "--data", examples_file, "--model", model, "--max-new-tokens", 1)
    note = "the model's chat template ends a prompt with <think>"
    assert note in cli(*words, "-o", tmp_path / "toolrl").stderr
    assert note not in cli(*words, "-o", tmp_path / "native", "--format", "native").stderr


@pytest.mark.parametrize(("option", "found"), [("hermes", "hermes"), ("llama3", "llama3"), ("native", "hermes")])
def test_the_pipeline_in_a_models_own_format(
    option: str, found: str, qwen: Path, llama: Path, cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prepare, sft, grpo, score and eval, each as a user calls it; only sft is told the format."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "raw.jsonl", EXAMPLES)
    model = llama if found == "llama3" else qwen

    def run(*words: object) -> Any:
        done = cli(*words)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout

    run("prepare", "raw.jsonl", "-o", "ex.jsonl", *(("--thought", "drop") if found == "llama3" else ()))
    run(*("sft", "ex.jsonl", "--model", model, "--format", option, "-o", "sft", "--max-steps", 2, "--batch-size", 4))
    run(*grpo_words(Path("ex.jsonl"), Path("sft"), Path("grpo"), "--reward", "robust"))
    assert [read_manifest(tmp_path / name).format for name in ("sft", "grpo")] == [found, found]
    trained = read_rows(tmp_path / "grpo/completions.jsonl")
    run("score", "grpo/completions.jsonl", "--reward", "robust", "-o", "scored.jsonl", "--json")
    assert read_rows(tmp_path / "scored.jsonl") == trained
    gold = [{"id": raw["id"], "completion": text} for raw, text in zip(EXAMPLES, golden(tmp_path, found), strict=True)]
    write_lines(tmp_path / "gold.jsonl", gold)
    bench = ("eval", "--bench", "examples", "--data", "ex.jsonl", "--reward", "robust", "--json")
    perfect = run(*bench, "--predictions", "gold.jsonl", "--format", found, "-o", "perfect")
    assert [perfect["metrics"][name]["value"] for name in ("exact_rate", "total")] == [1.0, 4.0]
    judged = run(*bench, "--model", "grpo", "-o", "judged", "--max-new-tokens", 12)
    assert (read_manifest(tmp_path / "judged").format, judged["metrics"]["exact_rate"]["value"]) == (found, 0.0)


def golden(folder: Path, name: str) -> list[str]:
    examples = map(Example.from_json, read_rows(folder / "ex.jsonl"))
    return [find_format(name).render_target(example.target) for example in examples]
