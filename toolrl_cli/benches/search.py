"""The search tool of question answering: a query in, the text of its results out."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from toolrl_cli.errors import DataError, SetupError, UsageError
from toolrl_cli.jsonl import RecordLog, read_records, read_whole_lines
from toolrl_cli.records import Json, expect, expect_optional_text
from toolrl_cli.web import WebClient

RESULTS = 5
"""How many results a query gives at most."""
LONGEST = 1000
"""Characters of a result's text."""
NOTHING = "No results."
SERPER_URL, WIKIPEDIA_URL = "https://google.serper.dev", "https://en.wikipedia.org/w/rest.php/v1"
SERPER_PAGE = 15
LONGEST_WIKIPEDIA_QUERY = 300
TAG = re.compile(r"<[^>]+>")
SPECS = "bm25:CORPUS.jsonl, recorded:FILE, serper, wikipedia or none"


class Search(Protocol):
    """A search engine."""

    def __call__(self, query: str) -> str:
        """The results as a model reads them; raise `SetupError` when the engine does not answer."""
        ...


class Hit(NamedTuple):
    """A result: its title, if it has one, and a text."""

    title: str
    text: str


def write_hits(hits: Iterable[Hit]) -> str:
    """The first results, numbered, as one text."""
    shown = [hit for hit in hits if hit.title or hit.text][:RESULTS]
    lines = [f"{i}. {' - '.join(filter(None, (h.title, h.text[:LONGEST])))}" for i, h in enumerate(shown, start=1)]
    return "\n".join(lines) or NOTHING


def check_search(spec: str | None) -> None:
    """Raise `UsageError` unless the spec names an engine, with its file where it needs one."""
    kind, _, file = (spec or "bm25").partition(":")
    if kind == "bm25" and not file:
        raise UsageError(f"the search tool needs a corpus; give --search bm25:CORPUS.jsonl, or another of {SPECS}")
    if kind not in ("bm25", "recorded", "serper", "wikipedia", "none") or (kind == "recorded") > bool(file):
        raise UsageError(f"--search {spec!r} is no engine; choose from {SPECS}")
    if file and kind not in ("bm25", "recorded"):
        raise UsageError(f"--search {spec!r}: {kind} takes no file; write --search {kind}")


def open_search(spec: str | None, record: Path | None = None) -> Search | None:
    """The engine that a spec names, its answers kept in the file `record` if given; None for `none`.

    Raises:
        ConfigError: the spec names no engine.
        DataError: its file cannot be read.
        SetupError: a key or a library is missing.
    """
    check_search(spec)
    kind, _, file = (spec or "").partition(":")
    if kind == "none":
        return None
    if kind == "recorded":
        return Recording(read_recording(Path(file)), missing=f"{file} holds no such query; record it first")
    engines: dict[str, Callable[[], Search]] = {
        "bm25": lambda: Bm25Search(read_corpus(Path(file))),
        "serper": SerperSearch,
        "wikipedia": WikipediaSearch,
    }
    engine = engines[kind]()
    return engine if record is None else Recording(read_recording(record, new=True), engine, record)


class Bm25Search:
    """Ranks the passages of a corpus by BM25 (Lucene's variant, English stop words left out)."""

    def __init__(self, passages: Sequence[Hit]) -> None:
        try:
            import bm25s
        except ImportError as error:
            fix = "python -m pip install -c constraints.txt -e '.[search]'"
            raise SetupError(f"--search bm25 needs bm25s; run: {fix}") from error
        self._tokenize = bm25s.tokenize
        self._passages = passages
        self._index = bm25s.BM25()
        texts = [f"{passage.title}\n{passage.text}" for passage in passages]
        self._index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)

    def __call__(self, query: str) -> str:
        """The best passages that share a word with the query."""
        tokens = self._tokenize([query], show_progress=False, return_ids=False)
        places, scores = self._index.retrieve(tokens, k=min(RESULTS, len(self._passages)), show_progress=False)
        found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
        return write_hits(self._passages[place] for place, score in found if score > 0)


def read_corpus(path: Path) -> list[Hit]:
    """The passages of a JSONL file, `{"text", "title"?, "id"?}` a line.

    Raises:
        DataError: a line is none, or the file holds none with a word in it.
    """

    def parse(raw: object) -> Hit:
        record = expect(raw, dict, "passage")
        return Hit(expect_optional_text(record, "title") or "", expect(record.get("text"), str, "text"))

    passages = list(read_records(path, parse))
    if not any(re.search(r"\w\w", passage.title + passage.text) for passage in passages):
        raise DataError(f'{path}: no passages; each line must hold {{"text": ..., "title": ...}}')
    return passages


class SerperSearch:
    """Google's results through serper.dev: the answer box, if any, and the organic results.

    Args:
        key: the account's key; that of the environment, `SERPER_API_KEY`, when None.
        url: where the service is; `TOOLRL_SERPER_URL`, else google.serper.dev, when None.

    Raises:
        SetupError: there is no key.
    """

    def __init__(self, key: str | None = None, url: str | None = None, client: WebClient | None = None) -> None:
        self._key = key or os.environ.get("SERPER_API_KEY") or ""
        if not self._key:
            raise SetupError("--search serper needs a key of serper.dev; set SERPER_API_KEY")
        self._url = (url or os.environ.get("TOOLRL_SERPER_URL") or SERPER_URL).rstrip("/")
        self._client = client or WebClient()

    def __call__(self, query: str) -> str:
        """The best results."""
        payload = {"q": query, "num": SERPER_PAGE}
        reply: object = self._client.ask(f"{self._url}/search", payload, {"X-API-KEY": self._key})
        box = objects(reply, "answerBox")
        return write_hits(
            Hit(text_of(hit, "title"), text_of(hit, "answer") or text_of(hit, "snippet"))
            for hit in [*box, *objects(reply, "organic")]
        )


class WikipediaSearch:
    """Full-text search of Wikipedia through its REST API: titles with a few lines of text.

    Args:
        url: the API; `TOOLRL_WIKIPEDIA_URL`, else that of the English Wikipedia, when None.
    """

    def __init__(self, url: str | None = None, client: WebClient | None = None) -> None:
        self._url = (url or os.environ.get("TOOLRL_WIKIPEDIA_URL") or WIKIPEDIA_URL).rstrip("/")
        self._client = client or WebClient()

    def __call__(self, query: str) -> str:
        """The best results."""
        asked = quote(query[:LONGEST_WIKIPEDIA_QUERY], safe="", errors="replace")
        reply: object = self._client.ask(f"{self._url}/search/page?q={asked}&limit={RESULTS}")
        return write_hits(
            Hit(text_of(page, "title"), html.unescape(TAG.sub("", text_of(page, "excerpt"))).strip())
            for page in objects(reply, "pages")
        )


def objects(reply: object, name: str) -> list[Json]:
    """The objects under a name of an answer, be there a list, one or none."""
    value = reply.get(name) if isinstance(reply, dict) else None
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


def text_of(record: Json, name: str) -> str:
    """A text field, empty when it is not there or no text."""
    value = record.get(name)
    return value if isinstance(value, str) else ""


class Recording:
    """Answers from what was recorded; any other query goes to the engine, whose answer is appended to the file."""

    def __init__(
        self, known: dict[str, str], engine: Search | None = None, path: Path | None = None, *, missing: str = ""
    ) -> None:
        self._known, self._engine, self._path, self._missing = known, engine, path, missing

    def __call__(self, query: str) -> str:
        """The recorded results, or new ones; raise `SetupError` where there are none and no engine."""
        if query not in self._known:
            if self._engine is None or self._path is None:
                raise SetupError(f"{query[:80]!r}: {self._missing}")
            self._known[query] = self._engine(query)
            with RecordLog(self._path) as log:
                log.append({"query": query, "results": self._known[query]})
        return self._known[query]


def read_recording(path: Path, *, new: bool = False) -> dict[str, str]:
    """The results by query, `{"query", "results"}` a line.

    A file to write on, `new`, may not be there yet, and a last line that a killed run left half-written counts for
    nothing: it goes when the next search is recorded.

    Raises:
        DataError: a line is no recorded search.
    """
    if new and not path.exists():
        return {}

    def parse(raw: object) -> tuple[str, str]:
        record = expect(raw, dict, "recorded search")
        return expect(record.get("query"), str, "query"), expect(record.get("results"), str, "results")

    return dict(read_records(path, parse, read_whole_lines(path) if new else None))
