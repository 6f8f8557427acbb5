"""Rewards in the models' own formats: what form each asks for, and that all else is as in the toolrl format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, read_rows, refusal, write_lines
from hypothesis import assume, example, given
from hypothesis import strategies as st
from test_formats_native import DATA, calls, hostile, real_examples

from toolrl_cli.errors import ConfigError, FormatError
from toolrl_cli.formats import find_format, stock_format
from toolrl_cli.formats.native import NativeFormat
from toolrl_cli.records import Outcome, Rollout, Score, Target, ToolCall
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import PRESETS

CALLS = (ToolCall("f", {"a": 1}),)
GOLD, REPLY, BOTH, THOUGHT = Target(None, CALLS), Target(None, (), "Hi"), Target(None, CALLS, "Hi"), Target("t")
LINE = '{"name": "f", "arguments": {"a": 1}}'
BLOCK = f"<tool_call>\n{LINE}\n</tool_call>"
THINK = "<think>\nt\n</think>\n\n"
ON_LINES = "each <tool_call> and </tool_call> must stand on a line of its own, without empty lines between blocks"
AROUND = "<think> and </think> need lines of their own, and an empty line after them"
JSON_CALL = '{"name": "f", "parameters": {"a": 1}}'

HERMES_FORMS: list[tuple[Target, str, list[str]]] = [
    (GOLD, BLOCK, []),
    (GOLD, THINK + BLOCK, []),
    (GOLD, f"<think>\n\n</think>\n\n{BLOCK}", []),
    (GOLD, f"t\n</think>\n\n{BLOCK}", []),  # the prompt may end in <think>
    (GOLD, f"\n</think>\n\n{BLOCK}", []),
    (GOLD, f" \n{BLOCK}\n{BLOCK}\n", []),
    (GOLD, '<tool_call>\n{\n "name": "f"\n}\n</tool_call>', []),
    (GOLD, '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call><tool_call>"}}\n</tool_call>', []),
    (GOLD, "<tool_call>\nf(a=1)\n</tool_call>", []),  # what is in a block is for the other part
    (GOLD, "", ["no <tool_call> block"]),
    (GOLD, "Hi", ["no <tool_call> block"]),
    (GOLD, f"<think>\n{BLOCK}", ["<think> is not closed", "no <tool_call> block"]),
    (GOLD, f"<think>t</think>\n\n{BLOCK}", [AROUND]),
    (GOLD, f"<think>\nt\n</think>\n{BLOCK}", [AROUND]),
    (GOLD, f"{THINK}\n{BLOCK}", ["an empty line before <tool_call>"]),
    (GOLD, f"Hi\n{BLOCK}", ["text before <tool_call>"]),
    (GOLD, f"Hi {THINK}{BLOCK}", ["text before <tool_call>"]),
    (GOLD, f"{BLOCK}\nHi", ["text after </tool_call>"]),
    (GOLD, f"{BLOCK}\n\n{BLOCK}", [ON_LINES]),
    (GOLD, f"<tool_call>{LINE}\n</tool_call>", [ON_LINES]),
    (GOLD, f"<tool_call>\n{LINE}</tool_call>\nHi\n</tool_call>", [ON_LINES]),
    (GOLD, f"<tool_call>\n<tool_call>\n{LINE}\n</tool_call>", [ON_LINES]),
    (GOLD, "<tool_call>\n</tool_call>", [ON_LINES]),
    (GOLD, f"<tool_call>\n{LINE}</tool_call>", ["</tool_call> must stand on a line of its own"]),
    (GOLD, f"<tool_call>\n{LINE}", ["<tool_call> is not closed"]),
    (GOLD, f"{BLOCK}\n<tool_call>\n{LINE}", ["<tool_call> is not closed"]),
    (REPLY, "Hi", []),
    (REPLY, f"{THINK}Hi\n\nyou", []),
    (REPLY, "", ["no response"]),
    (REPLY, THINK, ["no response"]),
    (REPLY, BLOCK, ["no response", "a <tool_call> block where no call belongs"]),
    (REPLY, f"Hi\n{BLOCK}", ["a <tool_call> block where no call belongs"]),
    (BOTH, f"Hi\n{BLOCK}", []),
    (BOTH, f"{THINK}Hi\n{BLOCK}\n{BLOCK}", []),
    (BOTH, f"Hi {BLOCK}", ["<tool_call> must stand on a line of its own"]),
    (BOTH, BLOCK, ["no response"]),
    (BOTH, f"{BLOCK}\nHi", ["no response", "text after </tool_call>"]),
    (THOUGHT, THINK, []),
    (THOUGHT, "", ["no <think> block"]),
    (THOUGHT, f"{THINK}Hi", ["text where none belongs"]),
]
ALONE, JOINED = "text around the calls, which must stand alone", 'calls must be JSON objects with "; " between them'
LLAMA3_FORMS: list[tuple[Target, str, list[str]]] = [
    (GOLD, JSON_CALL, []),
    (GOLD, f"<|python_tag|>{JSON_CALL}\n", []),
    (GOLD, f"{JSON_CALL}; {JSON_CALL}", []),
    (GOLD, '{\n "name":"f"\n}', []),
    (GOLD, "", ["no call"]),
    (GOLD, "Hi", ["no call"]),
    (GOLD, f"Sure: {JSON_CALL}", [ALONE]),
    (GOLD, f"{JSON_CALL} Done.", ["JSON that is not calls alone"]),
    (GOLD, f"[{JSON_CALL}]", [JOINED]),
    (GOLD, f"{JSON_CALL};{JSON_CALL}", [JOINED]),
    (GOLD, f"{JSON_CALL}\n{JSON_CALL}", [JOINED]),
    (GOLD, f"{JSON_CALL}; ", [JOINED]),
    (REPLY, "Hi", []),
    (REPLY, '{"sum": 3}', []),
    (REPLY, "", ["no response"]),
    (REPLY, JSON_CALL, ["a call where none belongs"]),
    (Target(), "", []),
    (Target(), "Hi", ["text where none belongs"]),
]
FORMS = [("hermes", *form) for form in HERMES_FORMS] + [("llama3", *form) for form in LLAMA3_FORMS]
REWARDS = [reward for name in PRESETS if isinstance(reward := find_reward(name), SpecReward)]


def native(name: str) -> NativeFormat:
    found = find_format(name)
    assert isinstance(found, NativeFormat)
    return found


def judge(text: str, target: Target, text_format: str, reward: str = "fine-grained", **known: Any) -> Score:
    return find_reward(reward).score(Rollout(text, target, text_format=text_format, **known))


@pytest.mark.parametrize(("name", "target", "text", "reasons"), FORMS, ids=range(len(FORMS)))
def test_the_form_that_a_format_asks_for(name: str, target: Target, text: str, reasons: list[str]) -> None:
    assert native(name).explain_form(text, target) == reasons
    score = judge(text, target, name)
    assert score.parts["format"] == float(not reasons)
    assert [reason for reason in score.reasons if reason.startswith("format: ")] == [f"format: {r}" for r in reasons]


SCORES: list[tuple[str, Target, str, float, Outcome, tuple[str, ...]]] = [
    ("hermes", GOLD, BLOCK, 4.0, Outcome.EXACT, ()),
    ("hermes", GOLD, f"<tool_call>{LINE}</tool_call> ok", 3.0, Outcome.EXACT, ()),
    # S_max = 3; the name earns 1, argument names 1 of 2, no value: -3 + 6 * 1.5 / 3 = 0
    (
        "hermes",
        GOLD,
        BLOCK.replace('"a": 1', '"a": 2, "b": 3'),
        1.0,
        Outcome.PARTIAL,
        ("call 1 (f): a: 2 != 1; extra b",),
    ),
    ("hermes", GOLD, BLOCK.replace('"f"', '"g"'), -2.0, Outcome.WRONG, ("missing call f", "spurious call g")),
    ("hermes", GOLD, "<tool_call>\nf(a=1)\n</tool_call>", -2.0, Outcome.MALFORMED, ()),
    (
        "hermes",
        GOLD,
        BLOCK.replace("arguments", "parameters"),
        -2.0,
        Outcome.MALFORMED,
        ("calls: call of f has no object as its arguments",),
    ),
    ("hermes", REPLY, "Hello", 1.0, Outcome.ABSTAINED, ()),
    ("hermes", REPLY, BLOCK, 0.0, Outcome.SPURIOUS_CALL, ()),
    ("hermes", GOLD, f"<think>\n{BLOCK}\n</think>", -3.0, Outcome.NO_CALL, ()),
    ("llama3", GOLD, JSON_CALL, 4.0, Outcome.EXACT, ()),
    ("llama3", GOLD, f"[{JSON_CALL}]", 3.0, Outcome.EXACT, ()),
    ("llama3", GOLD, f"I call {JSON_CALL}", -3.0, Outcome.NO_CALL, ()),
    ("llama3", GOLD, f"{JSON_CALL} so", -3.0, Outcome.MALFORMED, ()),
    ("llama3", REPLY, "Hello", 1.0, Outcome.ABSTAINED, ()),
]


@pytest.mark.parametrize(("name", "target", "text", "total", "outcome", "reasons"), SCORES, ids=range(len(SCORES)))
def test_what_a_completion_earns(
    name: str, target: Target, text: str, total: float, outcome: Outcome, reasons: tuple[str, ...]
) -> None:
    score = judge(text, target, name)
    assert (score.total, score.outcome) == (total, outcome)
    assert set(reasons) <= set(score.reasons)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("hermes", f"<tool_call>\n[{LINE}]\n</tool_call>"),
        ("hermes", BLOCK.replace("arguments", "parameters")),
        ("llama3", JSON_CALL.replace("parameters", "arguments")),
        ("llama3", JSON_CALL.replace('"a"', '\n"a"')),
    ],
)
def test_robust_reads_other_spellings(name: str, block: str) -> None:
    assert judge(block, GOLD, name, "robust").total == 4.0


@pytest.mark.parametrize(("name", "block"), [("hermes", BLOCK), ("llama3", JSON_CALL)])
def test_robust_reads_no_arguments(name: str, block: str) -> None:
    for arguments in ("null", "{}"):
        text = block.replace('{"a": 1}', arguments)
        assert judge(text, Target(None, (ToolCall("f", {}),)), name, "robust").total == 4.0


@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_robust_wants_a_reply_and_no_call(name: str) -> None:
    call = native(name).render_target(GOLD)
    assert [judge(text, REPLY, name, "robust").total for text in ("Hello", "", call)] == [4.0, -3.0, -3.0]
    empty = judge("", REPLY, name, "robust")
    assert (empty.outcome, empty.reasons) == (Outcome.WRONG, ("format: no response", "response: empty"))


@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_a_reply_that_is_cut_off_has_no_end(name: str) -> None:
    score = judge("And so on and", REPLY, name, truncated=True)
    assert (score.parts["format"], score.reasons) == (
        0.0,
        ("format: the text has no end", "truncated: cut off at the token limit"),
    )
    called = native(name).render_target(GOLD)
    assert judge(called, GOLD, name, truncated=True).total == 4.0


def test_length_counts_the_thought() -> None:
    words = "w " * 256
    for text in (f"<think>\n{words}\n</think>\n\n{BLOCK}", f"{words}\n</think>\n\n{BLOCK}"):
        assert judge(text, GOLD, "hermes", "length").parts["length"] == 0.5
    for text_format, text in (("hermes", BLOCK), ("hermes", f"<think>\n{words}"), ("llama3", JSON_CALL)):
        assert judge(text, GOLD, text_format, "length").parts["length"] == 0.0


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown format 'alpaca'"):
        judge("", GOLD, "alpaca")


plain = st.text(min_size=1).filter(lambda text: "<" not in text and text == text.strip())
honest_targets = st.builds(
    Target,
    st.none() | st.text().filter(lambda text: "</think>" not in text),
    st.lists(calls, max_size=3).map(tuple),
    st.none() | plain,
)


@given(st.sampled_from(["hermes", "llama3"]), honest_targets)
def test_the_gold_earns_everything(name: str, target: Target) -> None:
    """Whatever tags stand in its arguments, or in its thought."""
    assume(target.tool_calls or target.response or target.thought is not None)
    try:
        text = native(name).render_target(target)
    except FormatError:
        assume(False)
    for reward in REWARDS:
        score = reward.score(Rollout(text, target, text_format=name, step=40))
        assert score.parts["format"] == reward.spec.format.bounds(40)[1]  # type: ignore[union-attr]
        assert score.outcome is (Outcome.EXACT if target.tool_calls else Outcome.ABSTAINED)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize("name", ["hermes", "llama3"])
@pytest.mark.slow
def test_real_gold_earns_everything(name: str) -> None:
    """Also the 17 rows whose thoughts mention the tags, which earn nothing in the toolrl format."""
    targets = [replace(e.target, thought=None) for e in real_examples("toolrl", "toolrl/rlla_sft.json")]
    if name == "hermes":
        targets += [e.target for e in real_examples("toolrl", "toolrl/rlla_sft.json")]
    totals = [judge(native(name).render_target(target), target, name, "robust").total for target in targets]
    assert (set(totals), len(totals)) == ({4.0}, {"hermes": 800, "llama3": 400}[name])


@given(st.sampled_from(["hermes", "llama3"]), honest_targets, st.sampled_from([None, 1]), st.booleans())
def test_how_json_is_spelled_does_not_matter(name: str, target: Target, indent: int | None, ascii: bool) -> None:
    assume(target.tool_calls)
    text_format, key = native(name), {"hermes": "arguments", "llama3": "parameters"}[name]
    spelled = [
        json.dumps({key: call.arguments, "name": call.name}, ensure_ascii=ascii, indent=indent)
        for call in target.tool_calls
    ]
    blocks = [f"<tool_call>\n{call}\n</tool_call>" for call in spelled]
    text = "\n".join(blocks) if name == "hermes" else "; ".join(spelled)
    assert text_format.explain_form(text, Target(None, target.tool_calls)) == []


EXPRESSIBLE = [("hermes", target) for target in (GOLD, REPLY, BOTH, THOUGHT)] + [("llama3", GOLD), ("llama3", REPLY)]
"""What each format can express."""


def texts_for(form: tuple[str, Target]) -> st.SearchStrategy[tuple[str, Target, str]]:
    """A format and a target with any text, or with the right one after a change."""
    name, target = form
    right = native(name).render_target(target)
    places = st.integers(0, len(right))
    changed = st.builds(lambda text, at: right[:at] + text + right[at:], st.text(max_size=3), places)
    return st.tuples(st.just(name), st.just(target), st.just(right) | changed | hostile | st.text())


@example(("llama3", THOUGHT, ""))
@given(st.sampled_from(EXPRESSIBLE).flatmap(texts_for))
@pytest.mark.slow
def test_where_the_format_is_right_its_own_reader_finds_the_same_parts(case: tuple[str, Target, str]) -> None:
    """The form is that of `render_target`: the strict reader of gold agrees, as far as the calls are fit to be gold."""
    name, target, text = case
    text_format = native(name)
    assume(not text_format.explain_form(text, target))
    try:
        found = text_format.parse_target(text.strip())
        read = text_format.parse_tool_calls(text)
    except FormatError:
        return
    if len(found.tool_calls) == len(read):  # else the JSON has line breaks in it
        assert (bool(found.tool_calls), bool((found.response or "").strip())) == (
            bool(target.tool_calls),
            bool(target.response),
        )


ROW = {"completion": BLOCK, "target": GOLD.to_json()}


class TestScore:
    def test_rows_say_their_format(self, cli: InProcess, tmp_path: Path) -> None:
        rows = [
            {**ROW, "text_format": "hermes"},
            {**ROW, "text_format": "llama3", "completion": JSON_CALL},
            {**ROW, "text_format": "toolrl"},
            ROW,
            {"completion": JSON_CALL, "ground_truth": JSON_CALL, "text_format": "llama3"},
        ]
        path = write_lines(tmp_path / "rows.jsonl", rows)
        done = cli("score", path, "-o", tmp_path / "scored.jsonl", "--json", "--explain")
        assert done.exit_code == 0, done.stderr
        totals = [row["score"]["total"] for row in read_rows(tmp_path / "scored.jsonl")]
        assert totals == [4.0, 4.0, -3.0, -3.0, 4.0]
        assert done.stderr.splitlines()[:4] == [
            "line 1 exact, total 4 (format 1, correctness 3)",
            "    f",
            "      a = 1",
            "line 2 exact, total 4 (format 1, correctness 3)",
        ]

    def test_the_option_is_for_rows_that_say_nothing(self, cli: InProcess, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", [ROW, {**ROW, "text_format": "hermes"}])
        done = cli("score", path, "--format", "hermes", "--json")
        assert (done.exit_code, json.loads(done.stdout)["mean"]["total"]) == (0, 4.0)
        done = cli("score", path, "--format", "llama3", "--json")
        assert (done.exit_code, done.stderr.splitlines()[0]) == (
            1,
            f"{path}:2: text_format is 'hermes', and --format says llama3; leave that out",
        )

    @pytest.mark.parametrize("said", ["native", 3, ["hermes"]])
    def test_no_format(self, said: object, cli: InProcess, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl", [{**ROW, "text_format": said}])
        assert refusal(cli("score", path, "--strict")) == (
            f"{path}:1: text_format is {said!r}; must be one of toolrl, hermes, llama3"
        )

    def test_a_function_gets_the_gold_in_the_format(self, cli: InProcess, tmp_path: Path) -> None:
        (tmp_path / "same.py").write_text(
            "def same(completions, ground_truth, **columns):\n"
            "    return [float(c[0]['content'] == gold) for c, gold in zip(completions, ground_truth)]\n"
        )
        rows = [{**ROW, "text_format": "hermes"}, {**ROW, "text_format": "llama3", "completion": JSON_CALL}]
        path = write_lines(tmp_path / "rows.jsonl", rows)
        done = cli("score", path, "--reward", f"{tmp_path / 'same.py'}:same", "--json")
        assert (done.exit_code, json.loads(done.stdout)["mean"]["total"]) == (0, 1.0)


def test_a_format_is_made_once() -> None:
    assert stock_format("hermes") is stock_format("hermes")
