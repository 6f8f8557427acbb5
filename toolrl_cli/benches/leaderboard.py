"""The editions of BFCL as benches; apart from their package, which the checker's process imports too."""

from __future__ import annotations

from toolrl_cli.benches.base import BenchConfig, BenchKind
from toolrl_cli.benches.bfcl.bench import open_bfcl
from toolrl_cli.benches.bfcl.editions import V3, V4, Edition


def kind_of(edition: Edition) -> BenchKind:
    """The bench of an edition."""

    def check(config: BenchConfig) -> None:
        edition.choose_categories(config.categories)

    return BenchKind(
        edition.name,
        lambda config, text_format: open_bfcl(config.bfcl_wheel, config.categories, edition),
        options=frozenset({"categories", "bfcl_wheel"}),
        check=check,
        hashes=lambda config: {"bfcl_wheel": edition.wheel.sha256},
    )


V4_KIND, V3_KIND = kind_of(V4), kind_of(V3)
