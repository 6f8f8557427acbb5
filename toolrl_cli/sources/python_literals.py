"""Python literals in data sets as JSON values; nothing is ever evaluated as code."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolrl_cli.jsonl import dump_json, load_json
from toolrl_cli.sources.base import RowError, shorten


def read_literal(text: str, kind: str) -> Any:
    """The JSON value that a Python literal spells; raise `RowError` of that kind for anything else."""
    with literal_errors(text, kind):
        return as_json(ast.literal_eval(text))


def read_assignments(text: str, kind: str) -> dict[str, object]:
    """What a text of lines `name = literal` assigns to each name; raise `RowError` of that kind if it is no such text.

    The values may be what no JSON value is (`{None}`), see `as_json`.
    """
    with literal_errors(text, kind):
        statements = [part for part in ast.parse(text).body if isinstance(part, ast.Assign)]
        return {
            target.id: ast.literal_eval(part.value)
            for part in statements
            for target in part.targets
            if isinstance(target, ast.Name)
        }


def as_json(value: object) -> Any:
    """A literal as JSON decodes it (a tuple is a list, a key is text); raise `TypeError` for a set or bytes."""
    return load_json(dump_json(value))


@contextmanager
def literal_errors(text: str, kind: str) -> Iterator[None]:
    """Turn all that reading a literal may raise into `RowError`, and keep Python's warnings about it quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise RowError(kind, shorten(text)) from error
