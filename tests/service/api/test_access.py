"""Permissions can be added in one place, because routes get experiments from one place."""

from __future__ import annotations

import ast
from pathlib import Path

import service.api

#: Functions of `service.domain.experiments` that return experiments without a check of the caller.
LOOKUPS = {"find", "list_newest"}


def test_only_access_looks_up_experiments() -> None:
    folder = Path(service.api.__path__[0])
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in LOOKUPS
        and isinstance(node.value, ast.Name)
        and node.value.id == "experiments"
    }
    assert found == {"access.py"}
