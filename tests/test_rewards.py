"""The reward as others call it: scores, outcomes, reasons, and that nothing makes it raise."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolrl_cli.formats import find_format
from toolrl_cli.records import Outcome, Rollout, Score, Target, ToolCall
from toolrl_cli.rewards import Reward, find_reward

REWARD, LENGTH = find_reward(), find_reward("length")
DOCS = Path(__file__).parents[1] / "docs" / "rewards.md"
DATA = Path(__file__).parents[1].parent / "shared" / "data" / "toolrl"
WEATHER = Target("t", (ToolCall("get_weather", {"city": "Rome", "days": 2}),))
REPLY = Target("t", (), "Hello")
NONE = Target("t")


def score(reward: Reward, text: str, target: Target, *, truncated: bool = False, **more: Any) -> Score:
    return reward.score(Rollout(text, target, truncated, **more))


def calls(*lines: object) -> str:
    """A well-formed completion with these lines (objects as JSON) in its call block."""
    block = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return f"<think> a </think>\n<tool_call>\n{block}\n</tool_call>"


def weather(**parameters: object) -> dict[str, object]:
    return {"name": "get_weather", "parameters": parameters}


EXACT = calls(weather(city="Rome", days=2))

SCORES = [
    (EXACT, WEATHER, Score(4.0, {"format": 1.0, "correctness": 3.0}, Outcome.EXACT)),
    (f"  {EXACT}\n\n", WEATHER, Score(4.0, {"format": 1.0, "correctness": 3.0}, Outcome.EXACT)),
    (
        EXACT + "\nDone.",
        WEATHER,
        Score(3.0, {"format": 0.0, "correctness": 3.0}, Outcome.EXACT, ("format: text after </tool_call>",)),
    ),
    (
        # r_name 1, r_param 1/2, r_value 1 of S_max 1 + 1 + 2: -3 + 6 * 2.5 / 4 = 0.75
        calls(weather(city="Rome")),
        WEATHER,
        Score(1.75, {"format": 1.0, "correctness": 0.75}, Outcome.PARTIAL, ("call 1 (get_weather): missing days",)),
    ),
    (
        # the exact call twice: r_name 1/2, 1 + 2: -3 + 6 * 3.5 / 4 = 2.25
        calls(weather(city="Rome", days=2), weather(city="Rome", days=2)),
        WEATHER,
        Score(3.25, {"format": 1.0, "correctness": 2.25}, Outcome.PARTIAL, ("spurious call get_weather",)),
    ),
    (
        calls({"name": "x", "parameters": {}}),
        WEATHER,
        Score(
            -2.0,
            {"format": 1.0, "correctness": -3.0},
            Outcome.WRONG,
            ("missing call get_weather", "spurious call x"),
        ),
    ),
    (
        calls("{'name': 'get_weather'}"),
        WEATHER,
        Score(
            -2.0,
            {"format": 1.0, "correctness": -3.0},
            Outcome.MALFORMED,
            ("calls: call is not JSON: \"{'name': 'get_weather'}\"",),
        ),
    ),
    (
        "<think> a </think>\n<response> b </response>",
        WEATHER,
        Score(
            -3.0,
            {"format": 0.0, "correctness": -3.0},
            Outcome.NO_CALL,
            ("format: no <tool_call> block", "missing call get_weather"),
        ),
    ),
    (
        "<think> a </think>\n<response> b </response>",
        REPLY,
        Score(1.0, {"format": 1.0, "correctness": 0.0}, Outcome.ABSTAINED),
    ),
    (
        EXACT,
        REPLY,
        Score(
            0.0,
            {"format": 0.0, "correctness": 0.0},
            Outcome.SPURIOUS_CALL,
            ("format: no <response> block", "spurious call get_weather"),
        ),
    ),
    ("<think> a </think>", NONE, Score(1.0, {"format": 1.0, "correctness": 0.0}, Outcome.ABSTAINED)),
    (
        # the block ends at the second opening tag, as in the released code
        calls(weather(city="Rome", days=2), "<tool_call>", "noise"),
        WEATHER,
        Score(
            3.0,
            {"format": 0.0, "correctness": 3.0},
            Outcome.EXACT,
            ("format: 2 <tool_call> tags, one allowed",),
        ),
    ),
]


@pytest.mark.parametrize(("text", "target", "expected"), SCORES)
def test_scores(text: str, target: Target, expected: Score) -> None:
    assert score(REWARD, text, target) == expected


def test_reasons_of_a_call() -> None:
    target = Target("t", (ToolCall("a", {}), ToolCall("send_email", {"to": "Bo", "date": "2025-01-02", "n": 1})))
    text = calls(
        {"name": "a", "parameters": {}},
        {"name": "send_email", "parameters": {"date": "tomorrow", "n": [None, True], "cc": 0, "b\ncc": 0}},
    )
    assert score(REWARD, text, target).reasons == (
        'call 2 (send_email): missing to; date: "tomorrow" != "2025-01-02"; n: [null, true] != 1; '
        'extra cc; extra "b\\ncc"',
    )


def test_long_values_and_lists_are_cut() -> None:
    target = Target("t", (ToolCall("f", {"x": "short"}),))
    text = calls({"name": "f", "parameters": {"x": "y" * 1000}}, *({"name": "g", "parameters": {}} for _ in range(99)))
    reasons = score(REWARD, text, target).reasons
    assert reasons[0] == f'call 1 (f): x: "{"y" * 56}... != "short"'
    assert reasons[1:] == ("spurious call g",) * 19 + ("and more",)


@pytest.mark.parametrize(
    ("text", "target", "outcome"),
    [
        (EXACT, WEATHER, Outcome.EXACT),
        (calls(weather(city="Rome")), WEATHER, Outcome.TRUNCATED),
        ("<think> and so", WEATHER, Outcome.TRUNCATED),
        (calls("{"), WEATHER, Outcome.TRUNCATED),
        ("<think> and so", REPLY, Outcome.TRUNCATED),
    ],
)
def test_truncated_unless_exact(text: str, target: Target, outcome: Outcome) -> None:
    whole, cut = (score(REWARD, text, target, truncated=flag) for flag in (False, True))
    assert cut.outcome is outcome
    assert (cut.total, cut.parts) == (whole.total, whole.parts)
    added = () if outcome is Outcome.EXACT else ("truncated: cut off at the token limit",)
    assert tuple(r for r in cut.reasons if r not in whole.reasons) == added


def test_length_is_one_more_part() -> None:
    thought = "w " * 128  # 128 / 512 = 0.25
    text = EXACT.replace("<think> a </think>", f"<think> {thought}</think>")
    assert score(LENGTH, text, WEATHER) == Score(
        4.25,
        {"format": 1.0, "correctness": 3.0, "length": 0.25},
        Outcome.EXACT,
        ("length: 128 words of thought, full at 512",),
    )
    full = score(LENGTH, text.replace(thought, thought * 4), WEATHER)
    assert (full.total, full.reasons) == (5.0, ())


def test_a_batch_is_its_completions_in_order() -> None:
    texts, targets, cut = [EXACT, "", "x"], [WEATHER, REPLY, WEATHER], [False, False, True]
    rollouts = [Rollout(*row) for row in zip(texts, targets, cut, strict=True)]
    scores = REWARD.score_batch(rollouts)
    assert scores == [REWARD.score(rollout) for rollout in rollouts]
    unexplained = REWARD.score_batch(rollouts, explain=False)
    assert [(s.total, s.parts, s.outcome) for s in unexplained] == [(s.total, s.parts, s.outcome) for s in scores]
    assert [found.reasons for found in unexplained] == [(), (), ("truncated: cut off at the token limit",)]


def test_the_example_of_the_documentation() -> None:
    target, completion, expected = (
        block.split("```")[0] for block in DOCS.read_text("utf-8").split("An example by hand")[1].split("\n```")[1:6:2]
    )
    got = score(REWARD, completion.removeprefix("text\n"), Target.from_json(json.loads(target[4:]))).to_json()
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in got.items()}
    assert rounded == json.loads(expected[4:])


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = [
    "",
    "\x00",
    '\ud800<think>\udfff</think>\n<tool_call>\n{"name": "\ud800"}\n</tool_call>',
    "</tool_call><tool_call>",
    "<tool_call>" * 10_000,
    "<think>" * 10_000 + "</think>\n<tool_call>\n" * 10_000 + "\n</tool_call>",
    calls(""),
    calls("null"),
    calls("[]"),
    calls("{}"),
    calls(DEEP),
    calls('{"name": "get_weather", "parameters": {"city": ' + DEEP + "}}"),
    calls('{"name": "get_weather", "parameters": {"days": ' + "9" * 10_000 + "}}"),
    calls('{"name": "get_weather", "parameters": {"days": 1e999, "city": NaN, "x": -Infinity}}'),
    calls('{"name": "get_weather", "name": 1, "parameters": {"a": 1, "a": 2}}'),
    calls('{"name": ["get_weather"], "parameters": {}}'),
    calls('{"name": {}, "parameters": {}}'),
    calls('{"name": null, "parameters": null}', '{"name": true}', '{"name": 1.5, "parameters": "x"}'),
    calls('{"name": "get_weather", "parameters": null}'),
    calls('{"name": "get_weather", "parameters": [["city", "Rome"]]}'),
    calls('{"name": "get_weather", "parameters": {"city": "' + "x" * 10_000_000 + '"}}'),
    calls(*['{"name": "get_weather", "parameters": {}}'] * 20_000),
]


@pytest.mark.parametrize("reward", [REWARD, LENGTH])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_get_a_finite_score(reward: Any, text: str) -> None:
    for target in (WEATHER, REPLY, NONE):
        found = score(reward, text, target)
        low, high = reward.bounds()
        assert low <= found.total <= high
        assert found.outcome is not Outcome.EXACT
        assert sum(map(len, found.reasons)) < 3000
        json.dumps(found.to_json(), allow_nan=False)


def test_values_at_the_edge_of_the_recursion_limit() -> None:
    for depth in range(900, 1000):
        nested = "[" * depth + "]" * depth
        text = calls('{"name": "f", "parameters": {"x": ' + nested + ', "y": ' + nested + "}}")
        assert math.isfinite(score(REWARD, text, Target("t", (ToolCall("f", {"x": [[]]}),))).total)
        if (decoded := decode(nested)) is not None:
            assert math.isfinite(score(REWARD, text, Target("t", (ToolCall("f", {"x": decoded}),))).total)


def test_a_gold_value_too_deep_to_print() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    found = score(REWARD, calls(weather(city=1)), Target("t", (ToolCall("get_weather", {"city": deep}),)))
    assert found.reasons == ("call 1 (get_weather): city: 1 != (nested too deeply)",)


def decode(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
LINES = st.dictionaries(st.sampled_from(["name", "parameters", "id"]), JSON | st.just("f")).map(json.dumps)
PIECES = st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>", "\n", " "])
TEXTS = (
    st.text() | st.lists(PIECES | LINES | st.text(max_size=4)).map("".join) | st.lists(LINES).map(lambda x: calls(*x))
)
GOLD_CALLS = st.lists(
    st.builds(ToolCall, st.sampled_from(["f", "g", "name"]), st.dictionaries(st.text(max_size=3), JSON, max_size=3)),
    max_size=3,
).map(tuple)
TARGETS = st.builds(Target, st.just("t"), GOLD_CALLS, st.none() | st.text(max_size=5))


@settings(max_examples=300, deadline=None)
@given(TEXTS, TARGETS, st.booleans())
def test_any_text_scores_within_bounds(text: str, target: Target, truncated: bool) -> None:
    found = score(LENGTH, text, target, truncated=truncated)
    assert list(found.parts) == ["format", "correctness", "length"]
    layout, correctness, length = (value or 0.0 for value in found.parts.values())
    assert layout in (0.0, 1.0)
    assert -3 <= correctness <= 3
    assert 0 <= length <= 1
    assert found.total == pytest.approx(layout + correctness + length)
    assert (found.outcome is Outcome.EXACT) == (correctness == 3)
    assert found == score(LENGTH, text, target, truncated=truncated)


@settings(max_examples=200, deadline=None)
@given(TARGETS, st.randoms())
def test_the_gold_itself_is_perfect_in_any_order(target: Target, random: Any) -> None:
    if any(tag in str(target) for tag in ("<", ">", "nan")):
        return
    order = list(target.tool_calls)
    random.shuffle(order)
    text = find_format("toolrl").render_target(Target(target.thought, tuple(order), target.response))
    found = score(REWARD, text, target)
    outcome = Outcome.EXACT if target.tool_calls else Outcome.ABSTAINED
    correctness = 3.0 if target.tool_calls else 0.0
    assert found == Score(1.0 + correctness, {"format": 1.0, "correctness": correctness}, outcome)


def read_gold_texts() -> list[str]:
    sft = json.loads((DATA / "rlla_sft.json").read_text("utf-8"))
    rl = [json.loads(line) for line in (DATA / "rlla_rl_test.jsonl").read_text("utf-8").splitlines()]
    return [row["output"] for row in sft] + [row["reward_model"]["ground_truth"] for row in rl]


@pytest.mark.skipif(not DATA.exists(), reason="needs the real rows")
@pytest.mark.slow
def test_real_gold_texts() -> None:
    counts: Counter[tuple[float, str]] = Counter()
    for text in read_gold_texts():
        target = find_format("toolrl").parse_target(text)
        found = score(REWARD, text, target)
        counts[found.total, found.outcome.value] += 1
        literal_tag = "<tool_call>" in text.split("</think>")[0]
        assert (found.outcome is Outcome.MALFORMED) == literal_tag
        assert score(find_reward("robust"), text, target).total == 4.0
    # 346 + 71 rows hold calls; 17 thoughts mention <tool_call>, which costs a completion its calls and its format
    assert counts == {(4.0, "exact"): 400, (1.0, "abstained"): 63, (-3.0, "malformed"): 17}
