"""Compiled networks: once for each structure, however many structures, and not again for a later trial."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from search_spaces.models import CNN
from search_spaces.normalization import Batch
from workers import compiled
from workers.build import build_model
from workers.compiled import Compiler

WIDTHS = range(1, 13)  # more structures than Dynamo's limit of 8 entries


@pytest.fixture(autouse=True)
def _dynamo_as_it_was() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


def use(compiler: Compiler, width: int) -> None:
    network = compiler(build_model(CNN(width=width, depth=1), Batch(), 1, 4, 8), f"width {width}")
    network(torch.zeros(4, 1, 8, 8)).sum().backward()


def test_each_of_many_structures_is_compiled_once_and_used_again() -> None:
    counter = CompileCounter()
    compiler = Compiler(counter)
    counts = []
    for width in WIDTHS:
        use(compiler, width)
        counts.append(counter.frame_count)
    assert len(set(counts)) == len(WIDTHS), "a structure beyond the limit runs uncompiled"
    for width in WIDTHS:
        use(compiler, width)
    assert counter.frame_count == counts[-1]


def test_too_many_structures_are_forgotten_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MOST_STRUCTURES", 2)
    counter = CompileCounter()
    compiler = Compiler(counter)
    for width in (1, 2, 3):
        use(compiler, width)
    before = counter.frame_count
    use(compiler, 3)
    assert counter.frame_count == before
    use(compiler, 1)
    assert counter.frame_count > before
