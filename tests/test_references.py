"""Modules and files that are named by text exist, so that a move cannot leave a name behind."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from workers.winner.model_package import PACKED

ROOT = Path(__file__).parents[1]
PACKAGES = ("rung_mlflow", "search_spaces", "service", "workers")
MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.[a-z_0-9]+)+")
FILE = re.compile(
    rf"(?<![\w/.])(?:{'|'.join((*PACKAGES, 'tests', 'docs', 'docker'))})(?:/[\w.-]+)*/[\w-]+\.[a-z]+\b(?![/\w])"
)
EXAMPLES = {"NAME", "s3", "storage"}  # docker/storage.env is made by who has a bucket


def sources() -> Iterator[Path]:
    yield from (ROOT / name for name in ("pyproject.toml", "Makefile", "README.md"))
    yield from (path for path in (ROOT / "docs").glob("*.md"))
    yield from (path for path in (ROOT / "docker").glob("*.md"))
    yield from (path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def modules(path: Path) -> Iterator[str]:
    """The modules that a file names: in Python, strings that are one name, or that run one by `-m`."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from (found.rstrip(".") for found in re.findall(rf"(?<![\w./]){MODULE.pattern}(?![\w/])", text))
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if MODULE.fullmatch(node.value.partition(":")[0]):
                yield node.value.partition(":")[0]
            yield from re.findall(rf"-m ({MODULE.pattern})", node.value)


def exists(module: str) -> bool:
    """Whether a module exists, or an attribute of its last part."""
    for name in (module, module.rpartition(".")[0]):
        try:
            if importlib.util.find_spec(name) is not None:
                return True
        except ModuleNotFoundError:
            continue
    return False


def test_the_names_are_found() -> None:
    found = {name for path in sources() for name in modules(path)}
    assert {"workers.driver", "workers.preload", "workers.plots.cli", "workers.reproduce", "service.app"} <= found


def test_every_module_that_is_named_exists() -> None:
    assert [f"{path}: {name}" for path in sources() for name in modules(path) if not exists(name)] == []


def test_every_file_that_is_named_exists() -> None:
    named = ((path, name) for path in sources() for name in FILE.findall(path.read_text()))
    lost = [f"{path}: {name}" for path, name in named if not (ROOT / name).exists() and Path(name).stem not in EXAMPLES]
    assert lost == []


def test_every_pattern_of_packed_files_finds_some() -> None:
    for package, patterns in PACKED.items():
        for pattern in patterns:
            assert list(Path(package.__path__[0]).glob(pattern)), pattern
