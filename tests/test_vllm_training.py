"""`toolrl grpo --vllm` as far as it goes without vLLM: its refusal, and what TRL is told."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, refusal

from toolrl_cli.errors import SetupError
from toolrl_cli.training import grpo
from toolrl_cli.training.arguments import build_arguments
from toolrl_cli.training.config import GrpoConfig
from toolrl_cli.training.run import Materials, construct


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_it_is_refused_before_a_model_is_looked_for(
    cli: InProcess, examples_file: Path, tmp_path: Path
) -> None:
    words = ("grpo", examples_file, "--model", "none", "-o", tmp_path / "run", "--batch-size", 8)
    for mode in ("colocate", "server"):
        assert refusal(cli(*words, "--vllm", mode)) == (
            "--vllm: vllm is not installed; run: python -m pip install vllm, or leave the option out"
        )


def test_a_server_that_is_not_there_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = GrpoConfig(data=tmp_path, model="m", output=tmp_path / "run", vllm="server")

    def build(materials: Materials) -> Any:
        raise ConnectionError("The vLLM server can't be reached at http://node2:8000 after 240 seconds.")

    with pytest.raises(SetupError, match="can't be reached at http://node2:8000"):
        construct(build, Materials(None, None, None), config)
    assert not (tmp_path / "run").exists()


def test_trl_is_told_the_mode_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOConfig

    monkeypatch.setattr(grpo, "find_spec", lambda name: ModuleSpec(name, None))
    url = "http://node2:8000"
    config = GrpoConfig(
        data=tmp_path, model="m", output=tmp_path, vllm="server", overrides={"vllm_server_base_url": url}
    )
    arguments = build_arguments(GRPOConfig, config, grpo.vllm_arguments(config))
    assert (arguments.use_vllm, arguments.vllm_mode, arguments.vllm_server_base_url) == (True, "server", url)
    assert grpo.vllm_arguments(GrpoConfig(data=tmp_path, model="m", output=tmp_path)) == {}
