"""Bamboogle: rounds of search, every engine and both judges; HTTP goes to a real server on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import InProcess, read_rows, refusal, write_lines
from hypothesis import given
from hypothesis import strategies as st
from servers import Act, in_turn, send, serve
from test_sources import DATA, needs_data

from toolrl_cli.benches.bamboogle import ROUNDS, BamboogleBench, read_response
from toolrl_cli.benches.judges import EndpointJudge, contains, matches, normalize, open_judge, token_f1
from toolrl_cli.benches.search import Bm25Search, Hit, SerperSearch, WikipediaSearch, open_search, write_hits
from toolrl_cli.errors import DataError, SetupError, UsageError
from toolrl_cli.evaluation import EvalConfig, evaluate, plan
from toolrl_cli.formats import find_format
from toolrl_cli.inference.base import Prompt
from toolrl_cli.records import Completion, Json
from toolrl_cli.web import WebClient

FORMAT = find_format("toolrl")
QUICK = WebClient(timeout=2.0, retries=1, pause=0.01)
QUESTIONS = [
    {"Question": "Who led France when Oslo got its name?", "Answer": "The Leader"},
    {"Question": "In what year was Uranus found?", "Answer": "1781"},
]
CORPUS = [
    {"id": 1, "title": "Uranus", "text": "Uranus was discovered in 1781 by William Herschel."},
    {"title": "Oslo", "text": "Oslo is the capital of Norway."},
    {"text": "The discovered lands lie to the west."},
]


def call(query: object, name: str = "search", more: Sequence[Json] = ()) -> str:
    """A completion that searches."""
    lines = [{"name": name, "parameters": {"query": query}}, *more]
    return "<think> x </think>\n<tool_call>\n" + "\n".join(map(json.dumps, lines)) + "\n</tool_call>"


def reply(text: str) -> str:
    """A completion that answers."""
    return f"<think> x </think>\n<response> {text} </response>"


class ScriptedRounds:
    """Gives each entry one text a round, and keeps the prompts."""

    def __init__(self, *texts: Sequence[str]) -> None:
        self._texts = {f"bamboogle-{i}": list(rounds) for i, rounds in enumerate(texts)}
        self.prompts: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Completion]]:
        for prompt in prompts:
            self.prompts.append(prompt)
            yield prompt, Completion(self._texts[prompt.id].pop(0))


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    """An evaluation on two questions and a small corpus."""
    data = tmp_path / "bamboogle.json"
    data.write_text(json.dumps(QUESTIONS), "utf-8")
    corpus = write_lines(tmp_path / "corpus.jsonl", CORPUS)
    return EvalConfig(bench="bamboogle", output=tmp_path / "out", model="scripted", data=data, search=f"bm25:{corpus}")


def results(config: EvalConfig) -> list[Json]:
    """What was written, in the order of the questions."""
    return sorted(read_rows(config.output / "results.jsonl"), key=lambda row: str(row["id"]))


class TestRounds:
    def test_searches_and_answers_are_counted_and_judged(self, config: EvalConfig) -> None:
        engine = ScriptedRounds(
            [call("Oslo"), call("France"), call("leader"), call("more")],
            [call("Uranus discovered"), reply("In 1781")],
        )
        summary = evaluate(config, engine=engine)
        lost, found = results(config)
        assert (lost["error_type"], lost["error"], lost["correct"]) == (
            "no_answer",
            "still searching after 4 rounds",
            False,
        )
        assert len(lost["steps"]) == ROUNDS
        assert lost["score"] == {"exact_match": 0.0, "f1": 0.0, "contains": 0.0, "tool_calls": 4.0, "rounds": 4.0}
        assert (found["error_type"], found["error"]) == ("wrong_answer", "'In 1781' is not '1781'")
        assert found["score"] == pytest.approx(
            {"exact_match": 0.0, "f1": 2 / 3, "contains": 1.0, "tool_calls": 1.0, "rounds": 2.0}
        )
        metrics = {name: metric.value for name, metric in summary.metrics.items()}
        assert metrics == pytest.approx(
            {"accuracy": 0.0, "exact_match": 0.0, "f1": 1 / 3, "contains": 0.5, "tool_calls": 2.5, "rounds": 3.0}
        )
        assert all(metric.low <= metric.value <= metric.high for metric in summary.metrics.values())

    def test_the_results_stand_in_the_next_prompt(self, config: EvalConfig) -> None:
        more = [{"name": "search", "parameters": {"query": "Oslo"}}]
        engine = ScriptedRounds([reply("the leader!")], [call("Uranus", more=more), reply("1781")])
        summary = evaluate(config, engine=engine)
        assert summary.metrics["accuracy"].value == 1.0
        system, history = (message["content"] for message in engine.prompts[-1].messages)
        assert "1. Name: search\n" in system
        wanted = "1. Uranus - Uranus was discovered in 1781 by William Herschel."
        assert f"<obs> {wanted} </obs>\n<obs> Not run: one search at a time. </obs>" in history
        assert (
            history.startswith("**Dialogue Records History**") or "<user> In what year was Uranus found?\n" in history
        )

    def test_calls_that_cannot_be_run_are_told_so(self, config: EvalConfig) -> None:
        engine = ScriptedRounds([call("x", name="google"), call([1]), reply("no")], [reply("no")])
        evaluate(config, engine=engine)
        history = engine.prompts[-1].messages[1]["content"]
        assert "<obs> There is no tool google; use search. </obs>" in history
        assert "<obs> search needs a query. </obs>" in history

    @pytest.mark.parametrize(
        ("text", "error_type", "correct"),
        [
            (reply("1781."), None, True),
            ("1781", None, True),
            ("<think> so </think> the 1781", None, True),
            ("<think> so </think>\n<response> 1781", None, True),
            ("<think> so </think>", "no_answer", False),
            ("", "no_answer", False),
            ("<tool_call>\nsearch(1781)\n</tool_call>", "parse", False),
            ("<tool_call>\nsearch(1781)\n</tool_call>\n<response> 1781 </response>", "parse", True),
        ],
    )
    def test_where_the_answer_is_taken_from(
        self, config: EvalConfig, text: str, error_type: str | None, correct: bool
    ) -> None:
        evaluate(config, engine=ScriptedRounds([reply("?")], [text]))
        assert [(row["error_type"], row["correct"]) for row in results(config)[1:]] == [(error_type, correct)]

    def test_without_search_there_is_no_tool(self, config: EvalConfig) -> None:
        engine = ScriptedRounds([call("Oslo")], [reply("1781")])
        evaluate(replace(config, search="none"), engine=engine)
        assert "search" not in str(engine.prompts[0].messages).lower()
        assert [row["correct"] for row in results(config)] == [False, True]

    @pytest.mark.parametrize("name", ["hermes", "llama3"])
    def test_other_formats(self, config: EvalConfig, name: str) -> None:
        text = {
            "hermes": '<tool_call>\n{"name": "search", "arguments": {"query": "Uranus"}}\n</tool_call>',
            "llama3": '{"name": "search", "parameters": {"query": "Uranus"}}',
        }[name]
        engine = ScriptedRounds(["The Leader"], [text, "1781"])
        summary = evaluate(replace(config, format=name), engine=engine)  # type: ignore[arg-type]
        assert (summary.metrics["accuracy"].value, summary.metrics["tool_calls"].value) == (1.0, 0.5)
        assert "Herschel" in str(engine.prompts[-1].messages)

    def test_a_failed_search_is_an_error_of_its_entry(self, config: EvalConfig, tmp_path: Path) -> None:
        recording = write_lines(tmp_path / "r.jsonl", [{"query": "Uranus", "results": "1781 it was"}])
        engine = ScriptedRounds([call("Oslo")], [call("Uranus"), reply("1781")])
        summary = evaluate(replace(config, search=f"recorded:{recording}"), engine=engine)
        failed, right = results(config)
        assert (failed["error_type"], right["correct"]) == ("search", True)
        assert failed["error"] == f"'Oslo': {recording} holds no such query; record it first"
        assert summary.notes == ("counted wrong because the search or the judge failed: bamboogle-0",)

    def test_a_failed_search_is_that_of_its_sample_alone(self, config: EvalConfig, tmp_path: Path) -> None:
        recording = write_lines(tmp_path / "r.jsonl", [{"query": "Uranus", "results": "1781 it was"}])
        engine = ScriptedRounds(["?", "?"], [call("Oslo"), call("Uranus"), reply("1781")])
        asked = replace(config, search=f"recorded:{recording}", samples=2, temperature=0.5)
        evaluate(asked, engine=engine)
        found = [(row["error_type"], row["correct"]) for row in results(config) if row["id"] == "bamboogle-1"]
        assert found == [("search", False), (None, True)]

    def test_rows_that_are_no_questions_are_refused(self, config: EvalConfig, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "q.jsonl", [QUESTIONS[0], {"Question": "?"}])
        with pytest.raises(DataError, match=r"q\.jsonl:2: Answer must be a string, not null"):
            evaluate(replace(config, data=data), engine=ScriptedRounds())
        data.write_text("{\n", "utf-8")
        with pytest.raises(DataError, match=r"q\.jsonl:1: not JSON"):
            evaluate(replace(config, data=data), engine=ScriptedRounds())


class TestSearch:
    def test_bm25_finds_words_in_titles_and_texts(self, config: EvalConfig) -> None:
        search = open_search(config.search)
        assert search is not None
        assert search("norway capital") == "1. Oslo - Oslo is the capital of Norway."
        found = search("Who discovered URANUS?").splitlines()
        assert found[0].startswith("1. Uranus - ")
        assert found[1:] == ["2. The discovered lands lie to the west."]
        assert [search(query) for query in ("zebra", "the of", "?", "\ud800\x00")] == ["No results."] * 4

    def test_no_more_than_five_short_results(self) -> None:
        lines = Bm25Search([Hit("", f"word {i} " + "x" * 3000) for i in range(9)])("word").splitlines()
        assert (len(lines), {len(line) for line in lines}) == (5, {1003})

    def test_a_missing_library_is_named(self, config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "bm25s", None)
        with pytest.raises(
            SetupError, match=r"needs bm25s; run: python -m pip install -c constraints.txt -e '\.\[search\]'"
        ):
            open_search(config.search)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([], ": no passages"),
            ([{"text": ". "}], ": no passages"),
            ([{"text": "a"}, {"title": "b"}], ":2: text must be a string"),
        ],
    )
    def test_a_corpus_without_passages_is_refused(self, tmp_path: Path, lines: list[Json], message: str) -> None:
        corpus = write_lines(tmp_path / "c.jsonl", lines)
        with pytest.raises(DataError, match=f"c.jsonl{message}"):
            open_search(f"bm25:{corpus}")

    def test_a_recording_answers_without_its_engine(self, config: EvalConfig, tmp_path: Path) -> None:
        texts = ([call("Oslo"), reply("?")], [call("Oslo"), call(" Uranus "), reply("1781")])
        recording = tmp_path / "recording.jsonl"
        first = evaluate(replace(config, record=recording), engine=ScriptedRounds(*texts))
        assert [row["query"] for row in read_rows(recording)] == ["Oslo", "Uranus"]
        again = replace(config, search=f"recorded:{recording}", output=tmp_path / "again")
        assert evaluate(again, engine=ScriptedRounds(*texts)).metrics == first.metrics
        # What is recorded is not asked for again, and nothing recorded is lost.
        kept = '{"query": "Oslo", "results": "from the recording"}\n{"query": "cut o'
        recording.write_text(kept, "utf-8")
        engine = ScriptedRounds(*texts)
        evaluate(replace(config, record=recording, output=tmp_path / "third"), engine=engine)
        assert "from the recording" in str(engine.prompts)
        assert [row["query"] for row in read_rows(recording)] == ["Oslo", "Uranus"]

    @pytest.mark.parametrize("content", ['{"my": "notes"}', '[1, 2]\n{"cut o'])
    def test_a_file_of_something_else_is_no_recording_and_stays(
        self, config: EvalConfig, tmp_path: Path, content: str
    ) -> None:
        notes = tmp_path / "notes.json"
        notes.write_text(content, "utf-8")
        with pytest.raises(DataError, match=r"notes\.json:1: "):
            plan(replace(config, record=notes))
        assert notes.read_text("utf-8") == content

    def test_a_record_that_lacks_its_end_of_line_counts(self, config: EvalConfig, tmp_path: Path) -> None:
        recording = tmp_path / "recording.jsonl"
        recording.write_text('{"query": "Oslo", "results": "from the recording"}', "utf-8")
        evaluate(
            replace(config, record=recording), engine=ScriptedRounds([call("Oslo"), "?"], [call("Uranus"), "1781"])
        )
        assert [row["query"] for row in read_rows(recording)] == ["Oslo", "Uranus"]

    def test_serper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        body = {
            "answerBox": {"title": "Uranus", "answer": "1781", "snippet": "long"},
            "organic": [{"title": f"T{i}", "snippet": f"s{i}"} for i in range(9)] + [{"title": 7}, "x"],
        }
        with serve(in_turn(send(status=500), send(body), send({}))) as server:
            search = SerperSearch(key="k", url=server.url, client=QUICK)
            assert search("when?").splitlines() == ["1. Uranus - 1781", *(f"{i + 2}. T{i} - s{i}" for i in range(4))]
            monkeypatch.setenv("SERPER_API_KEY", "secret")
            monkeypatch.setenv("TOOLRL_SERPER_URL", server.url + "/")
            searched = open_search("serper")
            assert searched is not None
            assert searched("nothing") == "No results."
        last = server.asked[-1]
        assert (last.method, last.path, last.body) == ("POST", "/search", {"q": "nothing", "num": 15})
        assert {asked.headers["x-api-key"] for asked in server.asked} == {"k", "secret"}

    def test_serper_needs_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SERPER_API_KEY", raising=False)
        with pytest.raises(SetupError, match="set SERPER_API_KEY"):
            open_search("serper")

    def test_wikipedia(self, monkeypatch: pytest.MonkeyPatch) -> None:
        page = {"title": "Uranus", "excerpt": 'A <span class="searchmatch">planet</span> &amp; god'}
        with serve(in_turn(send({"pages": [page, {"title": "Oslo", "excerpt": None}]}))) as server:
            monkeypatch.setenv("TOOLRL_WIKIPEDIA_URL", server.url)
            assert WikipediaSearch(client=QUICK)("a&b?" + "x" * 400) == "1. Uranus - A planet & god\n2. Oslo"
        (asked,) = server.asked
        assert (asked.method, asked.path) == ("GET", f"/search/page?q=a%26b%3F{'x' * 296}&limit=5")

    @pytest.mark.parametrize("body", [None, [], {"pages": 3}, {"pages": [[]]}])
    def test_odd_answers_are_no_results(self, body: object) -> None:
        with serve(in_turn(send(body))) as server:
            assert WikipediaSearch(server.url, QUICK)("x") == "No results."

    def test_a_refusing_server_is_named(self, config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SERPER_API_KEY", "k")
        with serve(in_turn(send({"message": "Unauthorized."}, 403))) as server:
            monkeypatch.setenv("TOOLRL_SERPER_URL", server.url)
            evaluate(replace(config, search="serper"), engine=ScriptedRounds([call("Oslo")], [reply("1781")]))
        failed, right = results(config)
        assert failed["error"] == f"{server.url}/search: status 403: Unauthorized."
        assert (failed["error_type"], right["correct"], len(server.asked)) == ("search", True, 1)
        with serve(in_turn(send({"organic": [{"title": "Oslo", "snippet": "The Leader named it."}]}))) as server:
            monkeypatch.setenv("TOOLRL_SERPER_URL", server.url)
            engine = ScriptedRounds([call("Oslo"), reply("the leader")])
            evaluate(replace(config, search="serper", resume=True), engine=engine)
        assert [row["correct"] for row in results(config)] == [True, True]

    def test_hits_without_anything_are_left_out(self) -> None:
        assert write_hits([Hit("", ""), Hit("a", ""), Hit("", "b")]) == "1. a\n2. b"


class TestJudges:
    def test_normalised_text(self) -> None:
        assert normalize(" The  U.S. (an) A-b ") == "us ab"
        assert matches("april 30, 1789", "April 30 1789")
        assert not matches("1781", "in 1781")
        assert (contains("the USA", "In USA, yes"), contains("us", "USA"), contains("x y", "y x")) == (
            True,
            False,
            False,
        )
        assert token_f1("a red red car", "the red car car") == pytest.approx(2 / 3)
        assert (token_f1("the", "a"), token_f1("x", ""), token_f1("x", "y")) == (1.0, 0.0, 0.0)

    @given(st.text(), st.text())
    def test_scores_are_symmetric_shares(self, one: str, two: str) -> None:
        assert 0.0 <= token_f1(one, two) == token_f1(two, one) <= 1.0
        assert token_f1(one, one) == 1.0

    def test_a_model_judges(self, config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        said = [{"choices": [{"message": {"content": text}}]} for text in ("Not the same.\nNo", "Same year. **Yes**")]
        with serve(in_turn(*map(send, said))) as server:
            judged = replace(config, judge=f"endpoint:{server.url}/v1#org/judge")
            summary = evaluate(judged, engine=ScriptedRounds([reply("Me")], [reply("It was found in 1781.")]))
        assert (summary.metrics["accuracy"].value, summary.metrics["exact_match"].value) == (0.5, 0.0)
        asked = server.asked[1]
        assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", "Bearer secret")
        assert (asked.body["model"], asked.body["temperature"]) == ("org/judge", 0)
        assert json.loads(asked.body["messages"][1]["content"]) == {
            "question": "In what year was Uranus found?",
            "reference": "1781",
            "candidate": "It was found in 1781.",
        }

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (send({"choices": []}), "gave no chat completion"),
            (send([1]), "gave no chat completion"),
            (send({"choices": [{"message": {"content": None}}]}), "content must be a string"),
            (send({"choices": [{"message": {"content": "perhaps"}}]}), "says neither yes nor no: 'perhaps'"),
            (send({"error": "no such model"}, 404), "status 404: no such model"),
        ],
    )
    def test_a_failed_judge_is_an_error_of_its_entry(self, config: EvalConfig, answer: Act, message: str) -> None:
        good = send({"choices": [{"message": {"content": "yes"}}]})
        with serve(in_turn(answer, good)) as server:
            judged = replace(config, judge=f"endpoint:{server.url}#m")
            evaluate(judged, engine=ScriptedRounds([reply("a")], [reply("b")]))
            failed, right = results(config)
            assert (failed["error_type"], failed["correct"], right["correct"]) == ("judge", False, True)
            assert message in failed["error"]
            evaluate(replace(judged, resume=True), engine=ScriptedRounds([reply("a")]))
        assert [row["correct"] for row in results(config)] == [True, True]

    @pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
    def test_a_judges_url_is_as_an_endpoints(self, path: str) -> None:
        with serve(
            lambda asked: send({"choices": [{"message": {"content": [{"type": "text", "text": "yes"}]}}]})
        ) as server:
            assert EndpointJudge(f"{server.url}{path}", "m")("q", "a", "b")
        assert server.asked[0].path == "/v1/chat/completions"

    def test_nothing_is_not_judged(self, config: EvalConfig) -> None:
        judged = replace(config, judge="endpoint:http://127.0.0.1:9#m")
        evaluate(judged, engine=ScriptedRounds([""], ["<think> x </think>"]))
        assert [row["error_type"] for row in results(config)] == ["no_answer"] * 2

    def test_specs(self) -> None:
        judge = open_judge("endpoint:https://h:1/v1#a/b#c")
        assert isinstance(judge, EndpointJudge)
        for spec in ("endpoint:ftp://h#m", "endpoint:http://#m", "endpoint:http://h", "endpoint:http://u:p@h#m"):
            with pytest.raises(UsageError, match="is no judge; write exact, or endpoint:URL#MODEL"):
                open_judge(spec)
        assert open_judge("exact")("q", "A b", "b")


@given(st.text())
def test_any_text_gives_an_answer(text: str) -> None:
    assert isinstance(read_response(FORMAT, text), str)


@needs_data
def test_the_released_gold_is_all_right(tmp_path: Path) -> None:
    data = DATA / "toolrl" / "bamboogle_data.json"
    entries = BamboogleBench(data, None, open_judge(None), FORMAT).entries()
    assert (len(entries), entries[1].payload.answer) == (125, "Titan IIIE")
    texts = [[call(entry.payload.text), reply(entry.payload.answer)] for entry in entries]
    corpus = write_lines(tmp_path / "c.jsonl", [{"text": entry.payload.answer} for entry in entries])
    output, recording = tmp_path / "out", tmp_path / "recording.jsonl"
    search = f"bm25:{corpus}"
    config = EvalConfig(bench="bamboogle", output=output, model="m", data=data, search=search, record=recording)
    summary = evaluate(config, engine=ScriptedRounds(*texts))
    metrics = {name: metric.value for name, metric in summary.metrics.items()}
    assert metrics == dict.fromkeys(("accuracy", "exact_match", "f1", "contains", "tool_calls"), 1.0) | {"rounds": 2.0}
    assert len(read_rows(recording)) == 125


def test_the_command_line(config: EvalConfig, tmp_path: Path, cli: InProcess) -> None:
    rows = [{"id": f"bamboogle-{i}", "completion": reply(str(q["Answer"]))} for i, q in enumerate(QUESTIONS)]
    predictions = write_lines(tmp_path / "p.jsonl", rows)
    asked = ["eval", "--bench", "bamboogle", "--data", config.data, "--predictions", predictions, "-o", config.output]
    assert refusal(cli(*asked), 2).startswith("the search tool needs a corpus; give --search bm25:CORPUS.jsonl")
    assert refusal(cli(*asked, "--search", "bm25:none.jsonl")).startswith("none.jsonl: No such file")
    done = cli(*asked, "--search", config.search, "--json")
    assert json.loads(done.stdout)["metrics"]["accuracy"]["value"] == 1.0
    manifest = json.loads((config.output / "manifest.json").read_text("utf-8"))
    assert set(manifest["hashes"]) == {"format", "data", "search", "predictions"}
    assert manifest["config"]["search"] == config.search
