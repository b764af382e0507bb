"""Permissions can be added in one place, because routes get experiments from one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import service.api

FOLDER = Path(service.api.__path__[0])
#: Functions of `service.domain.experiments` that return experiments without a check of the caller.
LOOKUPS = {"find", "list_newest", "list_active"}
#: What reads rows: queries belong to `service.domain`.
QUERIES = {"select", "get", "get_one", "scalar", "scalars", "execute", "query"}


def unchecked(tree: ast.AST) -> Iterator[str]:
    """What a module does that returns experiments without a check of the caller."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="experiments"), attr=name) if name in LOOKUPS:
                yield f"experiments.{name}"
            case ast.Attribute(value=ast.Name(id="session"), attr=name) if name in QUERIES:
                yield f"session.{name}"
            case ast.ImportFrom(module="sqlalchemy") | ast.Import(names=[ast.alias(name="sqlalchemy")]):
                yield "sqlalchemy"
            case ast.ImportFrom(module="service.domain.experiments", names=names):
                yield from (name.name for name in names if name.name in LOOKUPS)


def test_only_access_looks_up_experiments() -> None:
    found = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*.py")
        if any(unchecked(ast.parse(path.read_text())))
    }
    assert found == {"access.py"}


@pytest.mark.parametrize(
    "source",
    [
        "experiments.find(session, id)",
        "from service.domain.experiments import find",
        "from sqlalchemy import select",
        "import sqlalchemy",
        "session.get(Experiment, id)",
        "session.scalars(query)",
    ],
)
def test_every_way_to_an_experiment_is_recognized(source: str) -> None:
    assert any(unchecked(ast.parse(source)))
