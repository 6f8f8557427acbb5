"""README.md of a run: a model card that says what it is, and whose code runs; and its upload, when asked for."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import EXAMPLES, Cli, InProcess, Place, read_rows, refusal, write_lines

from toolrl_cli.manifest import read_manifest
from toolrl_cli.training.card import write_card
from toolrl_cli.training.hub import push_to_hub
from toolrl_cli.training.models import ModelSource, name_for_others


def card_of(run: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of a run's README.md."""
    _, front, text = (run / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.fixture
def run(trained: Place, tmp_path: Path) -> Path:
    """A copy of the finished GRPO run."""
    return Path(shutil.copytree(trained.folder / "runs/grpo", tmp_path / "run"))


class TestCard:
    def test_the_front_matter_is_what_the_hub_reads(self, trained: Place) -> None:
        from huggingface_hub import ModelCard

        for command in ("sft", "grpo"):
            path = trained.folder / "runs" / command / "README.md"
            data = ModelCard.load(path).data
            assert data.to_dict() == {
                "library_name": "peft",
                "pipeline_tag": "text-generation",
                "tags": ["toolrl", "tool-calling", "trl", command, "lora"],
            }

    def test_a_base_of_the_hub_is_named(self, run: Path) -> None:
        manifest = read_manifest(run)
        for base, named in (("org/base", "org/base"), ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")):
            write_card(run, replace(manifest, config=manifest.config | {"base_model": base}))
            assert card_of(run)[0]["base_model"] == named

    def test_it_says_data_reward_start_results_and_configuration(self, trained: Place, tiny_model: Path) -> None:
        _, text = card_of(trained.folder / "runs/grpo")
        manifest = read_manifest(trained.folder / "runs/grpo")
        last = read_rows(trained.folder / "runs/grpo/metrics.jsonl")[-1]
        lines = text.splitlines()
        assert f"A LoRA adapter on `{tiny_model}`, trained by GRPO to call tools in the `toolrl` format, " in text
        assert f"- data: `ex.jsonl` (SHA-256 begins {manifest.hashes['data']}), 6 examples: 6 of test" in lines
        assert {"- reward: `fine-grained`", "- started from: `runs/sft`", "Step 2, the last:"} <= set(lines)
        assert f"| reward | {last['reward']:.4g} |" in lines
        assert f"| rewards/format/mean | {last['rewards/format/mean']:.4g} |" in lines
        assert f"| trl | {manifest.versions['trl']} |" in lines
        configuration = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
        assert configuration == {"seed": 0} | {k: v for k, v in manifest.config.items() if v not in (None, {})}

    def test_examples_are_counted_only_where_they_are_those_of_the_run(self, run: Path, tmp_path: Path) -> None:
        manifest = read_manifest(run)
        for rows in (EXAMPLES[:2], None):
            data = write_lines(tmp_path / "data.jsonl", rows) if rows else tmp_path / "none.jsonl"
            write_card(run, replace(manifest, config=manifest.config | {"data": str(data)}))
            assert f"- data: `{data}` (SHA-256 begins {manifest.hashes['data']})" in card_of(run)[1].splitlines()

    def test_settings_of_the_reward_stand_beside_it(self, run: Path) -> None:
        manifest = read_manifest(run)
        changes = {"matching": "greedy", "reward_settings": {"correctness.low": -1}}
        write_card(run, replace(manifest, config=manifest.config | changes))
        assert "- reward: `fine-grained` with matching greedy, correctness.low -1" in card_of(run)[1].splitlines()

    def test_its_code_runs(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_card(run, read_manifest(run))
        [code] = re.findall(r"```python\n(.*?)```", card_of(run)[1], re.DOTALL)
        generate, parse = code.rsplit("\n", 2)[:2]
        exec(generate.replace("max_new_tokens=256", "max_new_tokens=8"), {})
        assert capsys.readouterr().out
        assert parse == "print(text_format.parse_tool_calls(text))"

    def test_evaluations_in_the_run_are_results(self, run: Path, cli: InProcess, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "held_out.jsonl", EXAMPLES)
        words = ("--bench", "examples", "--data", data, "--model", run, "--max-new-tokens", 4, "-o", run / "held-out")
        done = cli("eval", *words, "--json")
        assert done.exit_code == 0, done.stderr
        write_card(run, read_manifest(run))
        metric = json.loads(done.stdout)["metrics"]["total"]
        lines = card_of(run)[1].splitlines()
        assert "examples, 6 entries, with 95% intervals:" in lines
        assert f"| total | {metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}] |" in lines


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        ("/cache/hub/snapshots/abc", "org/base", "org/base"),
        ("/cache/hub/snapshots/abc", "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/toolrl/models/SmolLM2-abc", "smollm2-135m", "/toolrl/models/SmolLM2-abc"),
        ("/toolrl/models/mine-abc", "/here/mine.gguf", "/toolrl/models/mine-abc"),
        ("/here/base", "/here/base", "/here/base"),
    ],
)
def test_a_base_is_named_so_that_other_programs_find_it(
    base: str, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLRL_CACHE", "/toolrl")
    assert name_for_others(ModelSource(Path(base), name)) == expected


@pytest.mark.slow
def test_a_run_on_a_base_from_gguf_loads_without_toolrl(
    toolrl: Cli, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    words = (
        "sft",
        examples_file,
        "--model",
        "smollm2-135m",
        "-o",
        tmp_path / "run",
        "--max-steps",
        1,
        "--batch-size",
        1,
    )
    done = toolrl(*words, "--lora-rank", 2)
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.bfloat16)
    assert model.num_parameters() > 134_000_000


class TestHub:
    """Against a server on this machine that speaks as much of the Hub's protocol as an upload needs."""

    def test_a_run_is_uploaded_to_a_private_repository(
        self, run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (run / "checkpoints/checkpoint-2").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints/checkpoint-2/optimizer.pt").touch()
        with hub(monkeypatch) as (asked, files):
            push_to_hub(run, "org/run")
        created = next(json.loads(body) for path, body in asked if path == "/api/repos/create")
        assert created == {"name": "run", "organization": "org", "visibility": "private"}
        kept = {"adapter_model.safetensors", "adapter_config.json", "README.md", "manifest.json", "metrics.jsonl"}
        assert kept < set(files)
        assert not [name for name in files if "/" in name or name.startswith(("completions", "training_args"))]
        assert files["adapter_model.safetensors"] == (run / "adapter_model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        ("repository", "why", "status"),
        [
            ("name", "--push-to-hub name: must read ORG/NAME", 2),
            ("org/name", "--push-to-hub org/name: Cannot reach ", 1),
        ],
    )
    def test_what_cannot_be_uploaded_is_said_before_the_training(
        self, repository: str, why: str, status: int, cli: InProcess, examples_file: Path, tiny_model: Path,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        done = cli("sft", examples_file, "--model", tiny_model, "-o", tmp_path / "run", "--push-to-hub", repository)
        assert refusal(done, status).startswith(why)
        assert not (tmp_path / "run").exists()

    def test_a_finished_run_is_uploaded_by_resume_or_by_hand(
        self, trained: Place, cli: InProcess, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(trained.folder)
        sft = ("sft", "ex.jsonl", "--model", tiny_model, "-o", "runs/sft", "--max-steps", 3, "--batch-size", 4)
        with hub(monkeypatch) as (_, files):
            done = cli(*sft, "--resume", "--push-to-hub", "org/sft", "--json")
        assert done.exit_code == 0, done.stderr
        assert "adapter_model.safetensors" in files
        with hub(monkeypatch) as (asked, files):
            done = cli(*sft, "--resume", "--push-to-hub", "org/sft", "--dry-run")
        assert (done.exit_code, asked, files) == (0, [], {})
        with hub(monkeypatch, refuse="/api/repos/create"):
            done = cli(*sft, "--resume", "--push-to-hub", "org/sft", "--json")
        assert refusal(done).endswith("; the run is finished; upload it by: hf upload org/sft runs/sft")


@contextmanager
def hub(
    monkeypatch: pytest.MonkeyPatch, refuse: str | None = None
) -> Iterator[tuple[list[tuple[str, bytes]], dict[str, bytes]]]:
    """Yields what was asked, as path and body, and the files that were committed."""
    import huggingface_hub

    asked: list[tuple[str, bytes]] = []
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            asked.append((path, body))
            status, reply = (403, {"error": "no"}) if path == refuse else (200, self.reply(path, body))
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def reply(self, path: str, body: bytes) -> dict[str, Any]:
            if path.endswith("/preupload/main"):
                named = [file["path"] for file in json.loads(body)["files"]]
                return {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in named]}
            if path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return {"commitUrl": f"{url}/org/run/commit/1", "commitOid": "1", "hookOutput": ""}
            if path == "/api/repos/create":
                return {"url": f"{url}/org/{json.loads(body)['name']}"}
            return {"name": "me", "type": "user", "orgs": []}

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    try:
        yield asked, files
    finally:
        server.shutdown()
        server.server_close()
