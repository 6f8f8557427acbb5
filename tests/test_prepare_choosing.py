"""Which examples are written: repetition, overlap, length, what can be learned, mix and splits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess

from toolrl_cli.errors import ConfigError, DataError
from toolrl_cli.prepare import Choice, PrepareConfig, plan, prepare_examples
from toolrl_cli.prepare.config import read_mix, read_splits
from toolrl_cli.records import Json

SAMPLES = Path(__file__).parents[1] / "data_samples"
CHANCE = ("--mask-names", "1", "--shuffle-tools", "--irrelevance", "0.3", "--max-tools", "3")


def row(number: int, question: str | None = None, source: str = "alpha", tool: str | None = None, **meta: Any) -> Json:
    """A line of examples.jsonl."""
    name = tool or f"tool_{number}"
    schema = {"type": "object", "properties": {"place": {"type": "string"}}}
    return {
        "id": f"{source}-{number}",
        "source": source,
        "tools": [{"type": "function", "function": {"name": name, "parameters": schema}}],
        "messages": [{"role": "user", "content": question or f"How is place number {number} today?"}],
        "target": {
            "thought": None,
            "tool_calls": [{"name": name, "arguments": {"place": f"p{number}"}}],
            "response": None,
        },
        "meta": meta,
    }


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in rows))
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(folder: Path, *rows: Json, seed: int = 0, limit: int | None = None, **choice: Any) -> tuple[list[str], Json]:
    """The ids that are written, and the summary."""
    data = write(folder / "in.jsonl", *rows)
    config = PrepareConfig(
        inputs=(data,),
        output=folder / "out.jsonl",
        choice=Choice(**choice),
        seed=seed,
        limit=limit,
        overwrite=True,
    )
    summary = prepare_examples(config).to_json()
    assert summary["rows"] == summary["converted"] == len(rows)
    splits = summary.get("splits", {})
    assert summary["examples"] + sum(splits.values()) + sum(summary.get("dropped", {}).values()) == len(rows)
    return [line["id"] for line in read(folder / "out.jsonl")], summary


def written(cli: InProcess, output: Path, *arguments: object) -> list[Any]:
    """The examples that the command writes."""
    done = cli("prepare", *arguments, "-o", output, "--overwrite")
    assert done.exit_code == 0, done.output
    return read(output)


class TestBeforeChance:
    """Examples are compared as they were before chance changes them, and then changed as without a choice."""

    @pytest.mark.parametrize("dedupe", ["exact", "near"])
    def test_repetitions(self, tmp_path: Path, cli: InProcess, dedupe: str) -> None:
        if dedupe == "near":
            pytest.importorskip("datasketch")
        twice = [SAMPLES / "train-xlam.jsonl"] * 2
        plain = written(cli, tmp_path / "plain.jsonl", *twice, "--dedupe", dedupe)
        every = {e["id"]: e for e in written(cli, tmp_path / "every.jsonl", *twice, *CHANCE)}
        for workers in (1, 2):
            changed = written(
                cli, tmp_path / "changed.jsonl", *twice, *CHANCE, "--dedupe", dedupe, "--workers", workers
            )
            assert changed == [every[example["id"]] for example in plain]
        if dedupe == "exact":
            assert (len(every), len(plain)) == (240, 120)

    def test_overlaps_with_a_benchmark(self, tmp_path: Path, cli: InProcess) -> None:
        golds = [row(n, "Whatever is asked") for n in range(20)]
        for gold in golds:
            words = f"{gold['id']} two three four five six seven eight"
            gold["target"]["tool_calls"][0]["arguments"] = {"place": words}
        bench = write(tmp_path / "bench.jsonl", *golds[:10])
        data = write(tmp_path / "in.jsonl", *({**r, "messages": [{"role": "user", "content": "Other"}]} for r in golds))
        options = (data, "--decontaminate", bench)
        left = [e["id"] for e in written(cli, tmp_path / "out.jsonl", *options, "--mask-names", "1")]
        assert left == [gold["id"] for gold in golds[10:]]

    def test_splits(self, tmp_path: Path, cli: InProcess) -> None:
        rows = [row(n, tool=f"tool_{n % 20}") for n in range(100)]
        data = write(tmp_path / "in.jsonl", *rows)
        plain = written(cli, tmp_path / "plain.jsonl", data, "--split", "test=0.2")
        masked = written(cli, tmp_path / "masked.jsonl", data, "--split", "test=0.2", "--mask-names", "1")
        assert [e["id"] for e in masked] == [e["id"] for e in plain]
        again = written(cli, tmp_path / "all.jsonl", data, "--mask-names", "1")
        assert {e["target"]["tool_calls"][0]["name"] for e in again}.isdisjoint(f"tool_{n}" for n in range(20))
        later = written(cli, tmp_path / "later.jsonl", tmp_path / "all.jsonl", "--split", "test=0.2")
        assert [e["id"] for e in later] == [e["id"] for e in plain], "names that were masked before count as well"

    def test_prompts_are_measured_as_they_are_written(self, tmp_path: Path, cli: InProcess, tiny_model: Path) -> None:
        rows = [row(n) for n in range(20)]
        for some in rows:
            some["tools"] += row(99)["tools"] + row(98)["tools"]
        data = write(tmp_path / "in.jsonl", *rows)
        options = (data, "--tokenizer", tiny_model, "-o", "/dev/null", "--json")
        long, short = (json.loads(cli("prepare", *options, *more).stdout) for more in ([], ["--max-tools", "1"]))
        assert short["prompt_tokens"]["max"] < long["prompt_tokens"]["p50"]
        assert short["changed"] == {"tools limited": 20}


class TestDuplicates:
    def test_exact(self, tmp_path: Path) -> None:
        first, second = row(1), row(2)
        ids, summary = run(
            tmp_path, first, second, {**first, "id": "again"}, {**first, "meta": {"x": 1}}, dedupe="exact"
        )
        assert ids == ["alpha-1", "alpha-2"]
        assert summary["dropped"] == {"exact duplicate": 2}

    def test_near(self, tmp_path: Path) -> None:
        pytest.importorskip("datasketch")
        text = (
            "Please tell me in a few words how the weather will be in the old town of Rome tomorrow at noon, my friend"
        )
        rows = [
            row(1, text, tool="weather"),
            {**row(1, text + "!", tool="weather"), "id": "shouted"},
            {**row(1, text.replace("my friend", "my good friend"), tool="weather"), "id": "reworded"},
            row(2, text, tool="timer"),
            row(
                3, "Something else is asked here: where is the nearest station, and when does it open?", tool="weather"
            ),
        ]
        ids, summary = run(tmp_path, *rows, dedupe="near")
        assert ids == ["alpha-1", "alpha-2", "alpha-3"], "other calls are no duplicates"
        assert sum(summary["dropped"].values()) == 2

    def test_steps_of_a_dialogue_are_none(self, tmp_path: Path) -> None:
        pytest.importorskip("datasketch")
        turns = [
            {"role": r, "content": f"the same words in every single message {i}"}
            for i in range(4)
            for r in ("user", "assistant")
        ]
        (tmp_path / "in").mkdir()
        chat = write(tmp_path / "in" / "chat.jsonl", {"messages": turns})
        config = PrepareConfig(inputs=(chat,), output=tmp_path / "out.jsonl", choice=Choice(dedupe="near"))
        assert prepare_examples(config).written == 4


class TestContamination:
    def test_a_file_of_questions(self, tmp_path: Path) -> None:
        question = "What rocket was the first spacecraft that ever approached Uranus launched on?"
        bench = write(tmp_path / "bench.jsonl", {"Question": question, "Answer": "Titan IIIE"}, {"q": "Short one"})
        rows = [
            row(1, f"Tell me: {question.upper()} Thanks."),
            row(2, "What rocket was the first spacecraft that ever approached Neptune launched on?"),
            row(3, "Short one"),
        ]
        ids, summary = run(tmp_path, *rows, decontaminate=(str(bench),))
        assert ids == ["alpha-2", "alpha-3"], "nine words in a row are no ten"
        assert summary["dropped"] == {f"overlaps {bench}": 1}
        report = read(tmp_path / "out.contaminated.jsonl")
        assert [(found["id"], found["where"], found["entry"]) for found in report] == [
            ("alpha-1", "user", "bench.jsonl:1"),
        ]
        assert report[0]["words"] == "what rocket was the first spacecraft that ever approached uranus"

    def test_gold_calls(self, tmp_path: Path) -> None:
        gold = row(9, "Whatever is asked")
        gold["target"]["tool_calls"][0]["arguments"] = {"place": "one two three four five six seven eight nine ten"}
        bench = write(tmp_path / "bench.jsonl", gold)
        same = {**gold, "id": "same", "messages": [{"role": "user", "content": "Quite another question"}]}
        ids, _ = run(tmp_path, same, row(1), decontaminate=(str(bench),))
        assert ids == ["alpha-1"]
        assert read(tmp_path / "out.contaminated.jsonl")[0]["where"] == "calls"

    def test_the_leaderboard_itself(self, tmp_path: Path) -> None:
        from toolrl_cli.benches.bfcl.bench import find_package

        path = find_package(None) / "bfcl_eval" / "data" / "BFCL_v4_simple_python.json"
        asked = [json.loads(line) for line in path.read_text("utf-8").splitlines()[:50]]
        rows = [row(n, entry["question"][0][0]["content"]) for n, entry in enumerate(asked)]
        rows.append(row(99, "A question that nobody ever put into a benchmark, about the colour of my third bicycle"))
        ids, summary = run(tmp_path, *rows, decontaminate=("bfcl",))
        assert "alpha-99" in ids
        assert summary["dropped"]["overlaps bfcl"] >= 48, "but for questions of under five words"

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        gone = tmp_path / "gone.jsonl"
        for choice in ({"decontaminate": (str(gone),)}, {"keep_learnable": gone}):
            config = PrepareConfig(
                inputs=(write(tmp_path / "in.jsonl", row(1)),), output=tmp_path / "out.jsonl", choice=Choice(**choice)
            )
            with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
                plan(config)
        cut_off = tmp_path / "cut.jsonl"
        cut_off.write_text(json.dumps(row(1)) + '\n{"id": "x", "mess')
        with pytest.raises(DataError, match=r"cut\.jsonl:2: not JSON"):
            run(tmp_path, row(1), decontaminate=(str(cut_off),))

    def test_entries_that_are_texts(self, tmp_path: Path) -> None:
        bench = write(tmp_path / "bench.jsonl", "one two three four five six seven eight nine ten eleven")
        same = row(2, "Well, one two three four five six seven eight nine ten it is")
        assert run(tmp_path, row(1), same, decontaminate=(str(bench),))[0] == ["alpha-1"]


class TestTokens:
    def test_long_prompts_go_and_percentiles_are_told(self, tmp_path: Path, tiny_model: Path) -> None:
        rows = [row(n, "word " * (10 if n else 400)) for n in range(10)]
        _, summary = run(tmp_path, *rows, tokenizer=str(tiny_model))
        tokens = summary["prompt_tokens"]
        assert tokens["p50"] < tokens["max"]
        ids, summary = run(tmp_path, *rows, tokenizer=str(tiny_model), max_prompt_tokens=tokens["p90"])
        assert ids == [f"alpha-{n}" for n in range(1, 10)]
        assert summary["dropped"] == {f"prompt over {tokens['p90']} tokens": 1}

    def test_a_limit_needs_a_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--max-prompt-tokens needs --tokenizer"):
            run(tmp_path, row(1), max_prompt_tokens=5)


class TestLearnable:
    def test_flat_groups_go_and_the_mix_stays(self, tmp_path: Path) -> None:
        rows = [row(n, source=source) for source in ("alpha", "beta") for n in range(20)]
        flat = {"alpha-0", "alpha-1", *(f"beta-{n}" for n in range(10))}
        scored = [
            {"id": r["id"], "score": {"total": 1.0 if r["id"] in flat else float(k)}} for r in rows for k in range(4)
        ]
        ids, summary = run(tmp_path, *rows, keep_learnable=write(tmp_path / "scored.jsonl", *scored))
        assert not flat & set(ids)
        assert Counter(id.split("-")[0] for id in ids) == {"alpha": 10, "beta": 10}
        assert summary["dropped"] == {"flat group": 12, "left out to keep the mix": 8}

    def test_a_source_without_anything_to_learn_is_named(self, tmp_path: Path) -> None:
        rows = [row(n, source=source) for n in range(3) for source in ("alpha", "beta")]
        totals = {"alpha": (0.0, 1.0), "beta": (1.0, 1.0)}
        scored = [{"id": r["id"], "score": {"total": total}} for r in rows for total in totals[r["source"]]]
        with pytest.raises(DataError, match="no example of beta is learnable"):
            run(tmp_path, *rows, keep_learnable=write(tmp_path / "scored.jsonl", *scored))

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        scored = write(tmp_path / "scored.jsonl", {"id": "other", "score": {"total": 1.0}})
        with pytest.raises(DataError, match="none of its ids is among the examples"):
            run(tmp_path, row(1), keep_learnable=scored)
        with pytest.raises(DataError, match=r'scored\.jsonl:1: .*"score" of a row'):
            run(tmp_path, row(1), keep_learnable=write(tmp_path / "scored.jsonl", {"id": "alpha-1"}))


class TestMix:
    ROWS = [row(n, source=source) for n in range(30) for source in ("alpha", "beta", "gamma")]

    def test_so_many_of_each_in_their_order(self, tmp_path: Path) -> None:
        ids, summary = run(tmp_path, *self.ROWS, mix={"alpha": 5, "gamma": 12}, seed=31415)
        assert Counter(id.split("-")[0] for id in ids) == {"alpha": 5, "gamma": 12}
        everything = [r["id"] for r in self.ROWS]
        assert ids == sorted(ids, key=everything.index)
        assert summary["dropped"] == {"not in the mix": 73}
        assert run(tmp_path, *self.ROWS, mix={"gamma": 12, "alpha": 5}, seed=31415)[0] == ids
        assert run(tmp_path, *self.ROWS, mix={"alpha": 5, "gamma": 12}, seed=1)[0] != ids

    def test_what_cannot_be_had(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="--mix alpha=31: only 30 examples are left"):
            run(tmp_path, *self.ROWS, mix={"alpha": 31})
        with pytest.raises(
            ConfigError, match="--mix delta: no example is of this source; there are alpha, beta, gamma"
        ):
            run(tmp_path, *self.ROWS, mix={"delta": 1})
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]

    def test_the_words_of_the_option(self) -> None:
        assert read_mix("toolace=2000, xlam=1") == {"toolace": 2000, "xlam": 1}
        for wrong in ("toolace", "a=0", "a=-1", "a=1,a=2", "a=x"):
            with pytest.raises(ConfigError, match="must be SOURCE=NUMBER"):
                read_mix(wrong)


class TestSplit:
    def test_no_dialogue_and_no_tool_set_is_in_two_files(self, tmp_path: Path) -> None:
        rows = [row(n, f"Question {n % 40}", tool=f"tool_{n % 60}") for n in range(600)]
        _, summary = run(tmp_path, *rows, split={"test": 0.2, "dev": 0.1})
        files = [tmp_path / name for name in ("out.jsonl", "out.test.jsonl", "out.dev.jsonl")]
        parts = [read(path) for path in files]
        assert sum(map(len, parts)) == 600
        assert summary["splits"] == {str(files[1]): len(parts[1]), str(files[2]): len(parts[2])}
        assert 0 < len(parts[1]) <= 120
        assert 0 < len(parts[2]) <= 60
        for key in ("messages", "tools"):
            seen = [{json.dumps(line[key]) for line in part} for part in parts]
            assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]

    def test_a_question_under_several_system_messages_is_in_one_file(self, tmp_path: Path) -> None:
        rows = [row(n, f"Question {n % 20}") for n in range(100)]
        for n, some in enumerate(rows):
            some["messages"].insert(0, {"role": "system", "content": f"You are number {n}."})
        run(tmp_path, *rows, split={"test": 0.2})
        parts = [read(tmp_path / name) for name in ("out.jsonl", "out.test.jsonl")]
        asked, tested = ({line["messages"][1]["content"] for line in part} for part in parts)
        assert len(asked) + len(tested) == 20

    def test_one_family_cannot_be_split(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"--split test=0\.1: would be empty; the smallest family .* holds 10 of 10"
        ):
            run(tmp_path, *(row(n, tool="the_same") for n in range(10)), split={"test": 0.1})

    def test_the_words_of_the_option(self) -> None:
        assert read_splits(["test=0.02,dev=0.1"]) == (None, {"test": 0.02, "dev": 0.1})
        assert read_splits(["validation"]) == ("validation", {})
        for wrong in ("test=0", "test=1", "test=x", "a/b=0.1", "rejects=0.1", "=0.5"):
            with pytest.raises(ConfigError, match="must be NAME=SHARE"):
                read_splits([wrong])
        with pytest.raises(ConfigError, match="leave nothing"):
            read_splits(["a=0.5", "b=0.5"])


def test_shuffle_comes_before_the_limit(tmp_path: Path) -> None:
    rows = [row(n) for n in range(50)]
    ids, _ = run(tmp_path, *rows, shuffle=True, seed=3)
    some, summary = run(tmp_path, *rows, shuffle=True, seed=3, limit=7)
    assert some == ids[:7] != [r["id"] for r in rows[:7]]
    assert summary["dropped"] == {"over the limit": 43}


def test_prompts_are_counted_in_a_format_that_cannot_express_the_target(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row(n) for n in range(3)]
    rows[0]["target"]["thought"] = "llama3 has none"
    ids, summary = run(tmp_path, *rows, tokenizer=str(tiny_model), format="llama3", max_prompt_tokens=4000)
    assert len(ids) == 3
    assert summary["prompt_tokens"]["max"] > 0
