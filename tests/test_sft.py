"""`toolrl sft`: the run folder, what carries loss, interrupts and resumes, and every refusal it shares with grpo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    CHATML,
    EXAMPLES,
    WEATHER,
    Cli,
    InProcess,
    Place,
    change_trainer,
    example,
    interrupt_at,
    read_rows,
    refusal,
    snapshot,
    write_lines,
)

from toolrl_cli import __version__
from toolrl_cli.errors import ConfigError, DataError, SetupError
from toolrl_cli.formats import find_format
from toolrl_cli.inference.stops import end_of_turn
from toolrl_cli.manifest import hash_file, hash_samples, read_manifest, sole_writer
from toolrl_cli.records import Example
from toolrl_cli.training.config import SftConfig
from toolrl_cli.training.data import read_examples, sft_dataset
from toolrl_cli.training.sft import train_sft

pytestmark = pytest.mark.slow

FORMAT = find_format("toolrl")
RUN = ("--max-steps", 3, "--batch-size", 4)
OSLO = (
    '<think> I need weather. </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
)
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def configure(data: Path, model: Path, output: Path, **options: Any) -> SftConfig:
    settings: dict[str, Any] = {"batch_size": 4, "max_steps": 4, **options}
    return SftConfig(data=data, model=str(model), output=output, **settings)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_the_run_folder_holds_adapter_tokenizer_and_manifest(trained: Place, tiny_model: Path) -> None:
    run = trained.folder / "runs/sft"
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in run.iterdir()
    }
    manifest = json.loads((run / "manifest.json").read_text())
    versions = manifest.pop("versions")
    assert manifest == {
        "command": "sft",
        "config": {
            "data": "ex.jsonl",
            "model": str(tiny_model),
            "preset": None,
            "tuning": "lora",
            "adapter": "continue",
            "lora_rank": 16,
            "lora_alpha": None,
            "lora_targets": "all-linear",
            "learning_rate": 2e-4,
            "batch_size": 4,
            "micro_batch_size": 8,
            "epochs": 1.0,
            "max_steps": 3,
            "limit": None,
            "format": None,
            "template": None,
            "overrides": {},
            "max_length": 2048,
            "base_model": str(tiny_model),
        },
        "seed": 0,
        "format": "toolrl",
        "hashes": {
            "data": hash_file(trained.folder / "ex.jsonl"),
            "format": FORMAT.digest,
            "base": hash_samples([tiny_model / "model.safetensors"]),
        },
        "parent": str(tiny_model),
        "finished": True,
        "git_commit": None,
    }
    assert versions["toolrl"] == __version__
    assert {"python", "torch", "transformers", "trl", "peft", "datasets", "accelerate"} < versions.keys()


def test_each_step_has_one_record_and_one_line(trained: Place) -> None:
    rows = read_rows(trained.folder / "runs/sft/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] > 0 and {"grad_norm", "learning_rate", "mean_token_accuracy"} < row.keys() for row in rows)
    printed = trained.printed["sft"]
    assert [line.split("  ")[0] for line in printed["stderr"]] == [f"sft: step {n}/3" for n in (1, 2, 3)]
    manifest = read_manifest(trained.folder / "runs/sft")
    assert printed["stdout"] == {
        "output": "runs/sft",
        "finished": True,
        "config": manifest.config,
        "metrics": rows[-1],
    }


def test_the_run_loads_as_a_plain_adapter(trained: Place, tiny_model: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    run = trained.folder / "runs/sft"
    model = AutoPeftModelForCausalLM.from_pretrained(run)
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_model)
    learned = [value.abs().sum().item() for name, value in model.named_parameters() if "lora_B" in name]
    assert len(learned) == 14
    assert min(learned) > 0
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert tokenizer.chat_template == CHATML
    assert tokenizer.decode(tokenizer("héllo ☃")["input_ids"]) == "héllo ☃"


def test_a_full_run_loads_as_a_plain_model(examples_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    train_sft(configure(examples_file, tiny_model, tmp_path / "run", tuning="full", max_steps=2))
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model, tmp_path / "run"))
    changed = [name for name, value in after.named_parameters() if not value.equal(before.get_parameter(name))]
    assert len(changed) == len(list(before.parameters()))
    assert read_manifest(tmp_path / "run").parent == str(tiny_model)


def test_a_second_run_is_refused_and_leaves_the_first(trained: Place, cli: InProcess, tiny_model: Path) -> None:
    run = trained.folder / "runs/sft"
    before = snapshot(run)
    line = refusal(cli("sft", trained.folder / "ex.jsonl", "--model", tiny_model, "-o", run, *RUN))
    assert line == f"{run}: not empty; add --resume to continue it or --overwrite to replace it"
    assert snapshot(run) == before


def test_resuming_a_finished_run_returns_at_once(
    trained: Place, cli: InProcess, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    before = snapshot(trained.folder)
    done = cli("sft", "ex.jsonl", "--model", tiny_model, "-o", "runs/sft", *RUN, "--resume", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == trained.printed["sft"]["stdout"]
    assert snapshot(trained.folder) == before


def test_resuming_with_other_options_is_refused(
    trained: Place, cli: InProcess, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    line = refusal(cli("sft", "ex.jsonl", "--model", tiny_model, "-o", "runs/sft", "--max-steps", 9, "--resume"))
    assert line.startswith("runs/sft: cannot resume with another config.batch_size (4 before, 16 now)")


def test_overwrite_replaces_the_run_and_a_seed_fixes_its_weights(
    examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    made = []
    for seed in (0, 1, 0):
        train_sft(configure(examples_file, tiny_model, tmp_path / "run", max_steps=2, seed=seed, overwrite=True))
        made.append((weights(tmp_path / "run"), (tmp_path / "run/metrics.jsonl").read_bytes()))
    assert made[0] == made[2]
    assert made[0][0] != made[1][0]


def test_a_folder_that_another_process_writes_to_is_left_to_it(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 4, "--max-steps", 1)
    told = f"{tmp_path / 'run'}: another process is writing to it; wait for it, or end it"
    held = []

    def look(trainer: Any) -> None:
        with pytest.raises(ConfigError) as refused, sole_writer(tmp_path / "run"):
            pass
        held.append(str(refused.value))

    change_trainer(monkeypatch, "sft", look)
    assert cli(*words).exit_code == 0
    with sole_writer(tmp_path / "run"):
        assert [refusal(cli(*words, option)) for option in ("--resume", "--overwrite")] == [told, told]
    assert cli(*words, "--overwrite").exit_code == 0
    assert held == [told, told], "each run held its folder"


def test_a_run_that_fails_before_its_first_step_gives_back_what_it_would_have_replaced(
    cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 4, "--max-steps", 1)
    assert cli(*words).exit_code == 0
    before = snapshot(tmp_path / "run")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no batch")

    change_trainer(monkeypatch, "sft", lambda trainer: monkeypatch.setattr(trainer, "training_step", fail))
    assert "no batch" in cli(*words, "--overwrite").stderr
    assert snapshot(tmp_path / "run") == before
    monkeypatch.undo()
    assert cli(*words, "--overwrite").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_only_the_completion_carries_loss(
    examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Any] = []
    change_trainer(monkeypatch, "sft", lambda trainer: batches.extend([*trainer.get_train_dataloader(), trainer]))
    train_sft(configure(examples_file, tiny_model, tmp_path / "run", batch_size=6, max_steps=1))
    batch, trainer = batches
    decode = trainer.processing_class.decode
    learned = [decode(row[row != -100]) for row in batch["labels"]]
    given = [
        decode(ids[(row == -100) & seen.bool()])
        for ids, row, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ]
    wanted = {}
    for e in (Example.from_json(raw) for raw in EXAMPLES):
        system, user = FORMAT.render_prompt(e.tools, e.messages).messages
        dialogue = f"<|im_start|>system\n{system['content']}<|im_end|>\n<|im_start|>user\n{user['content']}<|im_end|>\n"
        wanted[f"{dialogue}<|im_start|>assistant\n"] = f"{FORMAT.render_target(e.target)}<|im_end|>\n"
    assert dict(zip(given, learned, strict=True)) == wanted
    assert f"{OSLO}<|im_end|>\n" in learned


def load_tiny_tokenizer(folder: Path, template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def test_thoughts_are_kept_where_the_chat_template_drops_them(tiny_model: Path) -> None:
    tokenizer = load_tiny_tokenizer(tiny_model, REASONING)
    row = sft_dataset([Example.from_json(EXAMPLES[0])], FORMAT, tokenizer)[0]
    learned = [id for id, mask in zip(row["input_ids"], row["completion_mask"], strict=True) if mask]
    assert tokenizer.decode(learned) == f"{OSLO}<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>\n"),
        ("{% for m in messages %}[{{ m['content'] }}]</s>{% endfor %}", "]</s>"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "<|im_end|>\n"),
    ],
)
def test_a_turn_ends_as_its_template_says_or_with_the_end_token(tiny_model: Path, template: str, end: str) -> None:
    assert end_of_turn(load_tiny_tokenizer(tiny_model, template)) == end


def lengths_of(data: Path, tiny_model: Path) -> list[tuple[int, int]]:
    """Tokens of the prompt and of the whole of each example."""
    dataset = sft_dataset(read_examples(data, FORMAT), FORMAT, load_tiny_tokenizer(tiny_model, CHATML))
    return [(row["completion_mask"].index(1), len(row["input_ids"])) for row in dataset]


def test_cut_off_examples_are_counted(examples_file: Path, tiny_model: Path, tmp_path: Path, cli: InProcess) -> None:
    lengths = lengths_of(examples_file, tiny_model)
    limit = sorted(prompt for prompt, _ in lengths)[-1]
    cut = sum(whole > limit for _, whole in lengths)
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--max-steps", 1)
    done = cli(*words, "--max-length", limit, "--json")
    assert (done.exit_code, cut > 1) == (0, True)
    assert done.stderr.splitlines()[0] == f"sft: --max-length {limit} cuts off {cut} of 6 examples, 1 of them wholly"


def test_a_limit_that_leaves_nothing_to_learn_is_refused(
    examples_file: Path, tiny_model: Path, tmp_path: Path, cli: InProcess
) -> None:
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--max-length", 50)
    assert refusal(cli(*words)) == f"{examples_file}: every prompt fills --max-length 50; raise it"
    assert snapshot(tmp_path) == {}


# Interrupts


@pytest.fixture(scope="module")
def unbroken(examples_file: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps without an interrupt."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train_sft(configure(examples_file, tiny_model, folder))
    return folder


@pytest.mark.parametrize("step", [1, 3])
def test_ctrl_c_saves_the_step_and_resume_ends_as_if_unbroken(
    step: int, unbroken: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(interrupt_at([step])))
    with pytest.raises(KeyboardInterrupt):
        train_sft(configure(examples_file, tiny_model, run))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == list(range(1, step + 1))
    assert read_manifest(run).finished is False
    monkeypatch.undo()
    summary = train_sft(configure(examples_file, tiny_model, run, resume=True))
    assert summary.manifest.finished is True
    assert weights(run) == weights(unbroken)
    kept, wanted = (read_rows(folder / "metrics.jsonl") for folder in (run, unbroken))
    assert [(row["step"], row["loss"]) for row in kept] == [(row["step"], row["loss"]) for row in wanted]


def test_ctrl_c_in_the_last_step_finishes_the_run(
    unbroken: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(interrupt_at([4])))
    assert train_sft(configure(examples_file, tiny_model, tmp_path / "run")).manifest.finished is True
    assert weights(tmp_path / "run") == weights(unbroken)


def test_a_second_ctrl_c_stops_at_once_and_resume_repeats_no_record(
    unbroken: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback

    class Twice(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    run = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(Twice()))
    with pytest.raises(KeyboardInterrupt):
        train_sft(configure(examples_file, tiny_model, run, save_steps=2))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2, 3]
    monkeypatch.undo()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    train_sft(configure(examples_file, tiny_model, run, resume=True))
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2, 3, 4]
    assert weights(run) == weights(unbroken)


def test_a_run_killed_after_its_last_step_finishes_without_another(
    unbroken: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    change_trainer(
        monkeypatch, "sft", lambda trainer: monkeypatch.setattr(trainer, "save_model", keep_checkpoints(trainer, die))
    )
    with pytest.raises(KeyboardInterrupt):
        train_sft(configure(examples_file, tiny_model, run))
    assert not (run / "adapter_model.safetensors").exists()
    monkeypatch.undo()
    train_sft(configure(examples_file, tiny_model, run, resume=True))
    assert weights(run) == weights(unbroken)
    assert {path.name for path in run.iterdir()} == {path.name for path in unbroken.iterdir()}
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2, 3, 4]


def keep_checkpoints(trainer: Any, die: Callable[..., None]) -> Callable[..., None]:
    """A `save_model` that fails on the final save only."""
    stock = trainer.save_model
    return lambda folder, **options: stock(folder, **options) if "checkpoint" in folder else die()


def test_a_half_written_checkpoint_is_passed_over(
    unbroken: Path, examples_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    change_trainer(monkeypatch, "sft", lambda trainer: trainer.add_callback(interrupt_at([2])))
    with pytest.raises(KeyboardInterrupt):
        train_sft(configure(examples_file, tiny_model, run))
    monkeypatch.undo()
    (run / "checkpoints/checkpoint-3").mkdir()
    (run / "checkpoints/checkpoint-3/adapter_model.safetensors").write_bytes(b"cut")
    train_sft(configure(examples_file, tiny_model, run, resume=True))
    assert weights(run) == weights(unbroken)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_process_resumes_with_each_step_once(
    number: signal.Signals, status: int, toolrl: Cli, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["sft", str(examples_file), "--model", str(tiny_model), "-o", str(tmp_path / "run"), "--max-steps", "60"]
    words += ["--batch-size", "4", "--save-steps", "2"]
    process = subprocess.Popen([sys.executable, "-m", "toolrl_cli", *words], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == status
    if number != signal.SIGKILL:
        assert stderr.splitlines()[-1] == "interrupted; finished work is kept"
        assert "Traceback" not in stderr
    assert read_manifest(tmp_path / "run").finished is False
    done = toolrl(*words, "--resume")
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_rows(metrics)] == list(range(1, 61))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_resume_goes_on(
    unbroken: Path, small_disk: Path, examples_file: Path, tiny_model: Path
) -> None:
    run = small_disk / "run"
    with pytest.raises(SetupError) as refused:
        train_sft(configure(examples_file, tiny_model, run, save_steps=1))
    assert str(refused.value) == f"{run}: the disk is full; make room and continue with --resume"
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    train_sft(configure(examples_file, tiny_model, run, resume=True))
    assert weights(run) == weights(unbroken)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2, 3, 4]


# Refusals, for both commands


@pytest.fixture(params=["sft", "grpo"])
def command(request: pytest.FixtureRequest) -> str:
    """Each of the two trainings."""
    name: str = request.param
    return name


BAD_DATA = {
    "empty": ("", ": no examples; run toolrl prepare first"),
    "blank": ("\n\n", ": no examples; run toolrl prepare first"),
    "broken": (json.dumps(EXAMPLES[0]) + "\n{", ":2: not JSON; each line must hold one JSON value"),
    "list": ("[]", ":1: example must be an object, not a list"),
    "raw": ('{"messages": []}', ':1: no "id" field; run toolrl prepare first'),
    "no role": (
        json.dumps({**EXAMPLES[0], "messages": [{"content": "x"}]}),
        ":1: messages[0].role must be a string, not null",
    ),
    "bare tool": (
        json.dumps({**EXAMPLES[0], "tools": [WEATHER["function"]]}),
        ":1: tools[0].function must be an object, not null",
    ),
    "odd schema": (
        json.dumps({**EXAMPLES[0], "tools": [{"function": {"name": "f", "parameters": ["a"]}}]}),
        ":1: tools or messages are malformed (AttributeError(\"'list' object has no attribute 'get'\")); "
        "run toolrl prepare first",
    ),
    "odd call": (
        json.dumps(
            {
                **EXAMPLES[0],
                "messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
            }
        ),
        ":1: tool call arguments must be an object, not a string",
    ),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_one_line(command: str, kind: str, cli: InProcess, tiny_model: Path, tmp_path: Path) -> None:
    text, why = BAD_DATA[kind]
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    line = refusal(cli(command, data, "--model", tiny_model, "-o", tmp_path / "run"))
    assert line == f"{data}{why}"
    assert set(snapshot(tmp_path)) == {"data.jsonl"}


def test_text_that_is_no_unicode_is_one_line(command: str, cli: InProcess, tiny_model: Path, tmp_path: Path) -> None:
    rows = [example(str(n), "\ud800", {"response": "\udfff"}) for n in range(4)]
    data = write_lines(tmp_path / "data.jsonl", rows)
    line = refusal(cli(command, data, "--model", tiny_model, "-o", tmp_path / "run"))
    assert line == f"{data}:1: not Unicode text: lone surrogate '\\ud800'"
    assert set(snapshot(tmp_path)) == {"data.jsonl"}


def test_missing_data_is_one_line(command: str, cli: InProcess, tiny_model: Path, tmp_path: Path) -> None:
    line = refusal(cli(command, tmp_path / "none.jsonl", "--model", tiny_model, "-o", tmp_path / "run"))
    assert line == f"{tmp_path / 'none.jsonl'}: no such file"
    assert snapshot(tmp_path) == {}


def test_an_unknown_model_is_one_line(command: str, cli: InProcess, examples_file: Path, tmp_path: Path) -> None:
    line = refusal(cli(command, examples_file, "--model", "nonsense", "-o", tmp_path / "run"))
    assert line == ("nonsense: no such model; give a folder, a .gguf file, a Hub id (org/model) or one of smollm2-135m")
    assert snapshot(tmp_path) == {}


def test_a_folder_that_cannot_be_made_is_one_line(
    command: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file/run"
    words = (command, examples_file, "--model", tiny_model, "-o", output, "--batch-size", 4, "--max-steps", 1)
    options = ("--num-generations", 2) if command == "grpo" else ()
    assert refusal(cli(*words, *options)).startswith(f"{output}: cannot create this folder (")
    assert snapshot(tmp_path) == {"file": b"mine"}


def test_a_folder_of_others_is_refused_even_with_overwrite(
    command: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    words = (command, examples_file, "--model", tiny_model, "-o", tmp_path, "--overwrite", "--batch-size", 8)
    assert refusal(cli(*words)) == f"{tmp_path}: not empty and not a toolrl output; choose another folder"
    assert snapshot(tmp_path) == {"notes.txt": b"mine"}


def test_an_output_that_holds_an_input_is_refused(
    command: str, cli: InProcess, trained: Place, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    before = snapshot(trained.folder)
    for model, output, held in (
        ("runs/sft", "runs/sft", "runs/sft"),
        ("runs/grpo", ".", "ex.jsonl"),
        (str(tiny_model), str(tiny_model), str(tiny_model)),
        ("runs/sft", str(tiny_model), str(tiny_model)),
    ):
        words = ("ex.jsonl", "--model", model, "-o", output, "--overwrite", "--batch-size", 8)
        line = refusal(cli(command, *words), 2)
        assert line == f"{output}: the output folder holds the input {held}; choose another output"
    assert snapshot(trained.folder) == before


def test_a_setting_that_only_the_trainer_refuses_leaves_nothing(
    command: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = (command, examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8)
    setting = "accelerator_config={gradient_accumulation_kwargs: {num_steps: 3}}"
    line = refusal(cli(*words, "--micro-batch-size", 4, "--set", setting))
    assert line.startswith("trl refuses these arguments or this data: The `AcceleratorConfig`'s `num_steps` is set but")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    command: str, cli: InProcess, examples_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = (command, examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--batch-size", 8, "--dry-run")
    done = cli(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if "batch_size" in line] == [
        "config.batch_size",
        "config.micro_batch_size",
    ]
    assert snapshot(tmp_path) == {}


BLOCKER = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == os.environ["BLOCKED"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_line_that_installs_it(
    package: str, command: str, toolrl: Cli, tmp_path: Path, examples_file: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    words = (command, examples_file, "--model", "m", "-o", tmp_path / "run")
    line = refusal(toolrl(*words, PYTHONPATH=str(tmp_path), BLOCKED=package))
    assert line == f"{package} is not installed; run: python -m pip install -c constraints.txt -e '.[train]'"


@pytest.mark.parametrize("package", ["trl", "peft", "datasets", "accelerate"])
def test_each_package_of_the_extra_is_named(
    package: str, toolrl: Cli, tmp_path: Path, examples_file: Path, tiny_model: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    words = ("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run")
    line = refusal(toolrl(*words, PYTHONPATH=str(tmp_path), BLOCKED=package))
    assert line == f"{package} is not installed; run: python -m pip install -c constraints.txt -e '.[train]'"


def test_limit_takes_the_first_examples(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", [*EXAMPLES[:2], "broken"])
    assert [e.id for e in read_examples(data, FORMAT, 2)] == ["oslo", "tea"]
    with pytest.raises(DataError, match=":3: example must be an object"):
        read_examples(data, FORMAT, 3)
