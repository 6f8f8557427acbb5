"""The reward in other frameworks, called as each of them calls a reward; the slow tests run their own code."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import subprocess
import sys
from collections import UserDict, UserList
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from toolrl_cli.downloads import Wheel, unpack_wheel
from toolrl_cli.errors import ConfigError, DataError, FormatError, SetupError
from toolrl_cli.plugins import openrlhf, trl, verifiers, verl
from toolrl_cli.plugins.gold import read_gold
from toolrl_cli.records import Target, ToolCall

PLUGINS = Path(trl.__file__).parent
GOLD = Target("t", (ToolCall("f", {"a": 1}),))
TEXT = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
REPLY = "<think> t </think>\n<response> Hi </response>"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
AS_TEXT = TEXT.replace('"a": 1', '"a": "1"')


@pytest.mark.parametrize("gold", [TEXT, GOLD.to_json(), json.dumps(GOLD.to_json()), f"  {json.dumps(GOLD.to_json())}"])
def test_gold_is_read_as_data_sets_hold_it(gold: object) -> None:
    assert read_gold(gold) == GOLD


def test_gold_that_cannot_be_read() -> None:
    for gold, kind in ((3, DataError), (None, DataError), ("{", DataError), ("hello", FormatError)):
        with pytest.raises(kind):
            read_gold(gold)


HERMES_TEXT = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
LLAMA3_TEXT = '{"name": "f", "parameters": {"a": 1}}'
OWN = [("hermes", HERMES_TEXT), ("llama3", LLAMA3_TEXT)]


class TestOtherFormats:
    """Completions, and gold texts, as the models' own chat templates write them."""

    @pytest.mark.parametrize(
        ("name", "text", "calls"),
        [*((name, text, 1) for name, text in OWN), ("llama3", f"{LLAMA3_TEXT}; {LLAMA3_TEXT}", 2)],
    )
    def test_gold(self, name: str, text: str, calls: int) -> None:
        assert read_gold(text, name) == Target(None, (ToolCall("f", {"a": 1}),) * calls)
        assert read_gold(json.dumps(GOLD.to_json()), name) == GOLD
        named = Target("t", (ToolCall("name", {"name": "name"}),))
        assert read_gold(json.dumps(named.to_json()), name) == named

    @pytest.mark.parametrize(("name", "text"), OWN)
    def test_trl(self, name: str, text: str) -> None:
        functions = trl.reward_functions("robust", text_format=name)
        texts = [text, TEXT]
        assert functions[1](completions=texts, ground_truth=[text, text])[0] == 3.0
        assert functions[0](completions=texts, ground_truth=[text, text]) == [1.0, 0.0]

    @pytest.mark.parametrize(("name", "text"), OWN)
    def test_verl(self, name: str, text: str) -> None:
        assert verl.compute_score("x", text, text, text_format=name)["score"] == 4.0
        assert verl.compute_score("x", text, GOLD.to_json())["score"] < 4.0

    @pytest.mark.parametrize(("name", "text"), OWN)
    def test_the_environment_names_it(self, name: str, text: str) -> None:
        code = (
            "import asyncio, types\n"
            "from toolrl_cli.plugins import openrlhf, verifiers\n"
            f"text = {text!r}\n"
            "print(openrlhf.reward_func(['Q' + text + '<|eot_id|>'], ['Q'], [text])['rewards'])\n"
            "print(verifiers.rubric_reward(text, text))\n"
            "call = {'function': {'name': 'f', 'arguments': '{\"a\": 1}'}}\n"
            "print(verifiers.rubric_reward([{'role': 'assistant', 'tool_calls': [call]}], text))\n"
            "trace = types.SimpleNamespace(last_reply=text)\n"
            "print(asyncio.run(verifiers.reward(types.SimpleNamespace(answer=text), trace)))\n"
        )
        environment = os.environ | {"TOOLRL_FORMAT": name}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout.splitlines() == ["[4.0]", "4.0", "4.0", "{'format': 1.0, 'correctness': 3.0}"], done.stderr

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="unknown format 'alpaca'"):
            trl.reward_functions(text_format="alpaca")


class TestTrl:
    """Called as TRL 1.16's `GRPOTrainer._calculate_rewards` does: each function with the same objects."""

    def call(self, reward: str, texts: list[Any], **columns: Any) -> dict[str, list[float | None]]:
        columns = {
            "prompts": ["p"] * len(texts),
            "completions": texts,
            "completion_ids": [[1]] * len(texts),
            "trainer_state": SimpleNamespace(global_step=0),
            "log_metric": lambda name, value: None,
            "log_extra": lambda name, values: None,
            **columns,
        }
        return {function.__name__: function(**columns) for function in trl.reward_functions(reward)}

    def test_a_part_that_says_nothing_is_none(self) -> None:
        texts = [[{"role": "assistant", "content": text}] for text in (TEXT, REPLY, TEXT)]
        assert self.call("fine-grained", texts, ground_truth=[TEXT, REPLY, REPLY]) == {
            "format": [1.0, 1.0, 0.0],
            "correctness": [3.0, None, None],
        }
        # the robust reward judges replies too
        assert self.call("robust", texts, ground_truth=[TEXT, REPLY, REPLY])["correctness"] == [3.0, 3.0, -3.0]

    def test_schedules_follow_the_trainer(self) -> None:
        for step, values in ((29, [1.0, 1.0]), (30, [0.5, 3.0])):
            state = SimpleNamespace(global_step=step)
            parts = self.call("two-stage", [TEXT], target=[GOLD.to_json()], trainer_state=state)
            assert [value for part in parts.values() for value in part] == values

    def test_tools_decide_where_the_reward_reads_them(self) -> None:
        columns = {"target": [json.dumps(GOLD.to_json())], "tools": [json.dumps(TOOLS)]}
        assert self.call("robust", [AS_TEXT], **columns)["correctness"] == [3.0]
        assert self.call("fine-grained", [AS_TEXT], **columns)["correctness"] == [1.0]

    def test_a_batch_is_scored_once(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "def f(completions, prompts, colour, **columns):\n"
            "    print(prompts, colour, file=open(__file__ + '.log', 'a'))\n"
            "    return [0.0] * len(completions)\n"
        )
        columns = {"ground_truth": [TEXT, TEXT], "prompts": ["p", "q"], "colour": ["red", "blue"]}
        assert self.call(f"fine-grained,{tmp_path / 'mine.py'}:f=2", [TEXT, ""], **columns) == {
            "format": [1.0, 0.0],
            "correctness": [3.0, -3.0],
            "f": [0.0, 0.0],
        }
        assert (tmp_path / "mine.py.log").read_text() == "['p', 'q'] ['red', 'blue']\n"

    def test_the_same_list_is_scored_anew_when_something_else_is(self) -> None:
        form, calls = trl.reward_functions("two-stage")
        texts, states = [TEXT], [SimpleNamespace(global_step=step) for step in (29, 30)]
        assert form(completions=texts, ground_truth=[TEXT], trainer_state=states[0]) == [1.0]
        assert calls(completions=texts, ground_truth=[TEXT], trainer_state=states[0]) == [1.0]
        assert calls(completions=texts, ground_truth=[TEXT], trainer_state=states[1]) == [3.0]
        assert calls(completions=texts, ground_truth=[AS_TEXT], trainer_state=states[1]) == [1.0]
        texts[0] = ""
        assert calls(completions=texts, ground_truth=[AS_TEXT], trainer_state=states[1]) == [-3.0]

    def test_the_parts_add_up_to_what_score_says(self, tmp_path: Path) -> None:
        (tmp_path / "w.yaml").write_text("format: {weight: 0.5}\ncorrectness: {weight: 2}\nlength: {weight: 3}\n")
        reward = f"{tmp_path / 'w.yaml'}=0.1,coarse=-2"
        rows = [{"completion": text, "ground_truth": gold} for text in (TEXT, AS_TEXT, REPLY) for gold in (TEXT, REPLY)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, "-m", "toolrl_cli", "score", str(tmp_path / "rows.jsonl"), "-o", "-"]
        scored = subprocess.run([*command, "--reward", reward], capture_output=True, text=True).stdout
        totals = [json.loads(line)["score"]["total"] for line in scored.splitlines()]
        parts = self.call(reward, [r["completion"] for r in rows], ground_truth=[r["ground_truth"] for r in rows])
        sums = [sum(value or 0.0 for value in values) for values in zip(*parts.values(), strict=True)]
        assert sums == pytest.approx(totals)
        assert len(set(totals)) == 5


class TestVerl:
    """Keywords, one sample a call; every sample must give the same keys."""

    def test_called_as_the_naive_reward_manager_does(self) -> None:
        for text, score in ((TEXT, {"score": 4.0, "format": 1.0, "correctness": 3.0, "exact": 1.0}), ("", None)):
            got = verl.compute_score(
                data_source="rlla", solution_str=text, ground_truth=TEXT, extra_info={"index": 0, "num_turns": 2}
            )
            assert got == (score or {"score": -3.0, "format": 0.0, "correctness": -3.0, "exact": 0.0})

    def test_reward_step_and_tools(self) -> None:
        extra = {"global_steps": 30, "tools": json.dumps(TOOLS)}
        assert verl.compute_score("rlla", TEXT, TEXT, extra, reward="two-stage")["score"] == 3.5
        assert verl.compute_score("rlla", AS_TEXT, TEXT, extra, reward="robust")["score"] == 4.0
        assert verl.compute_score("rlla", AS_TEXT, TEXT, {"global_steps": None}, reward="robust")["score"] == 2.0
        with pytest.raises(DataError, match=r"the tools are no JSON: '\[\{'"):
            verl.compute_score("rlla", TEXT, TEXT, {"tools": "[{"}, reward="robust")

    def test_settings_of_any_kind_of_mapping(self) -> None:
        settings = UserDict({"correctness": UserDict({"low": -1, "high": UserList([1])[0]})})
        assert verl.compute_score("rlla", "", TEXT, settings=settings)["score"] == -1.0


@pytest.mark.parametrize(
    ("query", "prompt"),
    [
        (f"<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n{TEXT}<|im_end|>\n", "another prompt"),
        (f"Q: {TEXT}</s>", "Q: "),
        (f"Q: {TEXT}<|eot_id|><|end_of_text|>", "Q: "),
    ],
)
def test_openrlhf_finds_the_response_in_a_query(query: str, prompt: str) -> None:
    assert openrlhf.reward_func([query], [prompt], [TEXT]) == {
        "rewards": [4.0],
        "scores": [4.0],
        "extra_logs": {"format": [1.0], "correctness": [3.0]},
    }


def test_verifiers() -> None:
    task, trace = SimpleNamespace(answer=TEXT), SimpleNamespace(last_reply=TEXT)
    assert asyncio.run(verifiers.reward(task=task, trace=trace)) == {"format": 1.0, "correctness": 3.0}
    assert verifiers.rubric_reward(completion=[{"role": "assistant", "content": TEXT}], answer=TEXT) == 4.0
    for arguments, total in (('{"a": 1}', 4.0), ({"a": 1}, 4.0), ("{", -2.0), ("[1]", -2.0)):
        function = {"name": "f", "arguments": arguments}
        reply = {"role": "assistant", "reasoning_content": "t", "content": None, "tool_calls": [{"function": function}]}
        assert verifiers.rubric_reward(completion=[reply], answer=TEXT) == total


class Stubs:
    """Empty packages around the real modules of a framework whose own `__init__` needs a GPU stack."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._before = set(sys.modules)

    def package(self, name: str, path: Path | None = None, **content: Any) -> ModuleType:
        """Put a package into `sys.modules`; its submodules are found in `path`."""
        module = ModuleType(name)
        if path:
            module.__path__ = [str(path)]
        vars(module).update(content)
        self._monkeypatch.setitem(sys.modules, name, module)
        return module

    def forget(self) -> None:
        """Remove everything that was imported meanwhile."""
        for name in set(sys.modules) - self._before:
            if name.partition(".")[0] in ("verl", "swift", "openrlhf", "vf"):
                del sys.modules[name]


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubs]:
    stubs = Stubs(monkeypatch)
    yield stubs
    stubs.forget()


VERL = Wheel("verl", "0.9.1", "db6e6f2a8d9d5808d9ec32d357a42319fdc6967df688ff9d9810050f49bfdd14")
SWIFT = Wheel("ms-swift", "4.6.0", "8888ca2b88681aeabffc981f289ffc3e4fa6e4da7f83e885114ec0edbe8d99ea")
VERIFIERS = Wheel("verifiers", "0.4.0", "cf73b3089c12ff1e2471130153cfa93cfe9beb8b49abfb2ceb917658d99fefe2")


@pytest.mark.slow
def test_verl_loads_and_calls_it(stubs: Stubs) -> None:
    folder = unpack_wheel(VERL) / "verl"
    stubs.package("verl", folder, DataProto=object)
    stubs.package("verl.utils", folder / "utils")
    loader = importlib.import_module("verl.trainer.ppo.reward")
    chosen = {"path": "pkg://toolrl_cli.plugins.verl", "name": "compute_score", "reward_kwargs": {"reward": "robust"}}
    function = loader.get_custom_reward_fn(SimpleNamespace(reward={"custom_reward_function": chosen}))
    got = function(data_source="rlla", solution_str=REPLY, ground_truth=REPLY, extra_info={"num_turns": 1})
    assert got == {"score": 4.0, "format": 1.0, "correctness": 3.0, "exact": 1.0}


@pytest.mark.slow
def test_ms_swift_registers_and_calls_it(stubs: Stubs) -> None:
    folder = unpack_wheel(SWIFT) / "swift"
    stubs.package("swift", folder)
    stubs.package("swift.infer_engine", InferRequest=object)
    rewards = stubs.package("swift.rewards", folder / "rewards")
    orm = importlib.import_module("swift.rewards.orm")
    vars(rewards).update(ORM=orm.ORM, orms=orm.orms)
    spec = importlib.util.spec_from_file_location("ms_swift", PLUGINS / "ms_swift.py")
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    columns = {"trainer_state": SimpleNamespace(global_step=3), "ground_truth": [TEXT, REPLY], "messages": [[], []]}
    functions = {name: orm.orms[name](args=SimpleNamespace()) for name in ("toolrl", "toolrl-two-stage-correctness")}
    got = {name: function([TEXT, REPLY], **columns) for name, function in functions.items()}
    assert got == {"toolrl": [4.0, 1.0], "toolrl-two-stage-correctness": [1.0, None]}
    assert type(functions["toolrl-two-stage-correctness"]).__name__ == "toolrl-two-stage-correctness"


@pytest.mark.slow
def test_verifiers_invokes_it(stubs: Stubs) -> None:
    stubs.package("vf", unpack_wheel(VERIFIERS) / "verifiers" / "v1" / "utils")
    decorators = importlib.import_module("vf.decorators")
    objects = {"task": SimpleNamespace(answer=TEXT), "trace": SimpleNamespace(last_reply=TEXT), "runtime": None}
    assert asyncio.run(decorators.invoke_all([verifiers.reward], objects)) == [{"format": 1.0, "correctness": 3.0}]


@pytest.mark.slow
def test_openrlhf_loads_and_calls_it(stubs: Stubs) -> None:
    folder = openrlhf_source()
    stubs.package("openrlhf", folder)
    stubs.package("openrlhf.utils", folder / "utils")
    stubs.package("openrlhf.utils.logging_utils", init_logger=logging.getLogger)
    if importlib.util.find_spec("aiohttp") is None:
        stubs.package("aiohttp")
    agent = importlib.import_module("openrlhf.utils.agent")
    executor = agent.SingleTurnAgentExecutor([str(PLUGINS / "openrlhf.py")])
    [info] = asyncio.run(executor._fetch_rewards_via_func([f"Q: {TEXT}<|im_end|>"], ["Q: "], [TEXT]))
    assert (info["rewards"], info["extra_logs"]) == ([4.0], {"format": [1.0], "correctness": [3.0]})


def openrlhf_source() -> Path:
    """The package inside OpenRLHF's wheel, which keeps it below a data folder."""
    wheel = Wheel("openrlhf", "0.11.2", "c969d70db03a70724c3d8a5a01186c6e0728bce624fb3dff95e39b5396acefa6")
    try:
        return unpack_wheel(wheel) / "openrlhf-0.11.2.data" / "purelib" / "openrlhf"
    except SetupError as error:  # it is built for one Python and platform a wheel
        pytest.skip(str(error))
