"""Imports: `search_spaces` needs only pydantic and yaml besides the standard library, until something runs.

A searcher imports Optuna when a search begins, and a data set imports what decodes its files when they are read.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import grimp

from search_spaces.datasets.mnist import FashionMNIST

#: Package -> the parts of `search_spaces` that may import it, and never at import time.
LATE = {
    "optuna": {"searchers"},
    "scipy": {"searchers"},
    "threadpoolctl": {"searchers"},
    "obstore": {"storage"},
    "numpy": {"searchers", "datasets"},
    **{package: {"datasets"} for package in ("PIL", "sklearn", "torchvision")},
}


def test_only_pydantic_and_yaml_are_needed() -> None:
    graph = grimp.build_graph("search_spaces", include_external_packages=True, cache_dir=None)
    others = graph.modules - graph.find_descendants("search_spaces") - {"search_spaces"} - sys.stdlib_module_names
    assert others == {"pydantic", "pydantic_core", "yaml", *LATE}
    assert graph.find_modules_that_directly_import("yaml") == {"search_spaces.parsing"}
    for package, parts in LATE.items():
        importers = graph.find_modules_that_directly_import(package)
        assert {module.split(".")[1] for module in importers} == parts


def test_nothing_heavy_is_imported_before_a_search_begins_or_data_are_decoded(tmp_path: Path) -> None:
    """Listing an image folder, which the service may do, imports nothing heavy either."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").touch()
    code = f"""
import sys
from pathlib import Path
import search_spaces.validation
from search_spaces.datasets import ImageFolder
ImageFolder(path={tmp_path.name!r}).reader(Path({str(tmp_path.parent)!r})).identity()
print(*{set(LATE)} & sys.modules.keys())"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_classes_of_data_sets_keep_the_import_path_of_version_0_1() -> None:
    assert pickle.loads(b"csearch_spaces.datasets\nFashionMNIST\n.") is FashionMNIST
