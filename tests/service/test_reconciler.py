"""The reconciler against a cluster in memory and a clock that is moved by hand: what should run, runs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.experiment import ExperimentSpec
from service.allocation import Cluster, Node
from service.launcher import JobStatus, RayUnreachable
from service.reconciler import Reconciler

pytestmark = pytest.mark.stores


class Clock:
    """A wall clock, and a monotonic one beside it that does not jump."""

    def __init__(self) -> None:
        self.now, self.ticks = datetime.now(UTC), 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.ticks

    def pass_s(self, seconds: float) -> None:
        self.ticks += seconds
        self.jump_s(seconds)

    def jump_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def refuse(*_: Any) -> Any:
    raise RayUnreachable("500 Internal Server Error")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(context: Any, clock: Clock) -> Reconciler:
    return Reconciler(context, clock, clock.monotonic)


def test_a_driver_is_launched_with_all_it_needs(world: Any, settings: Any) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 4})
    launch = world.launcher.launches[f"exp-{one}-a1"]
    assert (launch.attempt, launch.attempt_id, launch.slots) == (1, f"exp-{one}-a1", 4)
    assert launch.storage == str(settings.storage_root / one)
    assert launch.service_url == settings.service_url
    assert ExperimentSpec.model_validate(world.launcher.specs[launch.attempt_id]).name == "x"
    world.reconciler.round()
    assert list(world.launcher.jobs) == [launch.attempt_id]


def test_while_ray_is_away_all_stays_as_it_is(world: Any, clock: Clock) -> None:
    running = world.started()
    world.beat(running, {"phase": "searching"})
    world.launcher.away = True
    waiting = world.submit()
    clock.pass_s(3600)
    world.reconciler.round()
    assert (world.show(running)["state"], world.show(waiting)["state"]) == ("RUNNING", "QUEUED")
    world.launcher.away = False
    world.reconciler.round()
    assert world.show(waiting)["spec"]["resources"]["gpus_per_trial"] == 1, "decided late, as the cluster was unknown"


def test_slots_are_shared_anew_and_told(world: Any) -> None:
    one = world.started()
    assert world.beat(one, {"phase": "searching"}).json()["slots"] == 10
    two = world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.round()
    assert world.beat(one, {"phase": "searching"}).json()["slots"] == 5
    assert world.show(two)["slots"] == 5
    world.beat(one, {"phase": "completed"})
    world.reconciler.round()
    assert world.beat(two, {"phase": "searching"}).json()["slots"] == 10


def test_the_last_trials_need_no_more_slots_than_they_are(world: Any) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 4})
    world.beat(one, {"phase": "searching", "trials": [world.line(n, state="COMPLETED") for n in range(3)]})
    world.reconciler.round()
    assert world.show(one)["slots"] == 1
    world.beat(one, {"phase": "finalizing", "trials": [world.line(3, state="COMPLETED")]})
    world.reconciler.round()
    assert world.show(one)["slots"] == 1, "the finalist needs one"


def test_first_come_first_served_when_the_cluster_is_full(world: Any) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    two, three = world.submit(), world.submit()
    world.reconciler.round()
    assert [world.show(i)["state"] for i in (two, three)] == ["QUEUED", "QUEUED"]
    assert world.show(two)["reason"] == "waiting for free slots"
    world.beat(one, {"phase": "completed"})
    world.reconciler.round()
    assert [world.show(i)["state"] for i in (two, three)] == ["RUNNING", "QUEUED"]
    assert world.show(two)["reason"] == ""


def test_a_cluster_without_a_node_yet_queues(world: Any) -> None:
    nodes, world.launcher.nodes = world.launcher.nodes, Cluster(())
    world.reconciler.round()
    one = world.submit()
    world.reconciler.round()
    assert world.show(one)["reason"] == "waiting for a node: the cluster has none yet"
    world.launcher.nodes = nodes
    world.reconciler.round()
    view = world.show(one)
    assert (view["state"], view["spec"]["resources"]["gpus_per_trial"]) == ("RUNNING", 1)


def test_what_fits_no_node_waits_and_says_why(world: Any) -> None:
    one = world.submit(resources={"gpus_per_trial": 8})
    world.reconciler.round()
    view = world.show(one)
    assert view["state"] == "QUEUED"
    assert "waiting for a larger node: resources.gpus_per_trial: at most 2 required" in view["reason"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (JobStatus.FAILED, "the driver ended (FAILED) without a last word"),
        (JobStatus.SUCCEEDED, "the driver ended (SUCCEEDED) without a last word"),
        (JobStatus.STOPPED, "the driver ended (STOPPED) without a last word"),
        (JobStatus.UNKNOWN, "Ray does not know the driver any more"),
    ],
)
def test_a_dead_driver_is_replaced_thrice_and_then_given_up(
    world: Any, clock: Clock, status: JobStatus, reason: str
) -> None:
    one = world.started()
    for attempt in (1, 2, 3):
        assert world.show(one)["attempt"] == attempt
        world.beat(one, {"phase": "searching", "trials": [world.line(0)]}, attempt)
        world.launcher.jobs[f"exp-{one}-a{attempt}"] = status
        world.launcher.printed[f"exp-{one}-a{attempt}"] = "one\ntwo\nMemoryError\n"
        clock.pass_s(10)
        world.reconciler.round()
        view = world.show(one)
        assert reason in view["reason"]
        assert "MemoryError" in view["reason"]
        if attempt < 3:
            assert view["state"] == "QUEUED"
            world.reconciler.round()
            assert world.show(one)["state"] == "QUEUED", "no wait before the next attempt"
            clock.pass_s(5 * attempt + 1)
            world.reconciler.round()
    assert (view["state"], view["trials"]) == ("ERROR", {"ERROR": 1})
    assert view["reason"].startswith("given up after 3 attempts")
    assert [attempt["state"] for attempt in view["attempts"]] == ["LOST"] * 3
    assert world.beat(one, {"phase": "searching"}, 3).status_code == 409


def test_a_silent_driver_is_stopped_and_fenced(world: Any, clock: Clock, settings: Any) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    clock.pass_s(settings.driver_lost_s - 1)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"
    clock.pass_s(2)
    world.reconciler.round()
    assert "the driver was silent for" in world.show(one)["reason"]
    assert world.launcher.stopped == [f"exp-{one}-a1"]
    clock.pass_s(settings.retry_backoff_s + 1)
    world.reconciler.round()
    assert world.show(one)["attempt"] == 2
    fenced = world.beat(one, {"phase": "searching", "trials": [world.line(5)]})
    assert fenced.status_code == 409
    assert world.client.get(f"/api/v1/experiments/{one}/trials").json()["items"] == []


def test_a_service_that_slept_does_not_blame_the_drivers(world: Any, clock: Clock, context: Any, settings: Any) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    clock.pass_s(3600)
    risen = Reconciler(context, clock, clock.monotonic)
    risen.round()
    assert world.show(one)["state"] == "RUNNING"
    clock.pass_s(settings.driver_lost_s + 1)
    risen.round()
    assert world.show(one)["state"] == "QUEUED"


def test_a_driver_that_never_speaks(world: Any, clock: Clock, settings: Any) -> None:
    one = world.started()
    clock.pass_s(settings.driver_lost_s + 1)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING", "a start may take longer than a silence"
    clock.pass_s(settings.driver_start_s)
    world.reconciler.round()
    assert world.show(one)["state"] == "QUEUED"


def test_a_cancel_that_is_not_obeyed_is_enforced(world: Any, clock: Clock, settings: Any) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    world.cancel(one)
    world.reconciler.round()
    assert world.show(one)["state"] == "STOPPING"
    clock.pass_s(settings.stop_grace_s + 1)
    world.reconciler.round()
    assert world.show(one)["state"] == "CANCELED"
    assert world.launcher.stopped == [f"exp-{one}-a1"]


def test_a_canceled_driver_that_died_is_canceled(world: Any, clock: Clock) -> None:
    one = world.started()
    world.cancel(one)
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    clock.pass_s(10)
    world.reconciler.round()
    assert world.show(one)["state"] == "CANCELED"


def test_a_launch_that_fails_counts_as_no_attempt(world: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.submit()
    with monkeypatch.context() as broken:
        broken.setattr(world.launcher, "launch", refuse)
        for _ in range(5):
            world.reconciler.round()
            view = world.show(one)
            assert view["state"] == "QUEUED"
            assert "the driver could not be started: 500 Internal Server Error" in view["reason"]
            clock.pass_s(60)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"


def test_a_full_disk_pauses_and_says_which(world: Any, clock: Clock, settings: Any) -> None:
    one = world.submit()
    settings.storage_root.mkdir()
    world.launcher.full_disk = True
    world.reconciler.round()
    view = world.show(one)
    assert (view["state"], view["slots"]) == ("PAUSED", 0)
    found = re.fullmatch(
        r"paused, the disk is full: RUNG_STORAGE_ROOT (.*): room .* required, (\d+) bytes are left", view["reason"]
    )
    assert found, view["reason"]
    assert found[1] == str(settings.storage_root)
    assert int(found[2]) > 0
    world.launcher.full_disk = False
    clock.pass_s(3600)
    world.reconciler.round()
    assert world.show(one)["state"] == "PAUSED", "nothing goes on before a person has made room"


def test_a_wait_for_the_next_attempt_survives_a_clock_set_back(
    world: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.submit()
    with monkeypatch.context() as broken:
        broken.setattr(world.launcher, "launch", refuse)
        world.reconciler.round()
    clock.jump_s(-3600)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_clock_that_jumps_loses_nobody(world: Any, clock: Clock, settings: Any, jump_s: float) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    clock.jump_s(jump_s)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"
    clock.pass_s(settings.driver_lost_s + 1)
    world.reconciler.round()
    assert world.show(one)["state"] == "QUEUED", "silence counts from the jump on"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_was_away_is_no_silence_of_the_drivers(
    world: Any, clock: Clock, settings: Any, postgres: Any
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    postgres.stop("immediate")
    for _ in range(2):
        with pytest.raises(SQLAlchemyError):
            world.reconciler.round()
        assert world.beat(one, {"phase": "searching"}).status_code == 503
        clock.pass_s(settings.driver_lost_s)
        clock.pass_s(1)
    with pytest.raises(SQLAlchemyError):
        world.reconciler.round()
    postgres.start()
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"
    assert world.beat(one, {"phase": "searching"}).status_code == 200


def test_the_log_of_its_own_is_read_before_ray_s(world: Any, clock: Clock, settings: Any) -> None:
    one = world.started()
    log = settings.storage_root / one / "logs" / "driver-a1.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"first\n" * 5_000 + b"\xff\0 the last word\n")
    world.launcher.printed[f"exp-{one}-a1"] = "what Ray kept"
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    clock.pass_s(10)
    world.reconciler.round()
    reason = world.show(one)["reason"]
    assert reason.endswith("\ufffd the last word")
    assert len(reason) < 2_500


def test_the_more_important_is_served_first(world: Any, clock: Clock) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    two, three = world.submit(), world.submit(priority=5)
    world.beat(one, {"phase": "completed"})
    world.reconciler.round()
    assert [world.show(i)["state"] for i in (two, three)] == ["QUEUED", "RUNNING"]


def test_of_two_replicas_one_acts(world: Any, context: Any, clock: Clock) -> None:
    world.reconciler.round()
    one = world.submit()
    other = Reconciler(context, clock, clock.monotonic)
    other.round()
    assert world.show(one)["state"] == "QUEUED"
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"
    assert len(world.launcher.jobs) == 1


def test_a_log_that_cannot_be_read_and_a_job_that_cannot_be_stopped_block_nobody(
    world: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    waiting = world.submit(resources={"gpus_per_trial": 0})

    monkeypatch.setattr(world.launcher, "logs", refuse)
    monkeypatch.setattr(world.launcher, "stop", refuse)
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    clock.pass_s(10)
    world.reconciler.round()
    assert "the driver ended (FAILED) without a last word" in world.show(one)["reason"]
    assert world.show(waiting)["state"] == "RUNNING"


def test_a_driver_that_cannot_be_checked_blocks_no_other(
    world: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.started(), world.started()
    for experiment in (one, two):
        world.beat(experiment, {"phase": "searching"})
    status = world.launcher.status

    def refuse_one(attempt_id: str) -> JobStatus:
        if one in attempt_id:
            raise RayUnreachable("500 Internal Server Error")
        found: JobStatus = status(attempt_id)
        return found

    monkeypatch.setattr(world.launcher, "status", refuse_one)
    world.launcher.jobs[f"exp-{two}-a1"] = JobStatus.FAILED
    clock.pass_s(10)
    world.reconciler.round()
    assert world.show(one)["state"] == "RUNNING"
    assert "the driver ended (FAILED)" in world.show(two)["reason"]
