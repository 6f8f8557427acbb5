"""Results as JUnit XML, which CI systems show: a suite a category, a test case an entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from toolrl_cli.benches.base import Result
from toolrl_cli.benches.failures import ERROR_TYPES
from toolrl_cli.errors import DataError, UsageError
from toolrl_cli.jsonl import open_atomic

NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped: control characters, lone surrogates."""
LONGEST = 4000
"""The most characters of a completion."""
REPORT = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<testsuites?[\s>/]")
"""How a JUnit report begins."""


def refuse_other_file(path: Path) -> None:
    """Raise `UsageError` when a folder is there, or a file that is no JUnit report: only reports are ever replaced.

    Raises:
        DataError: the file cannot be read.
    """
    if path.is_dir():
        raise UsageError(f"--junit {path}: is a folder; give a file")
    if not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if not REPORT.match(start):
        raise UsageError(f"--junit {path}: replaces no file but a JUnit report, which this is not; choose another file")


def write_junit(path: Path, bench: str, results: Iterable[Result]) -> None:
    """Write results as JUnit XML; the file appears only when it is whole.

    A wrong answer is a failure, an entry without a verdict of its own an error.

    Raises:
        SetupError: the file cannot be written.
        UsageError: it is there, and no JUnit report.
    """
    refuse_other_file(path)
    suites: dict[str, list[Result]] = {}
    for result in results:
        suites.setdefault(result.category, []).append(result)
    everything = [result for suite in suites.values() for result in suite]
    root = ElementTree.Element("testsuites", {"name": f"toolrl eval {bench}", **count(everything)})
    for category, suite in suites.items():
        node = ElementTree.SubElement(root, "testsuite", {"name": clean(category), **count(suite)})
        for result in suite:
            add_case(node, bench, result)
    ElementTree.indent(root)
    with open_atomic(path) as stream:
        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        stream.write(ElementTree.tostring(root, encoding="unicode") + "\n")


def count(results: Iterable[Result]) -> Mapping[str, str]:
    """The counts that JUnit wants of a suite."""
    listed = list(results)
    errors = sum(is_error(result) for result in listed)
    wrong = sum(not result.correct for result in listed)
    return {"tests": str(len(listed)), "failures": str(wrong - errors), "errors": str(errors)}


def is_error(result: Result) -> bool:
    """Whether an entry has no verdict of its own."""
    return not result.correct and result.error_type in ERROR_TYPES


def add_case(suite: ElementTree.Element, bench: str, result: Result) -> None:
    """Add an entry to its suite."""
    names = {"classname": clean(f"{bench}.{result.category}"), "name": clean(result.id)}
    case = ElementTree.SubElement(suite, "testcase", names)
    if not result.correct:
        kind = result.error_type or result.failure or result.outcome or "wrong"
        why = {"type": clean(kind), "message": clean(result.reason or kind)}
        node = ElementTree.SubElement(case, "error" if is_error(result) else "failure", why)
        node.text = clean((result.completion or "")[:LONGEST])


def clean(text: str) -> str:
    """The text without what XML cannot hold."""
    return NOT_XML.sub("", text)
