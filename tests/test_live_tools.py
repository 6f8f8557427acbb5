"""`toolrl grpo --tools`: tools that run while a model trains, and the reward on the whole trajectory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, InProcess, call, example, read_rows, refusal, write_lines

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.manifest import hash_file, read_manifest
from toolrl_cli.plugins.trl import text_of
from toolrl_cli.records import Example
from toolrl_cli.training.live_tools import LiveTools, load_live_tools

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[1] / "data_samples" / "live"
DRAWER = '''
class Drawer:
    """Things by name."""

    def reset(self, **row):
        self.things = []

    def get_reward(self):
        return float(len(self.things))

    def put(self, thing: str) -> str:
        """Put a thing in.

        Args:
            thing: what
        """
        if self.things:
            raise ValueError("full")
        self.things.append(thing)
        print("a tool may print")
        return "in"
'''
QUESTION = [{"role": "user", "content": "Keep my pen."}]
PUT = {"type": "function", "function": {"name": "put", "arguments": {"thing": "pen"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [PUT]}


@pytest.fixture(scope="session")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a class of one tool."""
    path = tmp_path_factory.mktemp("tools") / "drawer.py"
    path.write_text(DRAWER)
    return path


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory, toolrl: Cli, tiny_model: Path, drawer: Path) -> Path:
    """A tiny model with Qwen's chat template that has learned to call the tool once, and to say done."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.chat_template_utils import qwen2_5_chat_template

    folder = tmp_path_factory.mktemp("caller")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = qwen2_5_chat_template
    tokenizer.save_pretrained(folder / "base")
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder / "base")
    tools = load_live_tools(drawer).schemas
    told = [*QUESTION, CALLED, {"role": "tool", "name": "put", "content": "in"}]
    rows = [example("first", "Keep my pen.", {"tool_calls": [{"name": "put", "arguments": {"thing": "pen"}}]}, tools)]
    rows.append({**rows[0], "id": "second", "messages": told, "target": {"response": "done"}})
    words = ["sft", write_lines(folder / "sft.jsonl", rows), "--model", folder / "base", "-o", folder / "sft"]
    words += ["--tuning", "full", "--learning-rate", 1e-2, "--batch-size", 2, "--max-steps", 120, "--format", "native"]
    done = toolrl(*words)
    assert done.returncode == 0, done.stderr
    return folder / "sft"


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks whose gold is the call and the reply after it; their own tools do not matter."""
    rows = [example(id, "Keep my pen.", {**call("put", thing="pen"), "thought": None}) for id in ("a", "b")]
    return write_lines(tmp_path_factory.mktemp("tasks") / "tasks.jsonl", rows)


def grpo(tasks: Path, model: Path, tools: Path, output: Path, *more: object) -> list[object]:
    words = ["grpo", tasks, "--model", model, "--tools", tools, "-o", output, "--tuning", "full", "--max-steps", 2]
    sizes = ["--num-generations", 2, "--batch-size", 4, "--micro-batch-size", 4, "--max-completion-length", 120]
    return [*words, *sizes, "--temperature", 0.1, *more]


@pytest.fixture(scope="session")
def live_run(tmp_path_factory: pytest.TempPathFactory, toolrl: Cli, tasks: Path, caller: Path, drawer: Path) -> Path:
    """A run of two steps with the tool running."""
    output = tmp_path_factory.mktemp("live") / "run"
    done = toolrl(*grpo(tasks, caller, drawer, output, "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"], "what a tool prints does not mix with the result"
    return output


def test_the_model_sees_what_its_tools_return(live_run: Path) -> None:
    row = read_rows(live_run / "completions.jsonl")[0]
    called, returned, said = row["trajectory"]
    assert (called["tool_calls"], returned["role"], returned["content"]) == ([PUT], "tool", "in")
    assert (said["role"], said["content"]) == ("assistant", "done")


def test_the_reward_is_on_the_whole_trajectory(live_run: Path, cli: InProcess, tmp_path: Path) -> None:
    rows = read_rows(live_run / "completions.jsonl")
    wanted = '\n<tool_call>\n{"name": "put", "arguments": {"thing": "pen"}}\n</tool_call>'
    exact = [row for row in rows if row["completion"] in (f"done{wanted}", wanted.strip())]
    assert exact
    assert {row["score"]["correctness"] for row in exact} == {3.0}
    assert all(row["score"]["outcome"] == "exact" for row in exact)
    done = cli("score", live_run / "completions.jsonl", "-o", tmp_path / "scored.jsonl")
    assert done.exit_code == 0, done.stderr
    assert [row["score"] for row in read_rows(tmp_path / "scored.jsonl")] == [row["score"] for row in rows]


def test_completions_of_one_task_are_a_group(live_run: Path, cli: InProcess) -> None:
    done = cli("score", live_run / "completions.jsonl", "--group-by", "prompt", "--json")
    assert json.loads(done.stdout)["groups"]["sizes"] == {"2": 4}


def test_the_class_rewards_and_the_tools_are_counted(live_run: Path) -> None:
    (first, _) = read_rows(live_run / "metrics.jsonl")
    assert first["tools/call_frequency"] >= 0.5
    assert 0.5 <= first["rewards/Drawer/mean"] <= 1.0, "each rollout has a drawer of its own, emptied before it"


def test_the_run_records_its_tools_and_its_format(live_run: Path, drawer: Path) -> None:
    manifest = read_manifest(live_run)
    assert (manifest.format, manifest.hashes["tools"]) == ("hermes", hash_file(drawer))


def test_the_sample_loads_and_its_gold_names_its_tools() -> None:
    tools = load_live_tools(SAMPLES / "calendar_tools.py")
    examples = [Example.from_json(row) for row in read_rows(SAMPLES / "tasks.jsonl")]
    served = tools.serve(examples)
    assert [tool["function"]["name"] for tool in served[0].tools] == ["add_event", "list_events", "remove_event"]
    for task in examples:
        calendar: Any = tools.environment() if tools.environment else None
        calendar.reset(target=json.dumps(task.target.to_json()))
        for gold in task.target.tool_calls:
            result = getattr(calendar, gold.name)(**gold.arguments)
        assert calendar.get_reward() == 1.0
        assert task.target.response in (None, result)


def test_a_calendar_that_stands_otherwise_earns_nothing() -> None:
    calendar: Any = load_live_tools(SAMPLES / "calendar_tools.py").environment
    rollout = calendar()
    rollout.reset(target=json.dumps({"tool_calls": [{"name": "add_event", "arguments": {"title": "x", "day": "y"}}]}))
    assert rollout.get_reward() == 0.0
    with pytest.raises(ValueError, match="no choir on monday"):
        rollout.remove_event("choir", "monday")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1", "defines no public function and no class with a method reset"),
        ("import nothing_there", "cannot be imported (ModuleNotFoundError: No module named 'nothing_there')"),
        ("def f(a): 'Doc.'", "f has no schema"),
        ("def f(a: int): pass", "f has no schema"),
        ("class A:\n    def __init__(self, x): pass\n    def reset(self): pass", "A() raises TypeError"),
        (
            "class A:\n    def reset(self): pass\nclass B:\n    def reset(self): pass",
            "several classes have reset (A, B)",
        ),
        ("raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
    ],
)
def test_files_without_usable_tools_are_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tools.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_live_tools(path)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("def reset(self, **row):\n        raise KeyError('drawer')", "D.reset raises KeyError: 'drawer'"),
        (
            "def get_reward(self):\n        return 'high'",
            "D.get_reward returns 'high'; it must return a number, or None",
        ),
    ],
)
def test_what_a_class_does_wrong_in_training_is_named(
    method: str, why: str, tasks: Path, caller: Path, cli: InProcess, tmp_path: Path
) -> None:
    text = "class D:\n    def reset(self, **row):\n        self.x = 1\n\n    def put(self, thing: str) -> str:\n"
    text += '        """Put.'
    text += f'\n\n        Args:\n            thing: what.\n        """\n        return "in"\n\n    {method}\n'
    tools = tmp_path / "drawer.py"
    tools.write_text(text)
    assert f"--tools {tools}: {why}" in cli(*grpo(tasks, caller, tools, tmp_path / "run")).stderr


def test_a_gold_call_of_no_tool_is_refused() -> None:
    tools = LiveTools((), None, ({"type": "function", "function": {"name": "weather"}},))
    with pytest.raises(DataError, match="example oslo: its gold calls wether, which --tools does not define"):
        tools.serve([Example.from_json(example("oslo", "Oslo?", call("wether", city="Oslo")))])


def test_a_model_of_another_format_is_refused(
    tasks: Path, drawer: Path, caller: Path, tmp_path: Path, cli: InProcess
) -> None:
    refused = cli(*grpo(tasks, caller, drawer, tmp_path / "run", "--format", "llama3"))
    assert "--tools needs the format of the model's chat template, hermes, not llama3" in refusal(refused)


def test_trajectories_read_as_one_step() -> None:
    returned = {"role": "tool", "name": "put", "content": "in"}
    thinking = {**CALLED, "reasoning_content": "A pen."}
    block = '<tool_call>\n{"name": "put", "arguments": {"thing": "pen"}}\n</tool_call>'
    broken = {"role": "assistant", "content": '<tool_call>\n{"name": "put"'}
    said = {"role": "assistant", "content": "Kept."}
    assert text_of([said]) == "Kept."
    assert text_of([CALLED, returned, said], "hermes") == f"Kept.\n{block}"
    assert text_of([CALLED, returned, CALLED], "hermes") == f"{block}\n{block}"
    assert text_of([thinking, returned], "hermes") == f"<think>\nA pen.\n</think>\n\n{block}"
    assert text_of([CALLED, returned, broken], "hermes") == broken["content"]
    assert text_of([CALLED, returned, said], "llama3") == '{"name": "put", "parameters": {"thing": "pen"}}'


def test_a_preflight_samples_whole_dialogues(
    cli: InProcess, tasks: Path, caller: Path, drawer: Path, tmp_path: Path
) -> None:
    words = ("--preflight", 3, "--dry-run", "--force", "--json")
    done = cli(*grpo(tasks, caller, drawer, tmp_path / "run", *words))
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)["preflight"]
    assert (report["prompts"], report["samples"], report["rewards"]["n"]) == (2, 3, 6)
    assert report["rewards"]["outcomes"]["exact"] > 0
    assert report["cost"]["training_seconds_per_step"] > 0
    assert not (tmp_path / "run").exists()
