"""What a spec says of each value, as text: of every spec that is valid."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.searched import described, searched_parameters


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"loguniform": [0.001, 0.1]}, "loguniform(0.001, 0.1)"),
        ({"choice": [None, True, [1, 2]]}, "choice(n/a, true, [1, 2])"),
        ([{"size": 3}, {"size": 5}], '[{"size": 3}, {"size": 5}]'),
        ([{"choice": [3, 5]}], "[choice(3, 5)]"),
        ([{"choice": 3}], '[{"choice": 3}]'),
        ([{"choice": [3], "uniform": [0, 1]}], '[{"choice": [3], "uniform": [0, 1]}]'),
    ],
)
def test_a_value_is_described_by_its_domain_or_as_it_is_written(value: Any, text: str) -> None:
    assert described({"field": value}) == {"field": text}


@pytest.mark.parametrize(
    "changes",
    [
        {"searcher": {"kind": "random", "num_samples": 3, "initial": ["default", {"optimizer.lr": 0.05}]}},
        {"searcher": {"kind": "random", "num_samples": 3, "initial": [{"optimizer": {"kind": "sgd"}}]}},
        {"search_space": {"model": {"kind": "plugin", "name": "x", "arguments": {"layers": [{"size": 3}]}}}},
    ],
)
def test_every_valid_spec_can_be_described(changes: dict[str, Any]) -> None:
    space = {"optimizer": {"kind": "sgd", "lr": {"loguniform": [0.001, 0.1]}}}
    document = ExperimentSpec.model_validate({"name": "x", "search_space": space, **changes}).model_dump(mode="json")
    assert all(isinstance(text, str) for text in described(document).values())
    assert searched_parameters(document["search_space"]) <= {"optimizer.lr"}
