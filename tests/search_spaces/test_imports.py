"""Imports: `search_spaces` needs only pydantic and yaml besides the standard library; a searcher may import Optuna."""

from __future__ import annotations

import subprocess
import sys

import grimp


def test_only_pydantic_and_yaml_are_needed() -> None:
    graph = grimp.build_graph("search_spaces", include_external_packages=True, cache_dir=None)
    others = graph.modules - graph.find_descendants("search_spaces") - {"search_spaces"} - sys.stdlib_module_names
    assert others == {"pydantic", "pydantic_core", "yaml", "optuna"}
    assert graph.find_modules_that_directly_import("yaml") == {"search_spaces.parsing"}
    assert graph.find_modules_that_directly_import("optuna") == {"search_spaces.searchers.optuna_search"}


def test_optuna_is_imported_only_when_a_search_begins() -> None:
    code = "import sys, search_spaces.parsing, search_spaces.searchers.optuna_search; sys.exit('optuna' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
