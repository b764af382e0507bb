"""Nodes that announce their end: how long they stay, and whom that concerns."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.nodes import MemoryCluster
from tests.support.workers import BuildLaunch
from workers.leaving_nodes import GONE_S, LAST_S, LOOK_S, LeavingNodes, is_urgent, seconds_until
from workers.nodes import Nodes


def test_a_deadline_of_ray_is_read() -> None:
    assert seconds_until(90_500, 60.0) == 30.5
    assert seconds_until(0, 60.0) == math.inf
    assert is_urgent(LAST_S)
    assert not is_urgent(math.inf)


def test_a_node_is_leaving_from_its_announcement_on() -> None:
    clock, cluster = Clock(), MemoryCluster("w1", "w2")
    cluster.actors = {"a": "w1", "b": "w2"}
    nodes = LeavingNodes(cluster, clock.monotonic)
    nodes.look()
    assert (nodes.ids, nodes.left_s("a")) == (set(), None)
    cluster.leaving = {"w1": 100.0}
    nodes.look()
    assert nodes.ids == set(), "Ray is not asked at each step"
    clock.sleep(LOOK_S)
    nodes.look()
    assert (nodes.ids, nodes.left_s("a")) == ({"w1"}, 100.0)
    assert [nodes.left_s(one) for one in ("b", "unknown", None)] == [None] * 3
    clock.sleep(60)
    nodes.look()
    assert nodes.left_s("a") == 40.0, "the first announcement counts"
    cluster.leaving = {}
    clock.sleep(GONE_S)
    nodes.look()
    assert nodes.ids == {"w1"}, "Ray no longer lists it, and its trials may be found lost only now"
    clock.sleep(LOOK_S)
    nodes.look()
    assert nodes.ids == set()


def test_an_earlier_end_replaces_a_later_one() -> None:
    clock, cluster = Clock(), MemoryCluster("w1")
    cluster.actors = {"a": "w1"}
    nodes = LeavingNodes(cluster, clock.monotonic)
    for announced, left_s in ((math.inf, math.inf), (120.0, 120.0), (500.0, 120.0 - LOOK_S)):
        cluster.leaving = {"w1": announced}
        nodes.look()
        assert nodes.left_s("a") == left_s
        clock.sleep(LOOK_S)


def test_a_ray_that_does_not_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cluster = Clock(), MemoryCluster("w1")
    cluster.leaving, cluster.actors = {"w1": 100.0}, {"a": "w1"}
    nodes = LeavingNodes(cluster, clock.monotonic)
    nodes.look()

    def fail(*_: Any) -> Any:
        raise RuntimeError("the head does not answer")

    monkeypatch.setattr(cluster, "draining", fail)
    clock.sleep(LOOK_S)
    nodes.look()
    assert nodes.left_s("a") == 100.0 - LOOK_S
    monkeypatch.setattr(cluster, "node_of", fail)
    assert nodes.left_s("a") is None


def test_trials_avoid_a_leaving_node_and_the_service_learns_of_it(launch: BuildLaunch) -> None:
    clock, cluster = Clock(), MemoryCluster("w1", "w2")
    nodes = Nodes(launch(), cluster, clock.monotonic)
    cluster.leaving = {"w2": math.inf}
    nodes.look()
    assert (nodes.excluded(), nodes.unusable(), nodes.reason()) == (["w2"], [], "")
    assert nodes.selector() == {"ray.io/node-id": "!in(w2)"}
    assert nodes.notice() == "node w2 ends soon, so its trials leave it"
