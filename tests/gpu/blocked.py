"""Blocked: hides packages that a GPU check must not need. Importing this module hides them from this process.

It stands for a machine where they are not installed, so that training never comes to depend on them.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

BLOCKED = frozenset({"ray", "mlflow", "optuna", "fastapi", "sqlalchemy", "matplotlib", "plotly", "hypothesis"})


class Hiding:
    """A finder of modules that does not find the blocked packages, and otherwise finds what `finder` does."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *arguments: Any) -> ModuleSpec | None:
        if name.partition(".")[0] in BLOCKED:
            return None
        found: ModuleSpec | None = self.finder.find_spec(name, *arguments)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


sys.meta_path[:] = [finder if isinstance(finder, Hiding) else Hiding(finder) for finder in sys.meta_path]
