"""The types of GPUs that a spec allows."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import validation
from search_spaces.gpu_types import GPU_TYPE_LABEL, in_words
from search_spaces.pool_nodes import PoolNodes
from search_spaces.problems import SpecError
from search_spaces.resources import Resources

H100, A100 = {GPU_TYPE_LABEL: "H100"}, {GPU_TYPE_LABEL: "A100"}
FORM = "resources.gpu_type: must be a GPU type, or a list of at most 8"


def resources(**given: Any) -> Resources:
    return validation.validate({"name": "x", "resources": given}).resources


@pytest.mark.parametrize("given", ["H100", ["H100"], ["A100-40G", "H100"]])
def test_one_type_or_several_are_kept_as_they_were_written(given: str | list[str]) -> None:
    found = resources(gpu_type=given)
    assert found.model_dump(mode="json")["gpu_type"] == given
    assert found.gpu_types == frozenset([given] if isinstance(given, str) else given)
    assert resources().gpu_types == frozenset()


def test_a_trial_has_a_whole_gpu_of_the_type_unless_the_spec_says_otherwise() -> None:
    assert resources(gpu_type="H100").gpus_per_trial == 1
    assert resources(gpu_type="H100", gpus_per_trial=0.5).gpus_per_trial == 0.5
    assert resources(gpu_type="H100", gpus_per_trial="auto").is_auto
    assert resources(gpu_type=None).gpus_per_trial is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"gpu_type": 3}, f"{FORM} (got 3)"),
        ({"gpu_type": []}, "resources.gpu_type: must not be empty (got [])"),
        ({"gpu_type": "H 100"}, "resources.gpu_type: must match "),
        ({"gpu_type": ["H100", "x,y"]}, "resources.gpu_type[1]: must match "),
        ({"gpu_type": {"choice": ["A100", "H100"]}}, f"{FORM}; this field accepts no domain"),
        (
            {"gpu_type": "H100", "gpus_per_trial": 0},
            'resources.gpu_type: must be left out where gpus_per_trial is 0 (got "H100")',
        ),
    ],
)
def test_other_values_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        resources(**given)
    assert str(caught.value.problems[0]).startswith(problem)


@pytest.mark.parametrize(
    ("pool", "selector", "of_pool"),
    [
        (PoolNodes(), "in(A100, H100)", {"A100", "H100"}),
        (PoolNodes(others=[H100]), "in(A100)", {"A100"}),
        (PoolNodes(others=[{**H100, "zone": "b"}]), "in(A100, H100)", {"A100", "H100"}),
        (PoolNodes(labels=A100), "A100", {"A100"}),
    ],
)
def test_the_nodes_of_a_pool_with_one_of_the_types(pool: PoolNodes, selector: str, of_pool: set[str]) -> None:
    found = pool.of_types({"H100", "A100"})
    assert found.selector() == {GPU_TYPE_LABEL: selector}
    assert {one for one in ("A100", "H100", "T4") if found.has({GPU_TYPE_LABEL: one})} == of_pool
    assert not found.has({})
    assert pool.of_types(()) == pool


def test_types_in_a_sentence() -> None:
    assert [in_words({"H100"}), in_words({"H100", "A100"})] == ["GPU type H100", "GPU type A100 or H100"]
