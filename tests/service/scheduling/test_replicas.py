"""Replicas and clocks: suspended replicas, races and wrong clocks cost no driver."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from service.adapters.launcher import JobStatus
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.leases import LeaseLostError
from tests.support.clock import Clock
from tests.support.postgres import Postgres
from tests.support.reconciling import STEP_S, heard_while_asked, reconcile_for, refuse
from tests.support.world import World

pytestmark = pytest.mark.stores


def test_a_service_that_was_suspended_does_not_consider_drivers_lost(
    world: World, clock: Clock, context: AppContext, settings: Settings
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    clock.sleep(3600)
    risen = Reconciler(context, clock, clock.monotonic)
    risen.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    clock.sleep(3600)
    risen.reconcile_once()
    assert world.show(one)["state"] == "RUNNING", "nor one that stood still between two rounds"
    reconcile_for(risen, clock, settings.driver_lost_s)
    assert "the driver was silent" in world.show(one)["attempts"][0]["reason"]


def test_a_suspended_replica_stops_no_driver_that_sent_heartbeats(
    world: World, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    reconcile_for(world.reconciler, clock, settings.driver_lost_s + STEP_S)
    monkeypatch.setattr(world.launcher, "status", heard_while_asked(world, one))
    reconcile_for(world.reconciler, clock, STEP_S)
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 1)
    assert world.launcher.stopped == []


def test_a_replica_that_lost_its_lease_stops_no_driver(
    world: World, context: AppContext, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    other = Reconciler(context, clock, clock.monotonic)
    logs = world.launcher.logs

    def stand_still(attempt_id: str) -> str:
        clock.sleep(settings.lease_s + 1)
        other.reconcile_once()
        said: str = logs(attempt_id)
        return said

    monkeypatch.setattr(world.launcher, "logs", stand_still)
    with pytest.raises(LeaseLostError):
        reconcile_for(world.reconciler, clock, settings.driver_lost_s + 4)
    assert other.held is not None
    assert world.show(one)["state"] == "RUNNING"
    assert world.launcher.stopped == []


@pytest.mark.parametrize("behind_s", [-3600, 3600])
def test_a_replica_with_a_wrong_clock_considers_no_driver_lost(
    world: World, context: AppContext, clock: Clock, behind_s: float
) -> None:
    """Heartbeats carry the time of the replica that received them, here the clock of this machine."""
    one = world.started()
    clock.set_forward(behind_s)
    other = Reconciler(context, clock, clock.monotonic)
    clock.sleep(60)  # the lease of the first runs out
    for _ in range(60):
        world.beat(one, {"phase": "searching"})
        clock.sleep(STEP_S)
        other.reconcile_once()
    assert other.held is not None
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 1)


def test_another_replica_waits_for_a_slow_submission(
    world: World, context: AppContext, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Reconciler(context, clock, clock.monotonic)
    launch = world.launcher.launch

    def launch_slowly(order: Any) -> None:
        slow.undo()
        reconcile_for(other, clock, settings.ray_submit_timeout_s)
        launch(order)

    one = world.submit(resources={"gpus_per_trial": 0})
    with monkeypatch.context() as slow:
        slow.setattr(world.launcher, "launch", launch_slowly)
        with pytest.raises(LeaseLostError):
            world.reconciler.reconcile_once()
    assert other.held is not None
    reconcile_for(other, clock, 60)
    assert world.beat(one, {"phase": "searching"}).status_code == 200
    assert [attempt["state"] for attempt in world.show(one)["attempts"]] == ["RUNNING"]


def test_an_interrupted_submission_is_repeated_and_does_not_count_as_a_failure(
    world: World, context: AppContext, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """What nothing in the reconciler survives."""

    def die(*_: Any) -> None:
        raise Killed

    one = world.submit(resources={"gpus_per_trial": 0})
    with monkeypatch.context() as deadly:
        deadly.setattr(world.launcher, "launch", die)
        with pytest.raises(Killed):
            world.reconciler.reconcile_once()
    other = Reconciler(context, clock, clock.monotonic)
    reconcile_for(other, clock, settings.lease_s + settings.ray_submit_timeout_s)
    assert world.show(one)["state"] == "RUNNING", "the other may still be at it"
    reconcile_for(other, clock, settings.lease_s + 4)
    assert "the driver did not reach Ray" in world.show(one)["attempts"][0]["reason"]
    reconcile_for(other, clock, settings.retry_backoff_s)
    view = world.show(one)
    assert (view["state"], view["attempt"]) == ("RUNNING", 2)
    world.launcher.jobs[f"exp-{one}-a2"] = JobStatus.FAILED
    other.reconcile_once()
    assert "attempt 2 was lost; the next attempt starts in 5 s" in world.show(one)["reason"], "a failure was counted"


def test_a_clock_that_is_set_back_does_not_prolong_a_retry_delay(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.submit()
    with monkeypatch.context() as broken:
        broken.setattr(world.launcher, "launch", refuse)
        world.reconciler.reconcile_once()
    clock.set_forward(-3600)
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_clock_that_jumps_loses_no_driver(world: World, clock: Clock, settings: Settings, jump_s: float) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    clock.set_forward(jump_s)
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    reconcile_for(world.reconciler, clock, settings.driver_lost_s + 4)
    assert world.show(one)["state"] == "QUEUED", "a driver that is silent is found nonetheless"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_unavailable_database_does_not_count_as_silence_of_drivers(
    world: World, clock: Clock, settings: Settings, postgres: Postgres
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    postgres.stop("immediate")
    for _ in range(2):
        with pytest.raises(SQLAlchemyError):
            world.reconciler.reconcile_once()
        assert world.beat(one, {"phase": "searching"}).status_code == 503
        clock.sleep(settings.driver_lost_s)
        clock.sleep(1)
    with pytest.raises(SQLAlchemyError):
        world.reconciler.reconcile_once()
    postgres.start()
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    assert world.beat(one, {"phase": "searching"}).status_code == 200


def test_of_two_replicas_one_acts(world: World, context: AppContext, clock: Clock) -> None:
    world.reconciler.reconcile_once()
    one = world.submit()
    other = Reconciler(context, clock, clock.monotonic)
    other.reconcile_once()
    assert world.show(one)["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    assert len(world.launcher.jobs) == 1
