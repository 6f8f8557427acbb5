"""Values that stand inside other text, as JSON or Python writes them; nothing is evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from toolrl_cli.records import Json
from toolrl_cli.sources.base import RowError, decode_text, note_repair

T = TypeVar("T")
MAX_DEPTH = 100
SPACE = re.compile(r"\s*+")
STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"|' + r"'(?:[^'\\]++|\\.)*+'", re.DOTALL)
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*+)(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?", re.ASCII)
WORD = re.compile(r"(?:true|false|null|True|False|None)\b")
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{char: char for char in "\"'\\/"}}


def unite(pairs: list[tuple[str, Any]]) -> Json:
    """Named values as an object; raise `ValueError` when a name is given twice."""
    united = dict(pairs)
    if len(united) < len(pairs):
        raise ValueError("a name is given twice")
    return united


DECODER = json.JSONDecoder(object_pairs_hook=unite)


def read_whole(text: str, kind: str) -> list[Any]:
    """The objects and lists that a text consists of, lists as their items; raise `RowError` of that kind otherwise.

    Where repairs are asked for, what follows the last readable value is mended.
    """
    values, end = read_values(text, 0)
    if end < len(text) or not values:
        values.append(decode_text(text[end:], kind))
    return unpack(values)


def read_block(text: str, start: int, closing: str, kind: str) -> tuple[list[Any], int]:
    """As `read_whole`, from `start` to a closing tag, and where that tag ends; strings may hold the tag too."""
    if block := parse_block(text, start, closing):
        return block
    stop = text.find(closing, start)
    if stop < 0:
        if not note_repair(f"{kind}: no {closing}"):
            raise RowError(kind, f"no {closing}")
        stop = len(text)
    return read_whole(text[start:stop], kind), stop + len(closing)


def read_alone(text: str) -> Any:
    """The one value that a text consists of.

    Raises:
        ValueError: as `read_value`, or other text stands beside it.
    """
    value, end = read_value(text, skip_space(text, 0))
    if skip_space(text, end) < len(text):
        raise ValueError("text behind the value")
    return value


def parse_block(text: str, start: int, closing: str) -> tuple[list[Any], int] | None:
    """The values from `start` to a closing tag, and where that tag ends; None where they cannot be read."""
    values, end = read_values(text, start)
    return (unpack(values), end + len(closing)) if values and text.startswith(closing, end) else None


def unpack(values: list[Any]) -> list[Any]:
    """Values with the items of lists in their place."""
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def read_values(text: str, start: int) -> tuple[list[Any], int]:
    """The objects and lists that stand one after another, and where something else begins."""
    values: list[Any] = []
    position = skip_space(text, start)
    while text[position : position + 1] in ("{", "["):
        try:
            value, end = read_value(text, position)
        except ValueError:
            break
        values.append(value)
        position = skip_space(text, end)
    return values, position


def read_value(text: str, start: int) -> tuple[Any, int]:
    """The value at a place of a text, and where it ends; JSON and Python words, quotes and escapes may mix.

    Raises:
        ValueError: there is none, or it is nested deeper than 100 levels.
    """
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return read_literal(text, start, 0)
    require_shallow(value)
    return value, end


def require_shallow(value: object) -> None:
    """Raise `ValueError` for what is nested deeper than 100 levels."""
    level = [value]
    for _ in range(MAX_DEPTH):
        nested = [inner for inner in level if isinstance(inner, dict | list)]
        level = [item for inner in nested for item in (inner.values() if isinstance(inner, dict) else inner)]
        if not level:
            return
    raise ValueError("nested too deeply")


def read_literal(text: str, start: int, depth: int) -> tuple[Any, int]:
    """A value whose strings may also stand in single quotes and hold line ends; raise `ValueError` for none."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if text.startswith("[", start):
        return read_items(text, start + 1, "]", lambda position: read_literal(text, position, depth + 1))
    if text.startswith("{", start):
        pairs, end = read_items(text, start + 1, "}", lambda position: read_pair(text, position, depth + 1))
        return unite(pairs), end
    if match := STRING.match(text, start):
        return unescape(match[0][1:-1]), match.end()
    if match := NUMBER.match(text, start):
        return (int if match[0].lstrip("+-").isdigit() else float)(match[0]), match.end()
    if match := WORD.match(text, start):
        return WORDS[match[0]], match.end()
    raise ValueError("no value")


def read_pair(text: str, start: int, depth: int) -> tuple[tuple[str, Any], int]:
    """A name and a value of an object."""
    name = STRING.match(text, start)
    colon = skip_space(text, name.end()) if name else start
    if name is None or not text.startswith(":", colon):
        raise ValueError("no name")
    value, end = read_literal(text, skip_space(text, colon + 1), depth)
    return (unescape(name[0][1:-1]), value), end


def read_items(text: str, start: int, closing: str, read_item: Callable[[int], tuple[T, int]]) -> tuple[list[T], int]:
    """What stands between commas up to a closing bracket, before which one more comma may stand.

    Raises:
        ValueError: something else follows an item, or `read_item` finds none.
    """
    items: list[T] = []
    position = skip_space(text, start)
    while not text.startswith(closing, position):
        item, position = read_item(position)
        items.append(item)
        position = skip_space(text, position)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith(closing, position):
            raise ValueError(f"no {closing}")
    return items, position + 1


def skip_space(text: str, start: int) -> int:
    """The next place that is no space."""
    match = SPACE.match(text, start)
    return match.end() if match else start


def unescape(text: str) -> str:
    """The inside of a string literal with its escapes resolved; an escape that neither language knows stays."""
    if "\\" not in text:
        return text
    resolved = ESCAPE.sub(resolve_escape, text)
    return resolved.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def resolve_escape(escape: re.Match[str]) -> str:
    """The character that an escape stands for."""
    code = escape[1]
    return ESCAPES.get(code, escape[0]) if len(code) == 1 else chr(int(code[1:], 16))
