"""Trials on a node that has announced its end leave it, and no failure is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.tune.schedulers import TrialScheduler

from search_spaces.protocol import Directives
from tests.support.clock import Clock
from tests.support.nodes import MemoryCluster
from tests.support.searches import Search
from tests.support.workers import launch_config
from workers.leaving_nodes import LAST_S, LOOK_S
from workers.nodes import Nodes


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster() -> MemoryCluster:
    """The first two trials run on w1, the third one on w2."""
    found = MemoryCluster("w1", "w2")
    found.actors = {"t1": "w1", "t2": "w1", "t3": "w2"}
    return found


@pytest.fixture
def now(search: Callable[..., Search], tmp_path: Path, clock: Clock, cluster: MemoryCluster) -> Search:
    found = search(max_restarts=0)
    found.callback.attach(found.searcher, Nodes(launch_config(tmp_path), cluster, clock.monotonic), {"CPU": 1.0})
    return found


def announce(now: Search, clock: Clock, cluster: MemoryCluster, left_s: float) -> None:
    cluster.leaving = {"w1": left_s}
    clock.sleep(LOOK_S)
    now.callback.poll(now.tune)


def test_trials_leave_at_the_end_of_their_epoch(now: Search, clock: Clock, cluster: MemoryCluster) -> None:
    first, second, third = (now.tune.start() for _ in range(3))
    announce(now, clock, cluster, math.inf)
    assert now.tune.live == [first, second, third]
    assert now.callback.notice() == "node w1 ends soon, so its trials leave it"
    assert (now.callback.excluded_nodes(), now.callback.leaving_nodes()) == (["w1"], ["w1"])
    assert [now.tune.report(one, 1, 0.5) for one in (first, third)] == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert now.states() == ["PAUSED", "RUNNING", "RUNNING"]
    again = now.tune.start()
    assert (again.config["trial"], again.config["epoch"]) == (0, 1), "it continues from its epoch elsewhere"


def test_trials_elsewhere_keep_the_slots_that_are_left(now: Search, clock: Clock, cluster: MemoryCluster) -> None:
    """The service takes the slots of the node back, and those who leave it are the ones who yield."""
    first, second, third = (now.tune.start() for _ in range(3))
    announce(now, clock, cluster, math.inf)
    now.service.directives = Directives(slots=1)
    assert now.tune.report(third, 1, 0.5) == TrialScheduler.CONTINUE
    now.service.directives = Directives(slots=0)
    assert now.tune.report(third, 2, 0.5) == TrialScheduler.STOP
    assert now.tune.live == [first, second]


def test_where_no_time_is_left_they_leave_their_epoch(now: Search, clock: Clock, cluster: MemoryCluster) -> None:
    first, second, third = (now.tune.start() for _ in range(3))
    signals = [now.callback._storage.stop_signal(one.config["trial"]) for one in (first, second, third)]
    announce(now, clock, cluster, LAST_S + 1)
    assert now.tune.live == [first, second, third]
    clock.sleep(2)
    now.callback.poll(now.tune)
    assert now.tune.live == [third]
    assert [one.asked() for one in signals] == [True, True, False]
    assert now.states() == ["PAUSED", "PAUSED", "RUNNING"]


def test_a_trial_that_ends_with_its_node_counts_no_failure(
    now: Search, clock: Clock, cluster: MemoryCluster, tmp_path: Path
) -> None:
    first, _, third = (now.tune.start() for _ in range(3))
    announce(now, clock, cluster, math.inf)
    cluster.leaving = {}  # Ray no longer lists a node that has ended
    clock.sleep(LOOK_S)
    now.callback.poll(now.tune)
    for one in (first, third):
        now.tune.fail(one, ActorDiedError(), tmp_path)
    lines = [now.recorder.update_of(number) for number in (0, 2)]
    assert [(one.state, one.restarts, one.error_kind) for one in lines] == [("PAUSED", 0, None), ("ERROR", 0, "LOST")]


def test_trials_there_leave_their_epoch_before_those_elsewhere(
    now: Search, clock: Clock, cluster: MemoryCluster
) -> None:
    """Epochs are long, and the service has waited for its slots for long."""
    _, _, third = (now.tune.start() for _ in range(3))
    announce(now, clock, cluster, math.inf)
    now.service.directives = Directives(slots=1, stop_epochs=True)
    now.callback.poll(now.tune)
    assert now.tune.live == [third]
