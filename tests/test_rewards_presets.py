"""Every preset: equal to the released code where it has one, and true to what a reward promises."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fuzz_rewards import one_input
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_rewards import GOLD_CALLS, JSON, TARGETS, TEXTS

from toolrl_cli.errors import ConfigError
from toolrl_cli.formats import find_format
from toolrl_cli.records import Outcome, Rollout, Score, Target, ToolCall
from toolrl_cli.rewards import find_reward
from toolrl_cli.rewards.engine import SpecReward
from toolrl_cli.rewards.spec import PRESETS

RELEASED = Path(__file__).parent / "released_scores.jsonl"
FORMAT = find_format("toolrl")
PAPER = [name for name in PRESETS if name != "robust"]
STEPS = st.sampled_from([0, 1, 29, 30, 75, 105, 150, 1000])
ALL = [spec_reward for name in PRESETS if isinstance(spec_reward := find_reward(name), SpecReward)]
GREEDY = [find_reward(name, matching="greedy") for name in PRESETS]


@pytest.mark.parametrize("preset", PAPER)
def test_greedy_presets_equal_the_released_code(preset: str, tmp_path: Path) -> None:
    """The expected numbers were computed by the code released with the paper (see the head of the file)."""
    cases = [json.loads(line) for line in RELEASED.read_text("utf-8").splitlines()[1:]]
    command = ["score", str(write_cases(tmp_path, cases)), "--reward", preset, "--matching", "greedy", "-o", "-"]
    done = subprocess.run([sys.executable, "-m", "toolrl_cli", *command], capture_output=True, text=True, timeout=60)
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    got = [[s["total"], s["format"], s["correctness"], s.get("length", 0)] for s in scores]
    assert got == [pytest.approx(case["scores"][preset], abs=1e-9) for case in cases]


def write_cases(folder: Path, cases: list[dict[str, Any]]) -> Path:
    """The cases without their expected scores, as a user would give them."""
    path = folder / "cases.jsonl"
    rows = [{name: value for name, value in case.items() if name != "scores"} for case in cases]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


GOLD = Target("t", (ToolCall("f", {"a": 1, "b": 2}), ToolCall("g", {})))
ONE_WRONG = Target("t", (ToolCall("f", {"a": 1, "b": 3}), ToolCall("g", {})))
SWAPPED = Target("t", (ToolCall("g", {}), ToolCall("f", {"a": 1, "b": 2})))
# Totals by hand; the format is right in all of them. S_max is 1 + 2 + 2 = 5; ONE_WRONG earns 4 of it.
BY_HAND = {
    "fine-grained": (4.0, 1 - 3 + 6 * 4 / 5, 4.0),
    "length": (4 + 0.25, 1 - 3 + 6 * 4 / 5 + 0.25, 4.25),
    "dynamic-length": (4 + 0.33, 1 - 3 + 6 * 4 / 5 + 0.33, 4.33),
    "equal-max": (2.0, 1 - 1 + 2 * 4 / 5, 2.0),
    "two-stage": (2.0, 1 - 1 + 2 * 4 / 5, 2.0),
    "dynamic": (4.0, 2 - 2 + 4 * 4 / 5, 4.0),
    # names in another order earn nothing: 4 of 5
    "fine-grained-strict": (4.0, 1 - 3 + 6 * 4 / 5, 1 - 3 + 6 * 4 / 5),
    # 1 for the names, 1 for g whole, of 1 + 2
    "intermediate": (4.0, 1 - 3 + 6 * 2 / 3, 4.0),
    "coarse": (4.0, -2.0, -2.0),
    "robust": (4.0, 1 - 3 + 6 * 4 / 5, 4.0),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_totals_by_hand(preset: str) -> None:
    totals = []
    for target in (GOLD, ONE_WRONG, SWAPPED):
        text = FORMAT.render_target(Target("w " * 128, target.tool_calls))
        totals.append(find_reward(preset).score(Rollout(text, GOLD)).total)
    assert totals == [pytest.approx(total) for total in BY_HAND[preset]]


@pytest.mark.parametrize(
    ("preset", "step", "bounds"),
    [
        ("two-stage", 29, (-1.0, 2.0)),
        ("two-stage", 30, (-3.0, 3.5)),
        ("dynamic", 75, (-1 - 2.5, 1.5 + 2.5)),
        ("dynamic", 150, (-4.0, 4.0)),
        ("dynamic", 10**9, (-4.0, 4.0)),
    ],
)
def test_schedules(preset: str, step: int, bounds: tuple[float, float]) -> None:
    reward = find_reward(preset)
    assert isinstance(reward, SpecReward)
    assert reward.bounds(step) == pytest.approx(bounds)
    assert reward.score(Rollout(FORMAT.render_target(GOLD), GOLD, step=step)).total == pytest.approx(bounds[1])
    assert reward.score(Rollout("", GOLD, step=step)).total == pytest.approx(bounds[0])


def test_a_schedule_can_be_stretched() -> None:
    settings_ = {"format.high.switch": 300, "correctness.low.switch": 300, "correctness.high.switch": 300}
    stretched = find_reward("two-stage", settings=settings_)
    assert [stretched.score(Rollout(FORMAT.render_target(GOLD), GOLD, step=s)).total for s in (299, 300)] == [2.0, 3.5]


@settings(max_examples=150, deadline=None)
@given(TEXTS, TARGETS, st.booleans(), STEPS)
def test_any_text_scores_within_the_bounds(text: str, target: Target, truncated: bool, step: int) -> None:
    rollout = Rollout(text, target, truncated, step)
    for reward, greedy in zip(ALL, GREEDY, strict=True):
        found = reward.score(rollout)
        low, high = reward.bounds(step)
        assert math.isfinite(found.total)
        assert min(low, 0.0) - 1e-9 <= found.total <= high + 1e-9, reward.name
        assert found.total >= greedy.score(rollout).total - 1e-9, reward.name
        assert found == reward.score(rollout)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_the_fuzz_target(data: bytes) -> None:
    one_input(data)


@settings(max_examples=100, deadline=None)
@given(GOLD_CALLS, st.randoms(), STEPS)
def test_the_gold_itself_earns_most_and_its_order_counts_only_where_the_definition_says(
    calls: tuple[ToolCall, ...], random: Any, step: int
) -> None:
    assume(calls and not any(tag in str(calls) for tag in ("<", ">", "nan", "inf")))
    order = list(calls)
    random.shuffle(order)
    for reward in ALL:
        long_thought = "w " * 2000
        exact, shuffled = (
            reward.score(Rollout(FORMAT.render_target(Target(long_thought, tuple(c))), Target("t", calls), step=step))
            for c in (calls, order)
        )
        assert exact.outcome is Outcome.EXACT
        assert reward.name == "dynamic-length" or exact.total == pytest.approx(reward.bounds(step)[1])
        if reward.name not in ("fine-grained-strict", "coarse"):
            assert shuffled == exact


@settings(max_examples=100, deadline=None)
@given(GOLD_CALLS, st.data())
def test_mending_an_argument_never_costs(calls: tuple[ToolCall, ...], data: st.DataObject) -> None:
    """From an answer with wrong values, one argument after the other is set right."""
    assume(any(call.arguments for call in calls) and not any(tag in str(calls) for tag in ("<", ">", "nan", "inf")))
    wrong = [ToolCall(call.name, dict.fromkeys(call.arguments, "WRONG")) for call in calls]
    places = data.draw(st.permutations([(i, name) for i, call in enumerate(calls) for name in call.arguments]))
    totals = [[reward.score(answer(wrong, calls)).total for reward in ALL]]
    for i, name in places:
        wrong[i] = ToolCall(wrong[i].name, {**wrong[i].arguments, name: calls[i].arguments[name]})
        totals.append([reward.score(answer(wrong, calls)).total for reward in ALL])
    for before, after in pairwise(totals):
        assert all(b <= a + 1e-9 for b, a in zip(before, after, strict=True))


def answer(calls: list[ToolCall], gold: tuple[ToolCall, ...]) -> Rollout:
    """The calls, well-formed, as an answer to the gold."""
    return Rollout(FORMAT.render_target(Target("t", tuple(calls))), Target("t", gold))


@pytest.mark.parametrize("preset", ["fine-grained", "robust"])
def test_sixty_calls_of_one_name_are_matched_exactly(preset: str) -> None:
    gold = tuple(ToolCall("f", {"i": i, "j": i % 7}) for i in range(60))
    text = FORMAT.render_target(Target("t", tuple(reversed(gold))))
    assert find_reward(preset).score(Rollout(text, Target("t", gold))).total == 4.0


TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "n": {"type": "number"},
                    "s": {"type": "string"},
                    "e": {"type": "string", "enum": ["1", "2"]},
                    "l": {"type": "array", "items": {"type": "string"}},
                    "o": {"type": "object", "properties": {"s": {"type": "string"}}},
                },
            },
        },
    },
)
VALUES = [
    ("n", 1, 1.0, True),
    ("n", 0.3, 0.1 + 0.2, True),
    ("n", 1, 1.00001, False),
    ("n", 1, True, False),
    ("n", True, 1, False),
    ("n", 1, "1", False),
    ("n", 10**400, 1.0, False),
    ("n", 1_700_000_000, 1_700_000_001, False),
    ("n", 1_700_000_000, 1_700_000_001.0, False),
    ("n", None, None, True),
    ("s", "1", 1, True),
    ("s", 1.5, "1.5", True),
    ("s", "a", "A", False),
    ("s", "true", True, False),
    ("e", "1", 1, False),
    ("e", "1", "1", True),
    ("l", ["1", "2"], [1, 2], True),
    ("l", ["1"], ["1", "2"], False),
    ("o", {"s": "1"}, {"s": 1}, True),
    ("o", {"s": "1"}, {"s": "1", "t": 2}, False),
    ("unknown", "1", 1, False),
    ("unknown", {"a": [1, {"b": 2.0}]}, {"a": [1.0, {"b": 2}]}, True),
]


@pytest.mark.parametrize(("name", "wanted", "given_value", "equal"), VALUES, ids=range(len(VALUES)))
def test_robust_compares_values_by_the_schema(name: str, wanted: Any, given_value: Any, equal: bool) -> None:
    target = Target("t", (ToolCall("f", {name: wanted}),))
    text = FORMAT.render_target(Target("t", (ToolCall("f", {name: given_value}),)))
    found = find_reward("robust").score(Rollout(text, target, tools=TOOLS))
    # r_name 1, r_param 1, r_value 0 of 1 + 1 + 1
    assert found.total == (4.0 if equal else pytest.approx(1 - 3 + 6 * 2 / 3))
    assert (found.reasons == ()) == equal


THINK = "<think> t </think>\n"
CALL = '{"name": "f", "parameters": {"a": "x"}}'
SPREAD = '{"name": "f",\n "arguments": {"a":\n "x"}}'
BLOCK = f"<tool_call>\n{CALL}\n</tool_call>"
SPOILED = "<tool_call>\nnot json\n</tool_call>"
GOLD_CALL, GOLD_REPLY = Target("t", (ToolCall("f", {"a": "x"}),)), Target("t", (), "Hello")
ROBUST: list[tuple[str, Target, tuple[float, float, Outcome]]] = [
    # read: laid out in any way, in a list, named otherwise, in several blocks
    (f"{THINK}<tool_call>\n{SPREAD}\n</tool_call>", GOLD_CALL, (1, 3, Outcome.EXACT)),
    (f"<think> t </think>\n<tool_call>\n[{CALL}]\n</tool_call>", GOLD_CALL, (1, 3, Outcome.EXACT)),
    (f"<think> t </think>\n<tool_call> {CALL} </tool_call>", GOLD_CALL, (0, 3, Outcome.EXACT)),
    (f"<think> t </think>\n<tool_call>\n{CALL}", GOLD_CALL, (0, 3, Outcome.EXACT)),
    (f"{CALL}", GOLD_CALL, (0, -3, Outcome.NO_CALL)),
    (f"<tool_call>\n{CALL}\n</tool_call>", GOLD_CALL, (0, 3, Outcome.EXACT)),
    # the thought does not count, whatever it holds; what is never closed is all thought
    (f"<think> <tool_call>\n{CALL}\n</tool_call> </think>", GOLD_CALL, (0, -3, Outcome.NO_CALL)),
    (f"<think> hm <tool_call>\n{CALL}\n</tool_call>", GOLD_CALL, (0, -3, Outcome.NO_CALL)),
    (f"<think> <tool_call> or </think> </think>\n<tool_call>\n{CALL}\n</tool_call>", GOLD_CALL, (1, 3, Outcome.EXACT)),
    # surplus calls scale all credit: (1/2 + 2) / 3 halved
    (f"{THINK}<tool_call>\n{CALL}\n{CALL}\n</tool_call>", GOLD_CALL, (1, -3 + 6 * 2.5 / 3 / 2, Outcome.PARTIAL)),
    (f"{THINK}{BLOCK}\n{BLOCK}", GOLD_CALL, (0, -0.5, Outcome.PARTIAL)),
    ("<think> t </think>\n<tool_call>\n{\n</tool_call>", GOLD_CALL, (0, -3, Outcome.MALFORMED)),
    # no call wanted: none is right if something is said; a call costs all, also one in the reply
    ("<think> t </think>\n<response> Hi </response>", GOLD_REPLY, (1, 3, Outcome.ABSTAINED)),
    ("<think> t </think>\n<response>  </response>", GOLD_REPLY, (1, -3, Outcome.WRONG)),
    ("", GOLD_REPLY, (0, -3, Outcome.WRONG)),
    ("Hi", GOLD_REPLY, (0, 3, Outcome.ABSTAINED)),
    (f"{THINK}<response> Hi {BLOCK} </response>", GOLD_REPLY, (1, -3, Outcome.SPURIOUS_CALL)),
    ("<think> t </think>\n<response> use <tool_call> tags </response>", GOLD_REPLY, (1, 3, Outcome.ABSTAINED)),
    (f"<think> t </think>\n<tool_call>\n{CALL}\n</tool_call>", GOLD_REPLY, (0, -3, Outcome.SPURIOUS_CALL)),
    ("<think> t </think>", Target("t"), (1, 3, Outcome.ABSTAINED)),
    # a block that cannot be read spoils the form, too, and so does what stands before it
    (f"{THINK}<response> Hi </response>\nJUNK\n{SPOILED}", GOLD_REPLY, (0, -3, Outcome.MALFORMED)),
    (f"{THINK}<response> Hi </response>\n{SPOILED}", GOLD_REPLY, (0, -3, Outcome.MALFORMED)),
    (f"{THINK}<response> Hi </response>\n<tool_call> not", GOLD_REPLY, (0, -3, Outcome.MALFORMED)),
    (f"{THINK}{BLOCK}\n{SPOILED}", GOLD_CALL, (0, -3, Outcome.MALFORMED)),
    (f"{THINK}{SPOILED}", Target("t"), (0, -3, Outcome.MALFORMED)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "target", "expected"), ROBUST, ids=range(len(ROBUST)))
def test_robust_reads_as_a_serving_stack_would(
    text: str, target: Target, expected: tuple[float, float, Outcome]
) -> None:
    found = find_reward("robust").score(Rollout(text, target))
    assert (found.parts, found.outcome) == (
        {"format": expected[0], "correctness": pytest.approx(expected[1])},
        expected[2],
    )


def test_robust_punishes_each_further_copy_more() -> None:
    totals = [
        find_reward("robust").score(answer(list(GOLD_CALL.tool_calls) * n, GOLD_CALL.tool_calls)).total
        for n in (1, 2, 3, 5, 50)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


@settings(max_examples=200, deadline=None)
@given(JSON, JSON)
def test_robust_value_equality_is_symmetric_and_never_raises(left: Any, right: Any) -> None:
    one, other = (Target("t", (ToolCall("f", {"a": value}),)) for value in (left, right))
    assume(not any(tag in str((left, right)) for tag in ("<", ">")))
    reward = find_reward("robust")
    forth = reward.score(Rollout(FORMAT.render_target(one), other)).total
    assert forth == reward.score(Rollout(FORMAT.render_target(other), one)).total
    assert reward.score(Rollout(FORMAT.render_target(one), one)).total == 4.0


class TestSpecs:
    """YAML files, values set on the command line, and what is refused."""

    def test_a_file_defines_a_reward(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("format: {weight: 2}\ncorrectness: {low: 0, high: 1, weight: 0.5}\n")
        reward = find_reward(str(path))
        found = reward.score(Rollout(FORMAT.render_target(ONE_WRONG), GOLD))
        # 4 of 5: 2 * 1 + 0.5 * 0.8
        assert (reward.name, found.total, found.parts) == ("mine", 2.4, {"format": 1.0, "correctness": 0.8})

    def test_values_can_be_set(self) -> None:
        reward = find_reward("fine-grained", settings={"correctness.low": -1, "format.high": 0.5})
        assert isinstance(reward, SpecReward)
        assert reward.bounds() == (-1.0, 3.5)
        assert find_reward("fine-grained", settings={"correctness.low": -3.0}).digest == find_reward().digest
        assert len({find_reward(name).digest for name in PRESETS}) == len(PRESETS)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[]", "must hold a mapping"),
            ("a: [", "1: not YAML"),
            ("format: {hihg: 1}", "format: no key 'hihg'; did you mean 'high'?; choose from low, high, weight"),
            ("formt: {}", "no key 'formt'; did you mean 'format'?"),
            ("{}", "no part; give format, correctness or length"),
            ("format: 1", "format: must be a mapping, not 1"),
            ("format: {high: .inf}", "format: high: must be a number up to 1e+09 in size, not inf"),
            ("format: {high: 1e3}", "not '1e3'; YAML reads 1e3 as text, and 1.0e+3 as a number"),
            ("format: {high: yes}", "format: high: must be a number up to 1e+09 in size, not True"),
            ("format: {low: 2}", "format: low 2.0 is above high 1.0"),
            (
                "format: {low: {start: 0, end: 5, horizon: 10, beyond: true}, high: 1}",
                "format: low 4.5 is above high 1.0 at step 9",
            ),
            (
                "correctness: {low: {start: -3, end: 5, horizon: 10}, high: 3}",
                "correctness: low 4.2 is above high 3.0 at step 9",
            ),
            ("format: {high: {before: 1, after: -1, switch: 2.5}}", "format: low 0.0 is above high -1.0 at step 3"),
            (
                "correctness: {high: {start: 3, end: 2, horizon: 10, beyond: true}}",
                "correctness: low -3.0 is above high -99999999997.0 at step 1000000000000",
            ),
            ("correctness: {credit: coars}", "correctness: credit: 'coars' is unknown; choose from fine-grained"),
            ("correctness: {high: {start: 1, end: 2}}", "correctness: high: horizon is missing"),
            ("correctness: {high: {start: 1, end: 2, horizon: 0}}", "horizon must be above 0"),
            ("length: {words: 0}", "length: words must be 1 or more"),
            ("length: {words: {before: 1, after: 2, swich: 3}}", "length: words: no key 'before'"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "spec.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError) as error:
            find_reward(str(path))
        assert message in str(error.value)
        assert str(path) in str(error.value)

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown reward 'robst'; choose from .*; did you mean 'robust'"):
            find_reward("robst")


PLUGIN = '''
def exactness(prompts, completions, target, trainer_state, **columns):
    """1 for the word yes, nothing said of an empty text."""
    assert isinstance(target[0], str) and trainer_state.global_step == 7
    return [None if not text[0]["content"] else float("yes" in text[0]["content"]) for text in completions]

def raising(completions, **columns):
    raise KeyError("x")

def short(completions, **columns):
    return [1.0] * (len(completions) - 1)

def infinite(completions, **columns):
    return [float("inf")] * len(completions)

def huge(completions, **columns):
    return [1e308] * len(completions)

def texts(completions, **columns):
    return ["1"] * len(completions)

def named(completions, **columns):
    return {"a": 1.0}

def nested(completions, **columns):
    return [[1.0]] * len(completions)

async def waiting(completions, **columns):
    return [1.0] * len(completions)

number = 3
'''


class TestFunctions:
    """`module:function` with TRL's signature."""

    @pytest.fixture
    def plugin(self, tmp_path: Path) -> Path:
        path = tmp_path / "plugin.py"
        path.write_text(PLUGIN)
        return path

    def test_a_function_is_a_reward(self, plugin: Path) -> None:
        reward = find_reward(f"{plugin}:exactness")
        rollouts = [Rollout(text, GOLD, step=7) for text in ("yes", "no", "")]
        assert reward.score_batch(rollouts, explain=False) == [
            Score(1.0, {"exactness": 1.0}, Outcome.NO_CALL),
            Score(0.0, {"exactness": 0.0}, Outcome.NO_CALL),
            Score(0.0, {"exactness": None}, Outcome.NO_CALL),
        ]

    def test_a_module_of_the_working_folder(self, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(plugin.parent)
        assert find_reward("plugin:exactness").score(Rollout("yes", GOLD, step=7)).total == 1.0

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("raising", "raises KeyError: 'x'"),
            ("short", "must return a list of one number up to 1e+09 in size, or None, for each completion, not []"),
            (
                "infinite",
                "must return a list of one number up to 1e+09 in size, or None, for each completion, not [inf]",
            ),
            ("huge", "not [1e+308]"),
            ("texts", "not ['1']"),
            ("named", "not {'a': 1.0}"),
            ("nested", "not [[1.0]]"),
        ],
    )
    def test_a_function_that_fails(self, plugin: Path, name: str, message: str) -> None:
        with pytest.raises(Exception, match=r"reward .*plugin\.py:") as error:
            find_reward(f"{plugin}:{name}").score(Rollout("x", GOLD))
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("{plugin}:nothing", "has no function 'nothing'"),
            ("{plugin}:number", "has no function 'number'"),
            ("{plugin}x.py:f", "cannot be imported (FileNotFoundError: no file"),
            ("no_such_module:f", "cannot be imported (ModuleNotFoundError"),
            ("{plugin}:waiting", "is an async function; a reward must be one that returns its numbers (def)"),
        ],
    )
    def test_a_function_that_is_not_there(self, plugin: Path, reference: str, message: str) -> None:
        with pytest.raises(ConfigError) as error:
            find_reward(reference.format(plugin=plugin))
        assert message in str(error.value)

    def test_a_file_of_dataclasses_whose_name_another_module_has(self, tmp_path: Path) -> None:
        path = tmp_path / "json.py"
        path.write_text(
            "from __future__ import annotations\nimport json\nfrom dataclasses import dataclass\n\n"
            "@dataclass\nclass Half:\n    of: float\n\n"
            "def half(completions, target, **columns):\n"
            "    return [Half(len(json.loads(t))).of / 2 for t in target]\n"
        )
        assert find_reward(f"{path}:half").score(Rollout("x", GOLD)).total == 1.5

    def test_a_gold_that_the_text_format_cannot_express_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "golds.py"
        path.write_text(
            "def known(ground_truth, **columns):\n    return [float(g is not None) for g in ground_truth]\n"
        )
        thinking = Target("hm", GOLD.tool_calls)
        rollouts = [
            Rollout("x", target, text_format="llama3") for target in (Target(None, GOLD.tool_calls[:1]), thinking)
        ]
        assert [score.total for score in find_reward(f"{path}:known").score_batch(rollouts)] == [1.0, 0.0]

    def test_settings_are_for_specs(self, plugin: Path) -> None:
        with pytest.raises(ConfigError, match="values are set for presets and YAML files only"):
            find_reward(f"{plugin}:exactness", matching="greedy")
