"""Several processes that train one trial find what one process finds, up to how sums are rounded."""

from __future__ import annotations

import pytest
import torch

from tests.support.grouped import CASES, Found, together
from workers.training.group import Group

PROCESSES = 3  # which divides neither the batches nor the validation images


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    return together(tmp_path_factory.mktemp("group"), PROCESSES)


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_every_image_of_a_batch_counts_once(size: int) -> None:
    for count in range(1, 70):
        parts = [Group(rank, size).divide(count) for rank in range(size)]
        assert sum(part.share for part in parts) == pytest.approx(1)
        done = [image for part in parts for image in range(count)[part.images]]
        times = 1 if count >= size else size
        assert sorted(done) == sorted([*range(count)] * times)
        assert {part.times for part in parts} == {times}
        assert max(len(range(count)[part.images]) for part in parts) <= -(-count * times // size)


@pytest.mark.parametrize("case", CASES)
def test_a_group_finds_what_one_process_finds(case: str, found: list[dict[str, Found]]) -> None:
    with torch.random.fork_rng():
        expected = CASES[case](Group())
    ours = found[0][case]
    assert ours.keys() == expected.keys()
    is_layer = not case.startswith("a ")
    for name, values in expected.items():
        tolerance = {"rtol": 1e-12, "atol": 1e-12} if is_layer else {"rtol": 1e-4, "atol": 5e-6}
        assert torch.allclose(ours[name], values, equal_nan=True, **tolerance), (name, ours[name], values)


@pytest.mark.parametrize("case", CASES)
def test_all_processes_of_a_group_find_the_same_bits(case: str, found: list[dict[str, Found]]) -> None:
    for other in found[1:]:
        for name, values in found[0][case].items():
            assert torch.equal(other[case][name], values), name
