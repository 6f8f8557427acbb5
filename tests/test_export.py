"""`toolrl export`: the weights that others load, the command lines that serve them, and the same training for verl."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import EXAMPLES, InProcess, Place, read_rows, refusal, snapshot, write_lines

from toolrl_cli.cli import load_command
from toolrl_cli.downloads import Wheel, unpack_wheel
from toolrl_cli.formats import find_format
from toolrl_cli.jsonl import flatten, read_yaml
from toolrl_cli.manifest import read_manifest
from toolrl_cli.training.models import resolve_model
from toolrl_cli.training.text_format import choose_format

VERL = Wheel("verl", "0.9.1", "db6e6f2a8d9d5808d9ec32d357a42319fdc6967df688ff9d9810050f49bfdd14")
TEXT = (
    '<think> I need weather. </think>\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
)
PROMPT = "How is Oslo?"


@pytest.fixture
def work(trained: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder beside a copy of the finished runs and their examples."""
    shutil.copytree(trained.folder, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def export(cli: InProcess, *words: object) -> list[str]:
    """The names of the files that an export wrote."""
    done = cli("export", *words, "--json")
    assert done.exit_code == 0, done.stderr
    files: list[str] = json.loads(done.stdout)["files"]
    return files


def logits(folder: Path, kind: str) -> Any:
    """What a model loaded without toolrl says of a prompt."""
    import peft
    import torch
    import transformers

    classes: Any = peft if kind.startswith("AutoPeft") else transformers
    model = getattr(classes, kind).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(PROMPT, return_tensors="pt")).logits


class TestWeights:
    def test_plain_transformers_computes_the_same(self, work: Path, cli: InProcess, tiny_model: Path) -> None:
        files = export(cli, "runs/sft", "--to", "hf", "-o", "merged")
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} < set(files)
        assert "adapter_config.json" not in files
        run, merged = (
            logits(work / "runs/sft", "AutoPeftModelForCausalLM"),
            logits(work / "merged", "AutoModelForCausalLM"),
        )
        base = logits(tiny_model, "AutoModelForCausalLM")
        assert float((run - merged).abs().max()) < 1e-5
        assert float((run - base).abs().max()) > 1e-3

    def test_it_is_still_a_run_of_its_format(self, work: Path, cli: InProcess) -> None:
        export(cli, "runs/grpo", "--to", "hf", "-o", "merged")
        manifest = read_manifest(work / "merged")
        assert (manifest.command, manifest.parent, manifest.finished) == ("grpo", "runs/grpo", True)
        assert resolve_model("merged").adapter is None
        assert choose_format("merged").digest == read_manifest(work / "runs/grpo").hashes["format"]
        assert read_rows(work / "merged/metrics.jsonl") == read_rows(work / "runs/grpo/metrics.jsonl")

    def test_dtype(self, work: Path, cli: InProcess) -> None:
        from safetensors.torch import load_file

        for words, expected in (((), "torch.float32"), (("--dtype", "bfloat16"), "torch.bfloat16")):
            export(cli, "runs/sft", "--to", "hf", "-o", "merged", "--overwrite", *words)
            assert {str(value.dtype) for value in load_file("merged/model.safetensors").values()} == {expected}

    def test_the_command_lines_that_serve_it(self, work: Path, cli: InProcess, tiny_model: Path) -> None:
        export(cli, "runs/sft", "--to", "vllm", "-o", "served")
        card = (work / "served/README.md").read_text()
        assert "vllm serve served --served-model-name served --chat-template served/chat_template.jinja" in card
        assert f"vllm serve {tiny_model} --enable-lora --max-lora-rank 16 --lora-modules served=runs/sft" in card
        assert Path("served/chat_template.jinja").exists()
        [line] = re.findall(r"^toolrl (eval .*--endpoint.*)$", card.replace("\\\n", ""), re.MULTILINE)
        name, *words = shlex.split(line)
        told = load_command(name).make_context(name, words).params
        assert (told["served_model"], told["format"]) == ("served", "toolrl")


class TestVerlFiles:
    def test_the_columns_of_the_toolrl_release(self, work: Path, cli: InProcess) -> None:
        import pyarrow.parquet as pq

        held_out = write_lines(work / "test.jsonl", EXAMPLES[:2])
        files = export(cli, "runs/grpo", "--to", "verl", "-o", "verl", "--test", held_out)
        assert {"train.parquet", "test.parquet", "reward.py", "run.sh", "README.md", "manifest.json"} <= set(files)
        schema = "\n".join(str(pq.read_schema("verl/train.parquet")).split("\n-- schema metadata")[0].splitlines())
        assert schema == (
            "data_source: string\n"
            "prompt: list<element: struct<content: string, role: string>>\n"
            "  child 0, element: struct<content: string, role: string>\n"
            "      child 0, content: string\n"
            "      child 1, role: string\n"
            "ability: string\n"
            "reward_model: struct<ground_truth: string, style: string>\n"
            "  child 0, ground_truth: string\n"
            "  child 1, style: string\n"
            "extra_info: struct<index: int64, split: string, id: string, tools: string>\n"
            "  child 0, index: int64\n"
            "  child 1, split: string\n"
            "  child 2, id: string\n"
            "  child 3, tools: string"
        )
        rows = pq.read_table("verl/train.parquet").to_pylist()
        assert [row["extra_info"]["id"] for row in rows] == [raw["id"] for raw in EXAMPLES]
        prompt = find_format("toolrl").render_prompt(EXAMPLES[0]["tools"], EXAMPLES[0]["messages"])
        assert rows[0]["prompt"] == prompt.messages
        assert json.loads(rows[0]["reward_model"]["ground_truth"]) == EXAMPLES[0]["target"]
        assert json.loads(rows[1]["extra_info"]["tools"]) == EXAMPLES[1]["tools"]
        assert {row["extra_info"]["split"] for row in pq.read_table("verl/test.parquet").to_pylist()} == {"test"}

    def test_the_reward_scores_its_rows_as_the_run_did(self, work: Path, cli: InProcess) -> None:
        import pyarrow.parquet as pq

        export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        spec = importlib.util.spec_from_file_location("exported_reward", "verl/reward.py")
        assert spec and spec.loader
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows = {row["extra_info"]["id"]: row for row in pq.read_table("verl/train.parquet").to_pylist()}
        for made in read_rows(work / "runs/grpo/completions.jsonl"):
            row = rows[made["id"]]
            gold = row["reward_model"]["ground_truth"]
            got = module.compute_score("toolrl", made["completion"], gold, row["extra_info"])
            assert got["score"] == made["score"]["total"]
        assert module.compute_score("toolrl", TEXT, rows["oslo"]["reward_model"]["ground_truth"])["score"] == 4.0

    def test_a_reward_file_and_its_settings_go_along(self, work: Path, cli: InProcess) -> None:
        (work / "mine.yaml").write_text("format: {weight: 2}\ncorrectness: {}\n")
        change_config(work / "runs/grpo", reward="mine.yaml", reward_settings={"correctness.low": -1})
        export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        (work / "mine.yaml").unlink()
        code = "import json, reward, sys; gold, *texts = sys.argv[1:]\n"
        code += "print(json.dumps([reward.compute_score('', text, gold) for text in texts]))"
        words = [sys.executable, "-c", code, json.dumps(EXAMPLES[0]["target"]), "", TEXT]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=work / "verl")
        assert [score["score"] for score in json.loads(done.stdout)] == [-1.0, 5.0]

    def test_the_files_of_a_weighted_sum_go_along(self, work: Path, cli: InProcess) -> None:
        (work / "mine.py").write_text("def half(completions, **columns):\n    return [0.5] * len(completions)\n")
        (work / "reward.yaml").write_text("format: {weight: 2}\n")
        change_config(work / "runs/grpo", reward="fine-grained,mine.py:half=2,reward.yaml=0.1", reward_settings={})
        files = export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        assert {"reward_2_mine.py", "reward_3_reward.yaml"} <= set(files)
        for name in ("mine.py", "reward.yaml"):
            (work / name).unlink()
        code = "import reward, sys; print(reward.compute_score('', *sys.argv[1:])['score'])"
        words = [sys.executable, "-c", code, TEXT, json.dumps(EXAMPLES[0]["target"])]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=work / "verl")
        assert float(done.stdout) == pytest.approx(4 + 2 * 0.5 + 0.1 * 2)

    def test_files_of_one_name_go_along_each_by_itself(self, work: Path, cli: InProcess) -> None:
        for folder, function, value in (("a", "half", 0.5), ("b", "third", 3.0)):
            (work / folder).mkdir()
            code = f"def {function}(completions, **columns):\n    return [{value}] * len(completions)\n"
            (work / folder / "mine.py").write_text(code)
        change_config(work / "runs/grpo", reward="a/mine.py:half,b/mine.py:third=2", reward_settings={})
        files = export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        assert {"reward_1_mine.py", "reward_2_mine.py"} <= set(files)
        code = "import reward, sys; print(reward.compute_score('', *sys.argv[1:])['score'])"
        words = [sys.executable, "-c", code, TEXT, json.dumps(EXAMPLES[0]["target"])]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=work / "verl")
        assert float(done.stdout) == pytest.approx(0.5 + 2 * 3)

    def test_a_start_that_is_a_run_becomes_full_weights(self, work: Path, cli: InProcess) -> None:
        assert "start" in export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        started = logits(work / "runs/sft", "AutoPeftModelForCausalLM")
        assert float((logits(work / "verl/start", "AutoModelForCausalLM") - started).abs().max()) < 1e-5
        assert overrides_of(work / "verl/run.sh")["actor_rollout_ref.model.path"] == f"{work}/verl/start"


def change_config(run: Path, **changes: Any) -> None:
    """Let a run have been told something else."""
    manifest = read_manifest(run)
    replace(manifest, config=manifest.config | changes).write(run)


def overrides_of(script: Path) -> dict[str, str]:
    """What a launch file would give to verl, read by the shell that runs it."""
    words = "python3() { printf '%s\\n' \"${@:3}\"; }; source " + shlex.quote(str(script)) + " trainer.save_freq=7"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


class TestLaunchFile:
    def test_it_says_what_the_run_was_told(self, work: Path, cli: InProcess) -> None:
        change = {
            "learning_rate": 5e-6,
            "beta": 0.04,
            "limit": 5,
            "overrides": {"epsilon_high": 0.28, "logging_steps": 5},
        }
        change_config(work / "runs/grpo", **change)
        done = cli("export", "runs/grpo", "--to", "verl", "-o", "verl", "--json")
        assert done.stderr == "export: without their like in verl, and left out: logging_steps\n"
        assert "left out: logging_steps." in (work / "verl/README.md").read_text()
        overrides = overrides_of(work / "verl/run.sh")
        actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
        told = {
            "algorithm.adv_estimator": "grpo",
            "algorithm.norm_adv_by_std_in_grpo": "true",
            "data.train_batch_size": "2",
            "data.max_response_length": "16",
            f"{rollout}.n": "2",
            f"{rollout}.temperature": "1.0",
            f"{actor}.ppo_mini_batch_size": "2",
            f"{actor}.ppo_micro_batch_size_per_gpu": "4",
            f"{actor}.optim.lr": "5e-06",
            f"{actor}.optim.weight_decay": "0.0",
            f"{actor}.use_kl_loss": "true",
            f"{actor}.kl_loss_coef": "0.04",
            f"{actor}.clip_ratio_low": "0.2",
            f"{actor}.clip_ratio_high": "0.28",
            f"{actor}.loss_agg_mode": "token-mean",
            "actor_rollout_ref.model.lora_rank": "16",
            "actor_rollout_ref.model.lora_alpha": "32",
            "trainer.total_training_steps": "2",
            "trainer.test_freq": "-1",
            "trainer.n_gpus_per_node": "1",
            "trainer.save_freq": "7",
        }
        assert {name: overrides[name] for name in told} == told
        assert overrides["data.train_files"] == overrides["data.val_files"] == f"{work}/verl/train.parquet"

    @pytest.mark.parametrize(
        ("told", "steps", "passes"),
        [
            ({"max_steps": 10}, 10, 4),
            ({"max_steps": 2, "epochs": 3.0}, 2, 3),
            ({"max_steps": None, "epochs": 0.5}, 2, 1),
            ({"max_steps": None, "epochs": 2.5, "limit": 5}, 5, 3),
            ({"max_steps": 7, "overrides": {"num_iterations": 2}}, 4, 2),
            ({"max_steps": None, "epochs": 2.0, "overrides": {"steps_per_generation": 2}}, 4, 2),
            (
                {
                    "max_steps": None,
                    "epochs": 2.0,
                    "num_processes": 2,
                    "micro_batch_size": 2,
                    "overrides": {"steps_per_generation": 2},
                },
                4,
                2,
            ),
        ],
    )
    def test_it_takes_the_steps_of_the_run(
        self, told: dict[str, Any], steps: int, passes: int, work: Path, cli: InProcess
    ) -> None:
        """Three batches of two prompts are a pass over the six examples."""
        change_config(work / "runs/grpo", **told)
        export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        overrides = overrides_of(work / "verl/run.sh")
        counted = overrides.get("trainer.total_training_steps"), overrides["trainer.total_epochs"]
        assert counted == (str(steps), str(passes))

    def test_options_without_their_like_are_named(self, work: Path, cli: InProcess) -> None:
        change_config(work / "runs/grpo", drop_flat_groups=True, tuning="qlora", overrides={"logging_steps": 5})
        done = cli("export", "runs/grpo", "--to", "verl", "-o", "verl", "--json")
        named = "left out: --drop-flat-groups, the 4 bits of --tuning qlora, logging_steps"
        assert done.stderr == f"export: without their like in verl, and {named}\n"
        assert f"{named}." in (work / "verl/README.md").read_text()
        assert overrides_of(work / "verl/run.sh")["actor_rollout_ref.model.lora_rank"] == "16"

    @pytest.mark.parametrize(
        ("argument", "value", "why"),
        [
            ("loss_type", "cispo", "loss_type cispo: verl has nothing like it; it has grpo, dapo, bnpo, dr_grpo"),
            ("scale_rewards", "batch", "scale_rewards batch: verl has nothing like it; it has group, none"),
        ],
    )
    def test_what_verl_has_not_is_refused(
        self, argument: str, value: str, why: str, work: Path, cli: InProcess
    ) -> None:
        change_config(work / "runs/grpo", overrides={argument: value})
        assert refusal(cli("export", "runs/grpo", "--to", "verl", "-o", "verl")) == why
        assert not Path("verl").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("tuning", ["lora", "full"])
    @pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
    def test_every_key_is_one_of_verls_configuration(self, tuning: str, loss: str, work: Path, cli: InProcess) -> None:
        change_config(work / "runs/grpo", tuning=tuning, overrides={"loss_type": loss})
        export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
        shipped = flatten(read_yaml(unpack_wheel(VERL) / "verl/trainer/config/_generated_ppo_trainer.yaml"))
        wanted = overrides_of(work / "verl/run.sh")
        assert set(wanted) - set(shipped) == set()
        for name, value in wanted.items():
            if type(shipped[name]) in (bool, int, float):
                assert isinstance(json.loads(value), (bool, int, float)), name


@pytest.mark.slow
def test_verl_loads_and_calls_the_reward(work: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own loader, on the path and the name that the launch file gives it."""
    export(cli, "runs/grpo", "--to", "verl", "-o", "verl")
    overrides = overrides_of(work / "verl/run.sh")
    function = load_reward(
        monkeypatch, {name.rpartition(".")[2]: value for name, value in overrides.items() if "custom_reward" in name}
    )
    gold = json.dumps(EXAMPLES[0]["target"])
    got = function(data_source="toolrl", solution_str=TEXT, ground_truth=gold, extra_info={"num_turns": 1})
    assert got == {"score": 4.0, "format": 1.0, "correctness": 3.0, "exact": 1.0}


def load_reward(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]) -> Any:
    """What verl's loader makes of its setting; an empty package stands for verl's own, which needs ray."""
    folder = unpack_wheel(VERL) / "verl"
    before = set(sys.modules)
    for name, path in (("verl", folder), ("verl.utils", folder / "utils")):
        module = ModuleType(name)
        module.__path__ = [str(path)]
        vars(module)["DataProto"] = object
        monkeypatch.setitem(sys.modules, name, module)
    loader = importlib.import_module("verl.trainer.ppo.reward")
    function = loader.get_custom_reward_fn(SimpleNamespace(reward={"custom_reward_function": chosen}))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "verl" and name not in ("verl", "verl.utils"):
            monkeypatch.delitem(sys.modules, name)
    return function


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("runs/sft", "--to", "verl"), "runs/sft: is a run of sft; --to verl takes one of grpo"),
            (("runs/sft", "--to", "hf", "--data", "ex.jsonl"), "--data and --test are for --to verl"),
            (("runs/grpo", "--to", "verl", "--dtype", "float16"), "--dtype: is for --to hf and vllm"),
            (("missing", "--to", "hf"), "missing/manifest.json: no such file"),
            (("runs/grpo", "--to", "verl", "--data", "other.jsonl"), "other.jsonl: not the examples of this run"),
            (("runs/grpo", "--to", "verl", "--data", "none.jsonl"), "none.jsonl: No such file or directory"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_exported(self, words: tuple[str, ...], why: str, work: Path, cli: InProcess) -> None:
        write_lines(work / "other.jsonl", EXAMPLES[:3])
        status = 2 if why.startswith("--") else 1
        assert refusal(cli("export", *words, "-o", "out"), status).removesuffix("; give them by --data") == why
        assert not Path("out").exists()

    def test_an_unfinished_run(self, work: Path, cli: InProcess) -> None:
        replace(read_manifest(work / "runs/sft"), finished=False).write(work / "runs/sft")
        done = cli("export", "runs/sft", "--to", "hf", "-o", "out")
        assert refusal(done) == "runs/sft: this run is not finished; continue it with --resume"

    def test_an_output_that_is_there(self, work: Path, cli: InProcess) -> None:
        for output in ("runs/sft", "runs"):
            done = cli("export", "runs/sft", "--to", "hf", "-o", output, "--overwrite")
            assert refusal(done, 2) == f"{output}: the output folder holds the run; choose another output"
        done = cli("export", "runs/sft", "--to", "hf", "-o", "runs/grpo")
        assert refusal(done) == "runs/grpo: not empty; add --overwrite to replace it"
        (work / "out").mkdir()
        (work / "out/mine.txt").touch()
        done = cli("export", "runs/sft", "--to", "hf", "-o", "out", "--overwrite")
        assert refusal(done) == "out: not empty and not a toolrl output; choose another folder"

    @pytest.mark.parametrize(
        ("output", "how"), [("models/base", "holds"), ("models", "holds"), ("models/base/out", "lies in")]
    )
    def test_an_output_over_the_base(self, output: str, how: str, work: Path, cli: InProcess, tiny_model: Path) -> None:
        shutil.copytree(tiny_model, work / "models/base")
        for folder in ("models", "models/base"):
            read_manifest(work / "runs/sft").write(work / folder)
        change_config(work / "runs/sft", base_model="models/base")
        before = snapshot(work)
        done = cli("export", "runs/sft", "--to", "hf", "-o", output, "--overwrite")
        assert refusal(done, 2) == f"{output}: the output folder {how} the input models/base; choose another output"
        assert snapshot(work) == before

    @pytest.mark.parametrize(
        ("output", "words", "given"),
        [
            ("prepared", ("--data", "prepared/ex.jsonl"), "prepared/ex.jsonl"),
            ("prepared", ("--test", "prepared/ex.jsonl"), "prepared/ex.jsonl"),
            ("prepared", (), "prepared/mine.yaml"),
            ("runs/sft", (), "runs/sft"),
            ("runs/sft/verl", (), "runs/sft"),
        ],
    )
    def test_an_output_over_what_verl_is_given(
        self, output: str, words: tuple[str, ...], given: str, work: Path, cli: InProcess
    ) -> None:
        (work / "prepared").mkdir()
        read_manifest(work / "runs/sft").write(work / "prepared")
        shutil.copyfile("ex.jsonl", "prepared/ex.jsonl")
        (work / "prepared/mine.yaml").write_text("format: {weight: 2}\n")
        change_config(work / "runs/grpo", reward="prepared/mine.yaml")
        before = snapshot(work)
        done = cli("export", "runs/grpo", "--to", "verl", "-o", output, "--overwrite", *words)
        how = "holds" if given.startswith(output) else "lies in"
        assert refusal(done, 2) == f"{output}: the output folder {how} the input {given}; choose another output"
        assert snapshot(work) == before

    def test_an_output_in_the_folder_of_the_run(self, work: Path, cli: InProcess) -> None:
        for words in ((), ("--overwrite",)):
            export(cli, "runs/sft", "--to", "hf", "-o", "runs/sft/merged", *words)
        assert resolve_model("runs/sft").adapter == Path("runs/sft")

    def test_an_output_that_is_a_link(self, work: Path, cli: InProcess) -> None:
        shutil.copytree("runs/sft", "out")
        Path("link").symlink_to("out")
        before = snapshot(work)
        why = f"link: is a link, and --overwrite replaces folders; give its folder {(work / 'out').resolve()}"
        for words in (("export", "runs/sft", "--to", "hf"), ("sft", "ex.jsonl", "--model", "runs/sft")):
            assert refusal(cli(*words, "-o", "link", "--overwrite")) == why
        assert snapshot(work) == before
