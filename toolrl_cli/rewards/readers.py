"""The reading of a completion in each text format."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from toolrl_cli.errors import FormatError
from toolrl_cli.formats import stock_format
from toolrl_cli.formats.native import NativeFormat
from toolrl_cli.records import PredictedCall, Target
from toolrl_cli.rewards.parts import explain_layout, layout_of, thought_of
from toolrl_cli.rewards.reading import Reading, read_as_released, read_leniently


class Reader(NamedTuple):
    """What a reward asks about the stripped text of a completion.

    `read` says what is in it, `explain` what is wrong with its form when `read` finds it wrong, and `thought` is the
    text that a length part counts. `open_ended` says that a response is not closed by anything, so that its text does
    not show whether it is whole.
    """

    read: Callable[[str, Target], Reading]
    explain: Callable[[str, Target], list[str]]
    thought: Callable[[str], str]
    open_ended: bool = False


@cache
def find_reader(text_format: str, reading: str) -> Reader:
    """The reader of a text format, by its name, for a `RewardSpec.reading`; raise `ConfigError` as `stock_format`."""
    found = stock_format(text_format)
    lenient = reading == "lenient"
    if not isinstance(found, NativeFormat):
        return Reader(read_leniently if lenient else read_as_released, explain_blocks, thought_of)
    parse = found.parse_leniently if lenient else found.parse_tool_calls
    return Reader(
        partial(read_native, found, parse),
        found.explain_form,
        thought=lambda text: found.split_completion(text)[0] or "",
        open_ended=True,
    )


def explain_blocks(text: str, target: Target) -> list[str]:
    """What is wrong with the blocks of the toolrl format."""
    return explain_layout(text, layout_of(target))


def read_native(
    text_format: NativeFormat, parse: Callable[[str], list[PredictedCall]], text: str, target: Target
) -> Reading:
    """Read stripped text as the format itself does; without calls, all that follows the thought is the response."""
    in_form = not text_format.explain_form(text, target)
    try:
        calls = parse(text)
    except FormatError as error:
        return in_form, (), str(error), ""
    return in_form, calls, None, text_format.split_completion(text)[1].strip()
