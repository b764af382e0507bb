"""What was stored once is read in one place, so that it is upgraded everywhere."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

import service
import workers

STORED = {"ExperimentSpec", "TrialSpec", "Controls"}
READERS = {"model_validate", "model_validate_json"}


@pytest.mark.parametrize("package", [service, workers], ids=lambda package: package.__name__)
def test_stored_documents_are_read_by_search_spaces_stored_only(package: ModuleType) -> None:
    root = Path(package.__path__[0])
    found = {
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in READERS
        and isinstance(node.value, ast.Name)
        and node.value.id in STORED
    }
    assert not found
