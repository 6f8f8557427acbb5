"""The benches by name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from toolrl_cli import benches
from toolrl_cli.benches.base import BenchKind
from toolrl_cli.errors import UsageError


def load_benches() -> dict[str, BenchKind]:
    """Every bench that a module of the package holds, by name."""
    modules = [import_module(f"{benches.__name__}.{module.name}") for module in iter_modules(benches.__path__)]
    kinds = {kind.name: kind for module in modules for kind in vars(module).values() if isinstance(kind, BenchKind)}
    return dict(sorted(kinds.items()))


BENCHES = load_benches()


def find_bench(name: str) -> BenchKind:
    """The bench of that name; raise `UsageError` for an unknown one."""
    if name not in BENCHES:
        raise UsageError(f"unknown bench {name!r}; choose from {', '.join(BENCHES)}")
    return BENCHES[name]


def owners(option: str) -> list[str]:
    """The names of the benches that read a field of the configuration, none for a field of all."""
    return [name for name, kind in BENCHES.items() if option in kind.options]
