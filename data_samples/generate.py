"""Write the sample data: training rows in three formats and held-out rows, from the catalogs beside this file.

    python data_samples/generate.py [--seed N] [--output FOLDER]

The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from toolrl_cli.formats.toolrl import ToolrlFormat
from toolrl_cli.jsonl import dump_json, open_atomic
from toolrl_cli.records import Json, Target, ToolCall

HERE = Path(__file__).parent
SEED = 2504
# Rows of each file by kind of step: training has 62% single calls, 18% parallel, 10% without a fitting tool and
# 10% that ask back. An xlam row has no place for a reply, so none of its rows ask back.
ROWS = {
    "train-xlam.jsonl": {"single": 81, "parallel": 24, "no_call": 15},
    "train-openai.jsonl": {"single": 62, "two_turns": 10, "parallel": 20, "no_call": 10, "ask": 18},
    "train-toolrl.jsonl": {"single": 70, "parallel": 21, "no_call": 11, "ask": 18},
    "heldout/heldout.jsonl": {"single": 92, "two_turns": 8, "parallel": 28, "no_call": 16, "ask": 16},
}
FOREIGN_EVERY = 6
SLOT = re.compile(r"\{(\w+?)(_[23])?\}")
MAX_THOUGHT_WORDS = 25
JSON_TYPES = {"string": "str", "integer": "int", "number": "float"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """An assistant step: declared tools (entries of a catalog), the history before it, and what to do."""

    tools: tuple[Json, ...]
    messages: tuple[Json, ...]
    target: Target


@dataclass(frozen=True, slots=True)
class Request:
    """A filled phrasing: what each slot shows and means, and (pool, value) pairs that a follow-up must not repeat."""

    text: str
    language: str
    shown: dict[str, str]
    values: Json
    used: frozenset[tuple[str, str]]


class Sampler:
    """Draws steps from one catalog; no request comes twice."""

    def __init__(self, catalog: Json, rng: random.Random) -> None:
        self.catalog = catalog
        self.rng = rng
        self.tools: list[Json] = catalog["tools"]
        self.queries: set[str] = set()
        self._decks: dict[str, list[object]] = {}
        self._counts: dict[str, int] = {}

    def draw_step(self, kind: str) -> Step:
        """A new step of that kind (a key of the values of `ROWS`)."""
        makers: dict[str, Callable[[bool], Step]] = {
            "single": self.single,
            "two_turns": self.two_turns,
            "parallel": self.parallel,
            "no_call": self.no_call,
            "ask": self.ask,
        }
        self._counts[kind] = self._counts.get(kind, 0) + 1
        foreign = self._counts[kind] % FOREIGN_EVERY == 2
        while True:
            step = makers[kind](foreign)
            if (query := "\n".join(m["content"] for m in step.messages if m["role"] == "user")) not in self.queries:
                self.queries.add(query)
                return step

    def single(self, foreign: bool) -> Step:
        """One call of one tool."""
        tool, language, template = self.any_request(foreign)
        return self.call_step(tool, self.fill(template, tool, language))

    def two_turns(self, foreign: bool) -> Step:
        """A call, its result and a reply; then the user asks for the same with other values."""
        tool = self.draw("turn", [tool for tool in self.tools if "turn" in tool])
        first = self.fill(self.draw(f"say {tool['name']}", tool["say"]), tool)
        [call] = calls_of(tool, first)
        turn = tool["turn"]
        follow = self.fill(self.draw(f"follow {tool['name']}", turn["follow"]), tool, used=first.used)
        history = (
            {"role": "user", "content": first.text},
            call_message([call]),
            {"role": "tool", "tool_call_id": "call_1", "name": call.name, "content": turn["result"]},
            {"role": "assistant", "content": turn["reply"].format(**call.arguments)},
            {"role": "user", "content": follow.text},
        )
        again = ToolCall(call.name, call.arguments | follow.values)
        return Step(self.surround([tool]), history, Target(tool_calls=(again,)))

    def parallel(self, foreign: bool) -> Step:
        """Two calls of one tool, or two or three calls of different tools."""
        if not foreign and self.rng.random() < 0.5:
            return self.joined(3 if self.rng.random() < 0.15 else 2)
        key = "both_also" if foreign and any("both_also" in tool for tool in self.tools) else "both"
        tool = self.draw(key, [tool for tool in self.tools if key in tool])
        language, phrasings = self.rng.choice(list(tool[key].items())) if key == "both_also" else ("en", tool[key])
        return self.call_step(tool, self.fill(self.draw(f"{key} {tool['name']}", phrasings), tool, language))

    def joined(self, size: int) -> Step:
        """One sentence that asks for `size` different tools."""
        tools: list[Json] = []
        while len(tools) < size:
            tool = self.draw("joined", self.tools)
            if tool["domain"] not in [other["domain"] for other in tools]:
                tools.append(tool)
        requests = [self.fill(self.draw(f"do {tool['name']}", tool["do"]), tool) for tool in tools]
        clauses = {f"do_{i}": request.text for i, request in enumerate(requests, 1)}
        first = clauses["do_1"]
        join = self.draw(f"join {size}", self.catalog["join" if size == 2 else "join_three"])
        text = join.format(do=first, Do=first[0].upper() + first[1:], **clauses)
        calls = [call for tool, request in zip(tools, requests, strict=True) for call in calls_of(tool, request)]
        thought = self.think("parallel", tools=names_of(tools), steps=describe_calls(calls))
        shown = self.surround(tools, size=size + (self.rng.random() < 0.2))
        return Step(shown, user_turn(text), Target(thought, tuple(calls)))

    def no_call(self, foreign: bool) -> Step:
        """A request that no declared tool can fulfil, or one that needs none."""
        if self.rng.random() < 0.3:
            return self.small_talk()
        tool, language, template = self.any_request(foreign)
        shown = self.surround([], absent=[tool])
        reply = self.draw(f"refuse {language}", self.catalog["refuse"].get(language) or self.catalog["refuse"]["en"])
        thought = self.think("no_call", tools=names_of(shown), topic=tool["topic"])
        text = self.fill(template, tool, language).text
        return Step(shown, user_turn(text), Target(thought, response=reply.format(topic=tool["topic"])))

    def small_talk(self) -> Step:
        """Thanks, greetings and plain questions."""
        chat = self.draw("chat", self.catalog["chat"])
        shown = self.surround([], size=self.rng.choice([1, 2, 2]))
        thought = self.think("chat", tools=names_of(shown))
        return Step(shown, user_turn(chat["say"]), Target(thought, response=chat["reply"]))

    def ask(self, foreign: bool) -> Step:
        """A request that lacks a required argument."""
        items = [(tool, item) for tool in self.tools for item in tool["ask"] if ("lang" in item) == foreign]
        tool, item = self.draw(f"ask {foreign}", items)
        text = self.fill(item["say"], tool, item.get("lang", "en")).text
        reply = item.get("reply") or self.draw("missing", self.catalog["request_missing"]).format(**item)
        thought = self.think("ask", tool=tool["name"], topic=tool["topic"], noun=item["noun"])
        return Step(self.surround([tool], close=False), user_turn(text), Target(thought, response=reply))

    def call_step(self, tool: Json, request: Request) -> Step:
        """A step that calls one tool, as often as the request asks for."""
        calls = calls_of(tool, request)
        if len(calls) > 1:
            thought = self.think("parallel", tool=tool["name"], steps=describe_calls(calls))
        else:
            thought = self.think("call", **self.call_facts(tool, request))
        return Step(self.surround([tool]), user_turn(request.text), Target(thought, tuple(calls)))

    def call_facts(self, tool: Json, request: Request) -> dict[str, str]:
        """What a thought may say about one call; `do` only where a clause names exactly its arguments."""
        pairs = in_words([f"{name} {show(value)}" for name, value in request.values.items()])
        facts = {"tool": tool["name"], "topic": tool["topic"], "pairs": pairs}
        clauses = [do for do in tool["do"] if slots_of(do) == set(request.values) and request.language == "en"]
        return facts | ({"do": self.rng.choice(clauses).format(**request.shown)} if clauses else {})

    def think(self, kind: str, **facts: str) -> str | None:
        """A short thought from the catalog's frames for which the facts suffice; None where it has no frames."""
        frames = [frame for frame in self.catalog.get("thoughts", {}).get(kind, []) if slots_of(frame) <= facts.keys()]
        while frames:
            thought = str(self.draw(f"think {kind} {sorted(facts)}", frames)).format(**facts)
            if len(thought.split()) <= MAX_THOUGHT_WORDS:
                return thought
        return None

    def any_request(self, foreign: bool) -> tuple[Json, str, str]:
        """A tool, a language and a phrasing that asks for one call."""
        if foreign:
            also = [
                (tool, lang, say) for tool in self.tools for lang, says in tool.get("also", {}).items() for say in says
            ]
            return self.draw("also", also)
        tool = self.draw("tool", self.tools)
        wrapped = [self.rng.choice(self.catalog["wrap"]).replace("{do}", do) for do in tool["do"]]
        return tool, "en", self.draw(f"say and do {tool['name']}", tool["say"] + wrapped)

    def fill(
        self, template: str, tool: Json, language: str = "en", used: frozenset[tuple[str, str]] = frozenset()
    ) -> Request:
        """Put values into the slots of a phrasing; none that this request, or `used`, has from the same pool."""
        shown: dict[str, str] = {}
        values: Json = {}
        for argument, number in SLOT.findall(template):
            slot = argument + number
            if slot in shown:
                continue
            pool, entries = self.entries(tool["args"][argument], argument, language)
            free = [(text, value) for text, value in entries if (pool, show(value)) not in used]
            shown[slot], values[slot] = self.draw(f"{pool} {language}", entries, among=free)
            used |= {(pool, show(values[slot]))}
        return Request(template.format(**shown), language, shown, values, used)

    def entries(self, argument: Json, name: str, language: str) -> tuple[str, list[tuple[str, object]]]:
        """The pool of an argument: its name, and (what a request shows, value) for each entry."""
        pool = argument.get("pool") or (",".join(argument["enum"]) if "enum" in argument else name)
        raw = self.catalog["pools"][pool] if pool in self.catalog["pools"] else argument["enum"]
        by_language: dict[str, list[object]] = raw if isinstance(raw, dict) else {"en": raw}
        pairs = [pair_of(entry) for entry in by_language.get(language, by_language["en"])]
        return pool, pairs if language in by_language else [(show(value), value) for _, value in pairs]

    def surround(
        self, needed: Sequence[Json], *, size: int | None = None, close: bool = True, absent: Sequence[Json] = ()
    ) -> tuple[Json, ...]:
        """The needed tools among distractors, shuffled.

        Distractors are of other domains than the needed and the absent tools, but now and then a
        close one stands beside a needed tool.
        """
        shown = list(needed)
        domains = {tool["domain"] for tool in [*needed, *absent]}
        wanted = size or max(len(needed), self.rng.choices([1, 2, 3], [18, 74, 8])[0])
        while len(shown) < wanted:
            alike = close and bool(needed) and self.rng.random() < 0.3
            if options := [t for t in self.tools if t not in shown and (t["domain"] in domains) == alike]:
                shown.append(self.rng.choice(options))
        self.rng.shuffle(shown)
        return tuple(shown)

    def draw(self, deck: str, options: Sequence[T], among: Sequence[T] | None = None) -> T:
        """The next card of a shuffled deck, so that every option is used before one comes again.

        `among` restricts the draw; a card outside it stays in the deck.
        """
        cards = self._decks.setdefault(deck, [])
        if not any(among is None or card in among for card in cards):
            cards.extend(self.rng.sample(options, len(options)))
        card = next(card for card in reversed(cards) if among is None or card in among)
        cards.remove(card)
        return card  # type: ignore[return-value]  # a deck holds what its options are


def slots_of(template: str) -> set[str]:
    """The arguments that a phrasing names."""
    return {argument + number for argument, number in SLOT.findall(template)}


def pair_of(entry: object) -> tuple[str, object]:
    """What a request shows for a pool's entry, and the value it means."""
    if isinstance(entry, dict):
        [(text, value)] = entry.items()
        return text, value
    return show(entry), entry


def show(value: object) -> str:
    """A value as plain text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def calls_of(tool: Json, request: Request) -> list[ToolCall]:
    """The calls that a filled phrasing asks for; a second call shares what it does not name."""
    values = request.values
    calls = [ToolCall(tool["name"], {name: values[name] for name in tool["args"] if name in values})]
    if any(slot.endswith("_2") for slot in values):
        second = {name: values.get(f"{name}_2", values[name]) for name in tool["args"] if name in values}
        calls.append(ToolCall(tool["name"], second))
    return calls


def describe_calls(calls: Sequence[ToolCall]) -> str:
    """The calls in a few words, each by the first value that it has alone."""
    shown = [[show(value) for value in call.arguments.values()] for call in calls]
    every = [value for values in shown for value in values]
    own = [next((value for value in values if every.count(value) == 1), values[0]) for values in shown]
    return in_words([f"{call.name} for {value}" for call, value in zip(calls, own, strict=True)])


def names_of(tools: Iterable[Json]) -> str:
    """The tools' names in a sentence."""
    return in_words([tool["name"] for tool in tools])


def in_words(items: Sequence[str]) -> str:
    """A list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def user_turn(text: str) -> tuple[Json, ...]:
    """A history of one user message."""
    return ({"role": "user", "content": text},)


def call_message(calls: Sequence[ToolCall]) -> Json:
    """An assistant message with tool calls, arguments as a JSON string as the OpenAI API has them."""
    encoded = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for i, call in enumerate(calls, 1)
    ]
    return {"role": "assistant", "content": None, "tool_calls": encoded}


def openai_tool(tool: Json) -> Json:
    """An OpenAI declaration with a JSON Schema."""
    properties = {}
    for name, argument in tool["args"].items():
        schema: Json = {"type": argument.get("type", "string")}
        schema |= {"items": {"type": argument["items"]}} if "items" in argument else {}
        schema |= {"enum": argument["enum"]} if "enum" in argument else {}
        properties[name] = schema | ({"description": argument["about"]} if "about" in argument else {})
    required = [name for name, argument in tool["args"].items() if "default" not in argument]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool["name"], "description": tool["description"], "parameters": parameters}
    return {"type": "function", "function": function}


def openai_tools(tools: Iterable[Json]) -> list[Json]:
    """The `tools` field of an openai row."""
    return [openai_tool(tool) for tool in tools]


def flat_parameters(tool: Json) -> Json:
    """Parameters as the xlam data has them: a flat map with Python's type names, optional ones with a default."""
    flat = {}
    for name, argument in tool["args"].items():
        kind = argument.get("type", "string")
        kind = f"List[{JSON_TYPES[argument['items']]}]" if kind == "array" else JSON_TYPES[kind]
        optional = "default" in argument
        about = argument.get("about") or " or ".join(argument.get("enum", []))
        flat[name] = (
            ({"description": about} if about else {})
            | {"type": f"{kind}, optional" if optional else kind}
            | ({"default": argument["default"]} if optional else {})
        )
    return flat


def xlam_tools(tools: Iterable[Json]) -> str:
    """The `tools` field of an xlam row."""
    flat = [
        {"name": tool["name"], "description": tool["description"], "parameters": flat_parameters(tool)}
        for tool in tools
    ]
    return json.dumps(flat, ensure_ascii=False)


def toolrl_instruction(tools: Sequence[Json]) -> str:
    """The system text of a toolrl row: the paper's sections in words of our own."""
    listed = "\n".join(
        f"{i}. Name: {tool['name']}\nDescription: {tool['description']}\n"
        f"Parameters: {json.dumps(flat_parameters(tool), ensure_ascii=False)}"
        for i, tool in enumerate(tools, 1)
    )
    return (
        "You help a user over one or more turns and may work with tools.\n\n"
        f"**Available Tools**\nThese tools exist:\n{listed}\n\n"
        "**Steps for Each Turn**\n1. Find out what is wanted.\n2. Choose tools and their arguments.\n"
        "3. Reply where a tool does not help.\n\n"
        "**Output Format**\n<think> thoughts </think>\n<tool_call>\n"
        '{"name": "a tool", "parameters": {"a parameter": "its value"}}\n'
        "</tool_call>\n<response> reply </response>\n\n"
        "**Important Notes**\n1. Thoughts always come first, then calls or a reply.\n2. Each call has its own line."
    )


def xlam_row(step: Step, number: int) -> Json:
    """A row of `train-xlam.jsonl`."""
    answers = [call.to_json() for call in step.target.tool_calls]
    return {
        "id": number,
        "query": step.messages[-1]["content"],
        "tools": xlam_tools(step.tools),
        "answers": json.dumps(answers, ensure_ascii=False),
    }


def openai_row(step: Step, number: int) -> Json:
    """A row of an openai file; the last message is the step to learn."""
    calls, response = step.target.tool_calls, step.target.response
    last = call_message(calls) if calls else {"role": "assistant", "content": response}
    return {"messages": [*step.messages, last], "tools": openai_tools(step.tools)}


def toolrl_row(step: Step, number: int) -> Json:
    """A row of `train-toolrl.jsonl`."""
    return {
        "instruction": toolrl_instruction(step.tools),
        "input": f"**Dialogue Records History**\n<user> {step.messages[-1]['content']} </user>",
        "output": ToolrlFormat().render_target(step.target),
    }


ROW_MAKERS = {
    "train-xlam.jsonl": xlam_row,
    "train-openai.jsonl": openai_row,
    "train-toolrl.jsonl": toolrl_row,
    "heldout/heldout.jsonl": openai_row,
}


def good_lines(name: str, sampler: Sampler) -> list[str]:
    """The lines of a file before bad rows are mixed in."""
    kinds = [kind for kind, count in ROWS[name].items() for _ in range(count)]
    steps = [sampler.draw_step(kind) for kind in kinds]
    sampler.rng.shuffle(steps)
    return [dump_json(ROW_MAKERS[name](step, number)) for number, step in enumerate(steps)]


def bad_line(bad: Json, tools: dict[str, Json]) -> str:
    """The text of an entry of `bad_rows.yaml`, with declarations where it lists tools."""
    if "line" in bad:
        return str(bad["line"])
    row = bad["row"]
    if not isinstance(row, dict):
        return dump_json(row)
    encode = {
        "train-xlam.jsonl": xlam_tools,
        "train-openai.jsonl": openai_tools,
        "train-toolrl.jsonl": toolrl_instruction,
    }
    field = "instruction" if "instruction" in row else "tools"
    if isinstance(row[field], list):
        row = row | {field: encode[bad["file"]]([tools[name] for name in row[field]])}
    return dump_json(row)


def mix_in(lines: Sequence[str], bad_rows: Iterable[Json], tools: dict[str, Json]) -> list[str]:
    """The lines with every bad row after its number of good ones."""
    mixed = list(lines)
    for bad in sorted(bad_rows, key=lambda bad: -int(bad["after"])):
        mixed.insert(bad["after"], bad_line(bad, tools))
    return mixed


def load_catalog(name: str) -> Any:
    """A file of the catalog folder."""
    return yaml.safe_load((HERE / "catalog" / f"{name}.yaml").read_text("utf-8"))


def write_samples(folder: Path, seed: int) -> None:
    """Write all files under `folder`."""
    rng = random.Random(seed)
    train, heldout = (Sampler(load_catalog(name), rng) for name in ("train", "heldout"))
    bad_rows = load_catalog("bad_rows")
    for name in ROWS:
        sampler = heldout if name.startswith("heldout") else train
        tools = {tool["name"]: tool for tool in sampler.tools}
        lines = mix_in(good_lines(name, sampler), [bad for bad in bad_rows if bad["file"] == name], tools)
        with open_atomic(folder / name) as stream:
            stream.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    write_samples(options.output, options.seed)
