"""Places for drivers: how many may start in each pool, and which are kept for others."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.driver_places import DriverPlaces
from service.settings import Settings
from tests.support.pools import set_grant
from tests.support.world import World

POOLS = ("a", "b", "c")


@given(
    st.integers(0, 8),
    st.lists(st.integers(0, 4), min_size=3, max_size=3),
    st.lists(st.sampled_from(POOLS), max_size=10),
    st.lists(st.sampled_from(POOLS), max_size=30),
)
def test_no_pool_takes_what_is_kept_for_another(
    most: int, least: list[int], running: list[str], wanted: list[str]
) -> None:
    kept = dict(zip(POOLS, least, strict=True))
    places, now = DriverPlaces(most, kept, running), list(running)
    for pool in wanted:
        if places.free(pool):
            places.take(pool)
            now.append(pool)
    assert len(now) <= max(most, len(running))
    if sum(least) <= most and all(running.count(pool) <= kept[pool] for pool in POOLS):
        for pool in POOLS:
            missing = max(0, kept[pool] - now.count(pool))
            assert places.free(pool) >= missing, "whatever was started before"
    if most > len(now) and not any(least):
        assert all(places.free(pool) == most - len(now) for pool in POOLS)


def test_where_more_is_kept_than_there_is_the_first_one_gets_it() -> None:
    places = DriverPlaces(1, {"a": 2, "b": 2}, [])
    assert (places.free("a"), places.free("b")) == (1, 1)
    places.take("b")
    assert (places.free("a"), places.free("b")) == (0, 0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_drivers": 2})


def test_a_place_that_is_kept_stays_free_for_its_pool(world: World, client: httpx.Client, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=8), Node("b", cpus=8, labels={"kind": "large"})))
    client.post("/api/v1/pools", json={"pool": "large", "labels": {"kind": "large"}}).raise_for_status()
    set_grant(context.database, pool="large")
    changed = client.patch("/api/v1/pools/large", json={"min_drivers": 1})
    assert (changed.status_code, changed.json()["min_drivers"]) == (200, 1)
    size = {"gpus_per_trial": 0, "max_concurrent_trials": 1}
    one, two = (world.submit(resources=size) for _ in range(2))
    world.reconciler.reconcile_once()
    assert [world.show(found)["state"] for found in (one, two)] == ["RUNNING", "QUEUED"]
    reason = (
        "waiting for another experiment to end: 1 run already, and 1 more is kept for other pools (RUNG_MAX_DRIVERS)"
    )
    assert world.show(two)["reason"] == reason
    large = world.submit(resources=size | {"pool": "large"})
    world.reconciler.reconcile_once()
    assert [world.show(found)["state"] for found in (large, two)] == ["RUNNING", "QUEUED"]
    client.patch("/api/v1/pools/large", json={"min_drivers": None}).raise_for_status()
    world.beat(one, {"phase": "failed", "reason": "it failed"})
    world.reconciler.reconcile_once()
    assert world.show(two)["state"] == "RUNNING"
