"""The editions of BFCL as benches; apart from their package, which the checker's process imports too."""

from __future__ import annotations

from contextlib import AbstractContextManager

from toolrl_cli.benches.base import BenchConfig, BenchKind
from toolrl_cli.benches.bfcl.bench import BfclBench, open_bfcl
from toolrl_cli.benches.bfcl.editions import V3, V4, Edition
from toolrl_cli.formats.base import TextFormat
from toolrl_cli.formats.served import ServedFormat


def kind_of(edition: Edition) -> BenchKind:
    """The bench of an edition."""

    def check(config: BenchConfig) -> None:
        edition.choose_categories(config.categories)

    def open(config: BenchConfig, text_format: TextFormat) -> AbstractContextManager[BfclBench]:
        openai = isinstance(text_format, ServedFormat)
        return open_bfcl(config.bfcl_wheel, config.categories, edition, openai=openai)

    return BenchKind(
        edition.name,
        open,
        options=frozenset({"categories", "bfcl_wheel"}),
        check=check,
        hashes=lambda config: {"bfcl_wheel": edition.wheel.sha256},
    )


V4_KIND, V3_KIND = kind_of(V4), kind_of(V3)
