"""Which nodes belong to a pool."""

from __future__ import annotations

import pytest

from search_spaces.pool_nodes import PoolNodes

OTHERS = PoolNodes(others=[{"zone": "b"}, {"zone": "a", "disk": "fast"}])


@pytest.mark.parametrize(
    ("pool", "labels", "has"),
    [
        (PoolNodes(), {}, True),
        (PoolNodes(), {"zone": "a"}, True),
        (PoolNodes(labels={"zone": "a"}), {}, False),
        (PoolNodes(labels={"zone": "a"}), {"zone": "a", "disk": "slow"}, True),
        (PoolNodes(labels={"zone": "a"}), {"zone": "b"}, False),
        (PoolNodes(labels={"zone": "a", "disk": "fast"}), {"zone": "a"}, False),
        (OTHERS, {}, True),
        (OTHERS, {"zone": "b"}, False),
        (OTHERS, {"zone": "a"}, True),
        (OTHERS, {"zone": "a", "disk": "fast"}, False),
    ],
)
def test_a_node_belongs_to_a_pool_by_its_labels(pool: PoolNodes, labels: dict[str, str], has: bool) -> None:
    assert pool.has(labels) is has


def test_a_selector_says_what_rays_language_can_say_and_the_rest_is_known() -> None:
    assert OTHERS.selector() == {"zone": "!in(b)"}
    assert [OTHERS.is_left(one) for one in ({"zone": "b"}, {"zone": "a", "disk": "fast"}, {"zone": "a"})] == [
        False, True, False,
    ]  # fmt: skip
