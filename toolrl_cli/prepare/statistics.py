"""What a file of examples holds: counts and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from toolrl_cli.errors import DataError, FormatError
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.jsonl import dump_json
from toolrl_cli.reading import find_files, read_chunks
from toolrl_cli.records import Example, Json
from toolrl_cli.scoring.tally import percentiles

PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class Statistics:
    """Counts of a file of examples; `lengths` has for each measure how often each value occurs."""

    examples: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, example: Example, measures: Json) -> None:
        """Count an example."""
        self.examples += 1
        self.sources[example.source] += 1
        self.targets[kind_of(example)] += 1
        for name, value in measures.items():
            if value is not None:
                self.lengths.setdefault(name, Counter())[value] += 1

    def to_json(self) -> Json:
        """The counts and shares, and of each measure mean, percentiles and the largest value."""
        return {
            "examples": self.examples,
            "sources": dict(self.sources.most_common()),
            "targets": dict(self.targets.most_common()),
            "no_call_share": round(1 - self.targets["call"] / self.examples, 6),
            **{name: summarize(counts) for name, counts in self.lengths.items()},
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows of the measures for a terminal."""
        columns = ["", "mean", *(f"p{p}" for p in PERCENTILES), "max", "examples"]
        rows = []
        for name, counts in self.lengths.items():
            found = summarize(counts)
            rows.append([name.replace("_", " "), f"{found.pop('mean'):.1f}", *map(str, found.values())])
        return columns, rows

    def lines(self) -> list[str]:
        """A line for each source and kind of target, with its share."""
        groups = (("source", self.sources), ("target", self.targets))
        return [
            f"{group} {name}  {count} ({count / self.examples:.1%})"
            for group, counts in groups
            for name, count in counts.most_common()
        ]


def kind_of(example: Example) -> str:
    """What a target asks for: `call`, `response` or `nothing`."""
    return "call" if example.target.tool_calls else "response" if example.target.response is not None else "nothing"


def summarize(counts: Counter[int]) -> Json:
    """Mean, percentiles by nearest rank, the largest value, and of how many examples."""
    total = counts.total()
    mean = sum(value * count for value, count in counts.items()) / total
    return {"mean": round(mean, 3), **percentiles(counts, PERCENTILES), "max": max(counts), "examples": total}


def measure(example: Example) -> Json:
    """The measures that need no tokenizer; None where a target has none of it."""
    thought = example.target.thought
    return {
        "tools": len(example.tools),
        "messages": len(example.messages),
        "calls": len(example.target.tool_calls) or None,
        "arguments": sum(len(call.arguments) for call in example.target.tool_calls)
        if example.target.tool_calls
        else None,
        "thought_words": None if thought is None else len(thought.split()),
    }


TokenCounter = Callable[[Example], Json]
"""The measures of an example in tokens."""


def make_counter(model: str, text_format: TextFormat) -> TokenCounter:
    """Counts the tokens of prompts and targets as training does; raise as `find_tokenizer`."""
    tokenizer = find_tokenizer(model)
    count_prompt = make_prompt_counter(tokenizer, text_format)

    def count(example: Example) -> Json:
        with naming(example):
            text = text_format.render_target(example.target)
        target = tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"prompt_tokens": count_prompt(example), "target_tokens": len(target)}

    return count


def make_prompt_counter(tokenizer: Any, text_format: TextFormat) -> Callable[[Example], int]:
    """Counts the tokens of prompts as training does; raise `DataError` for one that cannot be rendered."""
    from toolrl_cli.inference.transformers_engine import tokenize_prompt

    def count(example: Example) -> int:
        with naming(example):
            return len(tokenize_prompt(tokenizer, *text_format.render_prompt(example.tools, example.messages)))

    return count


@contextmanager
def naming(example: Example) -> Iterator[None]:
    """Raise what a format or a chat template refuses as `DataError` with the id of the example."""
    try:
        yield
    except (DataError, FormatError) as error:
        raise DataError(f"{example.id}: {error}") from error


def find_tokenizer(model: str) -> Any:
    """The tokenizer of a model; raise `ConfigError` or `SetupError` when it cannot be had."""
    from toolrl_cli.training.models import load_tokenizer, quiet_libraries, resolve_model

    quiet_libraries()
    return load_tokenizer(resolve_model(model))


def read_statistics(paths: Sequence[Path], count_tokens: TokenCounter | None, limit: int | None) -> Statistics:
    """The statistics of files of examples, read as a stream; with a token counter also of prompts and targets.

    Raises:
        DataError: a file is missing, malformed or empty.
    """
    statistics = Statistics()
    for example in read_all(paths, limit):
        statistics.add(example, measure(example) | (count_tokens(example) if count_tokens else {}))
    if not statistics.examples:
        raise DataError(f"{paths[0]}: no examples; run toolrl prepare first")
    return statistics


def read_all(paths: Iterable[Path], limit: int | None) -> Iterator[Example]:
    """The first `limit` examples of files and folders, whatever holds them.

    Raises:
        DataError: a file is missing or unreadable, or a line is no example.
    """
    lines = ((file, line) for file in find_files(paths) for chunk in read_chunks(file) for line in chunk.lines())
    for file, line in islice(lines, limit):
        if line.error:
            raise DataError(f"{file}:{line.number}: {line.error}")
        try:
            yield Example.from_json(line.value)
        except DataError as error:
            raise DataError(f"{file}:{line.number}: {error}") from error


def show_example(example: Example, text_format: TextFormat, tokenizer: Any = None) -> str:
    """The prompt and the target of an example; the prompt as its tools and messages, or with a tokenizer as its text.

    Raises:
        DataError: the format or the tokenizer's chat template cannot render the example.
    """
    with naming(example):
        messages, tools = text_format.render_prompt(example.tools, example.messages)
        if tokenizer is not None:
            from toolrl_cli.inference.transformers_engine import apply_chat_template

            parts = [("prompt", str(apply_chat_template(tokenizer, messages, tools, tokenize=False)))]
        else:
            parts = [("tools", "\n".join(map(dump_json, tools)))] if tools else []
            parts += [(message["role"], show_message(message)) for message in messages]
        parts.append(("target", text_format.render_target(example.target)))
    return "\n".join([f"@ {example.id}", *(f"--- {name}\n{text}" for name, text in parts), ""])


def show_message(message: Json) -> str:
    """The content of a message, and its calls as JSON, a line each, where it has any."""
    content = [str(message["content"])] if message.get("content") is not None else []
    return "\n".join([*content, *(dump_json(call["function"]) for call in message.get("tool_calls", []))])
