"""Put on PYTHONPATH, this has each completion draw from noise of its own (noise.py)."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

MODULE = "transformers.generation.utils"


class PatchGeneration:
    """Lets the module load as ever, then wraps `generate`."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, whose loader wraps `generate` at the end; None for every other module."""
        spec: Any = PathFinder.find_spec(name, path, target) if name == MODULE else None
        if spec is None:
            return None
        load = spec.loader.exec_module

        def load_and_wrap(module: Any) -> None:
            load(module)
            import_module("noise").draw_by_row(module.GenerationMixin)

        spec.loader.exec_module = load_and_wrap
        return spec  # type: ignore[no-any-return]


sys.meta_path.insert(0, PatchGeneration)
