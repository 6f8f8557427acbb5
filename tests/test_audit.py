"""`toolrl audit`: what it finds in the presets, in a bad reward, in one that crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolrl_cli.auditing import Audit, audit_reward, check
from toolrl_cli.errors import DataError, GateFailed
from toolrl_cli.formats import stock_format
from toolrl_cli.records import Example, Target, ToolCall
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.policies import POLICIES, hostile_texts
from toolrl_cli.rewards.spec import PRESETS

TOOLRL, HERMES = stock_format("toolrl"), stock_format("hermes")
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "toolrl" / "rlla_sft.json"
TOOLS: tuple[dict[str, Any], ...] = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("f", "g")
)
EXAMPLE = Example(
    "one", "test", TOOLS, ({"role": "user", "content": "Do it"},), Target("t", (ToolCall("f", {"n": 1, "s": "x"}),))
)
REPLY = Example("two", "test", TOOLS, ({"role": "user", "content": "Hi"},), Target("t", (), "Hello"))

# What the paper's presets pay wrongly, whatever the examples.
HOLES = {
    "a JSON list": "most",
    "`arguments` and `parameters` swapped": "most",
    "null for no parameters": "most",
    "pretty-printed JSON": "most",
    "right answer and a spurious call": "below",
    "right calls inside the thought only": "little",
    "tags in an argument": "most",
    "tags mentioned in the thought": "most",
}


def failures(audit: Audit) -> dict[str, str]:
    return {ordering.policy: ordering.expectation for ordering in audit.failed}


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_found_in_each_preset(preset: str) -> None:
    audit = audit_reward(find_reward(preset))
    expected = {} if preset == "robust" else dict(HOLES)
    if "length" in preset:
        expected["2,000 words of thought"] = "no more"
    if preset == "dynamic":  # at step 0 its format alone is half of its range
        expected = {name: HOLES[name] for name in HOLES if "spurious" in name or name.startswith("tags")}
    assert failures(audit) == expected
    assert audit.raised == ()
    assert (audit.examples, len(audit.policies)) == (176, len(POLICIES) + 1)


@pytest.mark.skipif(not REAL.exists(), reason="needs the real rows")
@pytest.mark.slow
def test_robust_holds_on_real_examples(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolrl_cli"]
    examples = tmp_path / "examples.jsonl"
    subprocess.run([*command, "prepare", str(REAL), "-o", str(examples)], check=True, capture_output=True)
    done = subprocess.run(
        [*command, "audit", "robust", "--data", str(examples), "--json"], capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert (done.returncode, found["passed"], found["examples"]) == (0, True, 400)
    honest = audit_reward(find_reward("fine-grained"), examples).orderings[0]
    # 17 thoughts mention <tool_call>, so that the right answer earns no more than silence
    assert (honest.policy, honest.violations, honest.first) == ("honest answer", 17, "toolrl-rlla_sft-11")


@pytest.mark.parametrize(
    ("text_format", "holes", "untried"),
    [
        ("hermes", ["a JSON list"], ["no thought"]),
        ("llama3", [], ["no thought", "2,000 words", "right calls inside the thought", "tags mentioned"]),
    ],
)
def test_what_is_found_in_a_models_own_format(text_format: str, holes: list[str], untried: list[str]) -> None:
    """Fewer holes: a format that parses JSON reads any layout of it, and a thought is no place for calls."""
    found = audit_reward(find_reward("fine-grained"), text_format=text_format)
    spellings = ["`arguments` and `parameters` swapped", "null for no parameters"]
    assert failures(found) == dict.fromkeys([*holes, *spellings], "most")
    tried = [result.policy for result in found.policies]
    left_out = [policy.name for policy in POLICIES if policy.name not in tried]
    assert [name for name in left_out if not name.startswith(tuple(untried))] == []
    assert len(left_out) == len(untried)
    robust = audit_reward(find_reward("robust"), text_format=text_format)
    assert (failures(robust), robust.raised, robust.examples) == ({}, (), 176)


def test_an_example_that_a_format_cannot_express(tmp_path: Path) -> None:
    both = EXAMPLE.to_json() | {"target": {"tool_calls": [{"name": "f", "arguments": {}}], "response": "Wait."}}
    (tmp_path / "ex.jsonl").write_text(json.dumps(both))
    command = [sys.executable, "-m", "toolrl_cli", "audit", "robust", "--data", str(tmp_path / "ex.jsonl")]
    done = subprocess.run([*command, "--format", "llama3"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "toolrl: example one: the llama3 format cannot express this target (its response; --format toolrl can)\n",
    )


def test_what_each_policy_answers() -> None:
    answers = {p.name: [t.rollout.text for e in (EXAMPLE, REPLY) if (t := p.answer(e, TOOLRL))] for p in POLICIES}
    call = '{"name": "f", "parameters": {"n": 1, "s": "x"}}'
    assert answers["repeat the right calls 5 times"] == [
        "<think> t </think>\n<tool_call>\n" + "\n".join([call] * 5) + "\n</tool_call>"
    ]
    assert answers["empty call block"] == ["<think> t </think>\n<tool_call>\n\n</tool_call>"]
    assert answers["no thought"] == [f"<tool_call>\n{call}\n</tool_call>", "<response> Hello </response>"]
    assert answers["numbers as strings"] == [
        '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"n": "1", "s": "x"}}\n</tool_call>'
    ]
    assert answers["question copied into every argument"] == [
        '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {"n": "Do it", "s": "Do it"}}\n</tool_call>'
    ]
    assert answers["right calls inside the thought only"] == [f"<think> \n<tool_call>\n{call}\n</tool_call> </think>"]
    hermes = {p.name: [t.rollout.text for e in (EXAMPLE, REPLY) if (t := p.answer(e, HERMES))] for p in POLICIES}
    line = call.replace("parameters", "arguments")
    thought, block = "<think>\nt\n</think>\n\n", f"<tool_call>\n{line}\n</tool_call>"
    assert hermes["repeat the right calls 5 times"] == [thought + "\n".join([block] * 5)]
    assert hermes["no thought"] == [block, "Hello"]
    assert hermes["`arguments` and `parameters` swapped"] == [f"{thought}<tool_call>\n{call}\n</tool_call>"]
    assert hermes["right calls inside the thought only"] == [f"<think>\n\n{block}\n</think>\n\n"]
    surplus = block.replace(line, '{"name": "surplus_tool", "arguments": {"reason": "none"}}')
    assert hermes["right answer and a spurious call"] == [f"{thought}{block}\n{surplus}", f"{thought}Hello\n{surplus}"]
    assert answers["always call"] == [
        '<think> I think about it. </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
    ]
    assert json.loads(answers["a JSON list"][0].split("\n")[2]) == [json.loads(call)]
    assert len(answers["call every tool"]) == len(answers["right answer and a spurious call"]) == 2
    assert len(hostile_texts(EXAMPLE, TOOLRL)["10 MB of text"]) > 10_000_000


BAD = """
def constant(completions, **columns):
    return [1.0] * len(completions)

def fragile(completions, **columns):
    return [float(len(c[0]["content"].encode())) for c in completions]

def leaving(completions, **columns):
    print("noise")
    raise SystemExit(0)

def honest(completions, ground_truth, **columns):
    return [float(c[0]["content"] == gold) for c, gold in zip(completions, ground_truth)]
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(BAD)
    return path


def test_a_constant_reward_pays_silence_like_the_truth(plugin: Path) -> None:
    audit = audit_reward(find_reward(f"{plugin}:constant"), limit=5)
    assert (audit.orderings[0].policy, audit.orderings[0].violations) == ("honest answer", 5)
    assert audit.examples == 5
    shown = subprocess.run(
        [sys.executable, "-m", "toolrl_cli", "audit", f"{plugin}:constant"], capture_output=True, text=True
    )
    assert (shown.returncode, "176/176 above silence" in shown.stdout) == (3, True)
    with pytest.raises(GateFailed, match=r":constant: \d+ orderings fail, 0 inputs raise"):
        check(audit)


def test_inputs_that_raise_are_named(plugin: Path) -> None:
    audit = audit_reward(find_reward(f"{plugin}:fragile"), limit=30)
    assert {item["input"] for item in audit.raised} == {"lone surrogates"}
    assert "raises UnicodeEncodeError" in audit.raised[0]["error"]


def test_a_reward_that_exits_or_prints_spoils_nothing(plugin: Path) -> None:
    command = [sys.executable, "-m", "toolrl_cli", "audit", f"{plugin}:leaving", "--limit", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "raises SystemExit: 0" in json.loads(done.stdout)["raised"][0]["error"]


def test_a_reward_gets_the_questions(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "def asked(completions, prompts, **columns):\n    return [float(len(p[-1]['content'])) for p in prompts]\n"
    )
    policies = audit_reward(find_reward(f"{tmp_path / 'asked.py'}:asked"), limit=5).policies
    assert min(policy.mean or 0.0 for policy in policies) > 1.0


def test_a_schedule_is_audited_at_a_step() -> None:
    means = [audit_reward(find_reward("two-stage"), limit=20, step=step).policies[1].honest for step in (0, 30)]
    assert means[0] != means[1]


def test_exact_text_match_fails_on_spellings_alone(plugin: Path) -> None:
    found = failures(audit_reward(find_reward(f"{plugin}:honest")))
    assert set(found.values()) == {"most"}


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolrl_cli", "audit"]
    good = subprocess.run([*command, "robust"], capture_output=True, text=True, timeout=60)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.endswith("every ordering holds, and no input raises\n")
    bad = subprocess.run([*command, "coarse", "--limit", "3"], capture_output=True, text=True, timeout=60)
    assert (bad.returncode, bad.stderr.startswith("toolrl: coarse: ")) == (3, True)
    assert "little: earns at most half of what the honest answer earns above silence" in bad.stdout
    set_low = [*command, "fine-grained", "--set-reward", "correctness.low=-9", "--json"]
    policies = json.loads(subprocess.run(set_low, capture_output=True, text=True, timeout=60).stdout)["policies"]
    assert next(p for p in policies if p["policy"] == "empty call block")["mean"] == -8.0
    none = subprocess.run([*command, "robust", "--data", str(tmp_path / "no.jsonl")], capture_output=True, text=True)
    assert (none.returncode, none.stderr) == (1, f"toolrl: {tmp_path / 'no.jsonl'}: no such file\n")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (json.dumps(REPLY.to_json() | {"tools": [{"name": "f"}]}), "tools[0].function must be an object, not null"),
        (json.dumps(REPLY.to_json() | {"messages": [{"content": "q"}]}), "messages[0].role must be a string, not null"),
        ('"\ud8ff"', "not UTF-8 text"),
    ],
)
def test_a_line_that_is_no_example(tmp_path: Path, line: str, why: str) -> None:
    data = tmp_path / "ex.jsonl"
    data.write_text(f"{json.dumps(EXAMPLE.to_json())}\n{line}\n", "utf-8", "surrogatepass")
    command = [sys.executable, "-m", "toolrl_cli", "audit", "robust", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"toolrl: {data}:2: {why}\n")


def test_no_examples(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no examples; run toolrl prepare first"):
        audit_reward(find_reward(), tmp_path / "empty.jsonl")
