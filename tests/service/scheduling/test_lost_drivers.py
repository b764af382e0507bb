"""Drivers that die, fall silent or do not stop: they are replaced, or their experiment ends."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.launcher import JobStatus
from service.context import AppContext
from service.domain import attempts, experiments
from service.domain.cluster import Cluster, Node
from service.domain.retry_policy import Replacement
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S, heard_while_asked, reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """So that few rounds are needed until a start has taken too long."""
    return settings.model_copy(update={"driver_start_s": 2 * settings.driver_lost_s})


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (JobStatus.FAILED, "the driver ended (FAILED) without a final heartbeat"),
        (JobStatus.SUCCEEDED, "the driver ended (SUCCEEDED) without a final heartbeat"),
        (JobStatus.STOPPED, "the driver ended (STOPPED) without a final heartbeat"),
        (JobStatus.UNKNOWN, "Ray does not know the driver"),
    ],
)
def test_a_lost_driver_is_replaced_until_max_attempts(
    world: World, clock: Clock, status: JobStatus, reason: str
) -> None:
    one = world.started()
    for attempt in (1, 2, 3):
        assert world.show(one)["attempt"] == attempt
        world.beat(one, {"phase": "searching", "trials": [world.line(0)]}, attempt)
        world.launcher.jobs[f"exp-{one}-a{attempt}"] = status
        world.launcher.printed[f"exp-{one}-a{attempt}"] = "one\ntwo\nMemoryError\n"
        reconcile_for(world.reconciler, clock, 8)
        view = world.show(one)
        assert reason in view["reason"]
        assert "MemoryError" in view["reason"]
        if attempt < 3:
            assert view["state"] == "QUEUED"
            clock.sleep(2)
            world.reconciler.reconcile_once()
            assert world.show(one)["state"] == "QUEUED", "no wait before the next attempt"
            clock.sleep(5 * attempt + 1)
            world.reconciler.reconcile_once()
    assert (view["state"], view["trials"]) == ("ERROR", {"ERROR": 1})
    assert view["reason"].startswith("failed after 3 attempts")
    assert [attempt["state"] for attempt in view["attempts"]] == ["LOST"] * 3
    assert world.beat(one, {"phase": "searching"}, 3).status_code == 409


def test_a_search_whose_driver_died_keeps_its_slots_until_the_next_begins(
    world: World, clock: Clock, settings: Settings
) -> None:
    """As after a restart of Ray: experiments that wait behind it do not overtake it."""
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    urgent = world.started(priority=50)
    world.beat(urgent, {"phase": "searching", "trials": [world.line(0)]})
    other = world.submit()
    world.launcher.jobs[f"exp-{urgent}-a1"] = JobStatus.UNKNOWN
    reconcile_for(world.reconciler, clock, 8)
    assert [world.show(one)["state"] for one in (urgent, other)] == ["QUEUED", "QUEUED"]
    assert world.show(other)["reason"] == "waiting for free slots"
    clock.sleep(settings.retry_backoff_s + 1)
    world.reconciler.reconcile_once()
    assert [world.show(one)["state"] for one in (urgent, other)] == ["RUNNING", "QUEUED"]


def test_a_long_wait_for_the_next_attempt_keeps_no_slots(
    world: World, clock: Clock, context: AppContext, settings: Settings
) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one, other = world.started(), world.submit()
    now = clock()
    with context.database.write() as session:
        experiment = experiments.find(session, one)
        experiment.failures = 1
        lost = attempts.current(session, experiment)
        attempts.mark_lost(session, experiment, lost, "lost", Replacement(now, context.retries))
        assert experiment.retry_at - now > timedelta(seconds=settings.retry_backoff_s)
    world.reconciler.reconcile_once()
    assert [world.show(i)["state"] for i in (one, other)] == ["QUEUED", "RUNNING"]


def test_a_silent_driver_is_stopped_and_fenced(world: World, clock: Clock, settings: Settings) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    reconcile_for(world.reconciler, clock, settings.driver_lost_s)
    assert world.show(one)["state"] == "RUNNING"
    reconcile_for(world.reconciler, clock, 4)
    assert "the driver was silent for" in world.show(one)["reason"]
    assert world.launcher.stopped == [f"exp-{one}-a1"]
    clock.sleep(settings.retry_backoff_s + 1)
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == 2
    fenced = world.beat(one, {"phase": "searching", "trials": [world.line(5)]})
    assert fenced.status_code == 409
    assert world.client.get(f"/api/v1/experiments/{one}/trials").json()["items"] == []


def test_a_driver_without_a_first_heartbeat_is_lost_after_driver_start_s(
    world: World, clock: Clock, settings: Settings
) -> None:
    one = world.started()
    reconcile_for(world.reconciler, clock, settings.driver_lost_s + 4)
    assert world.show(one)["state"] == "RUNNING", "a start may take longer than a silence"
    reconcile_for(world.reconciler, clock, settings.driver_start_s - settings.driver_lost_s)
    assert world.show(one)["state"] == "QUEUED"


def test_a_driver_for_which_ray_has_no_room_counts_as_no_failure(
    world: World, clock: Clock, context: AppContext, settings: Settings
) -> None:
    """Memory is reserved for each driver, and others may use it for days."""
    one = world.started()
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.PENDING
    reconcile_for(world.reconciler, clock, settings.driver_start_s + 4)
    assert world.show(one)["state"] == "QUEUED"
    assert "Ray did not start the driver within" in world.show(one)["reason"]
    assert world.launcher.stopped == [f"exp-{one}-a1"]
    with context.database.read() as session:
        assert experiments.find(session, one).failures == 0


def test_a_driver_that_ignores_a_cancel_is_killed(
    world: World, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    world.cancel(one)
    for _ in range(int(settings.stop_grace_s / STEP_S)):
        reconcile_for(world.reconciler, clock, STEP_S)
        assert world.beat(one, {"phase": "searching"}).json()["stop"] == "cancel"
    assert world.show(one)["state"] == "STOPPING"
    monkeypatch.setattr(world.launcher, "status", heard_while_asked(world, one))
    reconcile_for(world.reconciler, clock, 2 * STEP_S)
    assert world.show(one)["state"] == "CANCELED", "a word of a driver that was to stop is no excuse"
    assert world.launcher.stopped == [f"exp-{one}-a1"]


def test_a_driver_that_died_after_a_cancel_ends_its_experiment_as_canceled(world: World, clock: Clock) -> None:
    one = world.started()
    world.cancel(one)
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    reconcile_for(world.reconciler, clock, 10)
    assert world.show(one)["state"] == "CANCELED"


def test_the_next_driver_gets_the_number_of_known_trials(world: World, clock: Clock) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 4})
    first = world.launcher.launches[f"exp-{one}-a1"]
    assert (first.trials, first.cancel_trials) == (0, [])
    world.beat(one, {"phase": "searching", "trials": [world.line(n) for n in range(3)]})
    for trial in (0, 2):
        assert world.client.post(f"/api/v1/experiments/{one}/trials/{trial}/cancel").status_code == 202
    world.beat(one, {"phase": "searching", "trials": [world.line(0, state="CANCELED")]})
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    reconcile_for(world.reconciler, clock, 20)
    second = world.launcher.launches[f"exp-{one}-a2"]
    assert (second.trials, second.cancel_trials) == (3, [2])


def test_a_lost_driver_s_own_log_is_preferred_to_ray_s_copy(world: World, settings: Settings) -> None:
    one = world.started()
    log = Path(settings.storage_root) / one / "logs" / "driver-a1.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"first\n" * 5_000 + b"\xff\0 the last line\n")
    world.launcher.printed[f"exp-{one}-a1"] = "what Ray kept"
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    reason = world.show(one)["reason"]
    assert reason.endswith("its log ends with: \ufffd the last line")
    assert len(reason) < 1_000


def test_a_warning_at_the_end_of_a_log_is_not_given_as_the_cause(world: World, settings: Settings) -> None:
    one = world.started()
    log = Path(settings.storage_root) / one / "logs" / "driver-a1.log"
    log.parent.mkdir(parents=True)
    record = "2026-11-29 02:00:00,123 WARNING workers.tracking MLflow did not accept the newest events\n"
    log.write_text(f"Traceback (most recent call last):\n  handled long ago\nValueError: x\n{record}")
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    reason = world.show(one)["reason"]
    assert "the driver ended (FAILED) without a final heartbeat; " in reason
    assert reason.endswith(f"; its log, which `rung logs {one}` shows, ends without an error")
