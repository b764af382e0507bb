"""Imports: what the room of specs needs beside the standard library, which is all that it may need."""

from __future__ import annotations

import sys

import grimp


def test_the_room_needs_pydantic_and_yaml_alone() -> None:
    graph = grimp.build_graph("search_spaces", include_external_packages=True, cache_dir=None)
    others = graph.modules - graph.find_descendants("search_spaces") - {"search_spaces"} - sys.stdlib_module_names
    assert others == {"pydantic", "pydantic_core", "yaml"}
    assert graph.find_modules_that_directly_import("yaml") == {"search_spaces.parsing"}
