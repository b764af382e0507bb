"""Blocked: hides the packages that a GPU check must not need from the process that imports this module.

The process behaves as if they were not installed, so that these checks fail if training depends on them.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

BLOCKED = frozenset({"ray", "mlflow", "optuna", "fastapi", "sqlalchemy", "matplotlib", "hypothesis"})


class BlockingFinder:
    """A finder of modules that does not find the blocked packages, and finds all others like `finder`."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *arguments: Any) -> ModuleSpec | None:
        if name.partition(".")[0] in BLOCKED:
            return None
        spec: ModuleSpec | None = self.finder.find_spec(name, *arguments)
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


sys.meta_path[:] = [
    finder if isinstance(finder, BlockingFinder) else BlockingFinder(finder) for finder in sys.meta_path
]
