"""The largest configuration of a search space, found without building all of them."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.sampling import combinations
from workers.packing import largest
from workers.packing.largest import MOST_BUILT, LargestSearch, estimated_bytes

IMAGES = (100, 1, 8, 8)


def search(space: dict[str, Any]) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"name": "x", "search_space": space, "searcher": {"kind": "random"}})


@pytest.mark.parametrize(
    "space",
    [
        {
            "model": {"kind": "cnn", "width": {"choice": [4, 16, 8]}, "depth": 2},
            "batch_size": {"choice": [64, 128, 32]},
        },
        {
            "model": {
                "choice": [
                    {"kind": "cnn", "width": {"choice": [4, 8]}, "depth": {"int_range": [1, 3]}},
                    {"kind": "resnet", "depth": 9, "width": {"choice": [8, 4]}},
                    {"kind": "cnn", "width": 2, "hidden": 256},
                ]
            },
            "normalization": {"choice": ["none", "batch"]},
            "batch_size": {"choice": [16, 64]},
        },
    ],
)
def test_it_is_the_largest_of_all(space: dict[str, Any]) -> None:
    spec = search(space)
    sizes = [estimated_bytes(spec.bind(sample), IMAGES, 10) for sample in combinations(spec.search_space)]
    assert estimated_bytes(LargestSearch(spec, IMAGES, 10).find(), IMAGES, 10) == max(sizes)


def test_a_large_space_is_not_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []

    def count(*given: Any) -> int:
        built.append(given)
        return len(built)

    monkeypatch.setattr(largest, "estimated_bytes", count)
    widths = {"choice": list(range(4, 904))}
    model = {"choice": [{"kind": "cnn", "width": widths, "depth": {"int_range": [1, 4]}} for _ in range(40)]}
    found = LargestSearch(search({"model": model, "batch_size": {"choice": [16, 32, 64, 128]}}), IMAGES, 10).find()
    assert len(built) <= MOST_BUILT
    assert found.hyperparameters.batch_size >= 16


def test_what_cannot_be_built_is_left_out() -> None:
    groups = {"kind": "group", "groups": 4}
    widths = {"choice": [6, 4, 18, 16, 8]}  # not all can be divided by the groups
    space = {"model": {"kind": "cnn", "width": widths, "depth": 1}, "normalization": groups}
    assert LargestSearch(search(space), IMAGES, 10).find().hyperparameters.model.width == 16  # type: ignore[union-attr]
    widths["choice"] = [6, 18]
    with pytest.raises(ValueError, match="must divide the number of channels"):
        LargestSearch(search(space), IMAGES, 10).find()


def test_what_is_not_in_the_space_stays() -> None:
    found = LargestSearch(search({"optimizer": {"kind": "sgd", "lr": {"loguniform": [0.001, 0.1]}}}), IMAGES, 10).find()
    assert found.hyperparameters.optimizer.lr == 0.1
