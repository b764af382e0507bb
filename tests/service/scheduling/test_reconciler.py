"""The reconciler against a cluster in memory and a clock that is moved by hand: what should run, runs."""

from __future__ import annotations

import errno
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.folder import FolderArtifacts
from service.adapters.launcher import ClusterUnreachableError, JobStatus
from service.context import AppContext
from service.domain import attempts, experiments
from service.domain.cluster import Cluster, Node
from service.domain.retry_policy import Replacement
from service.settings import Settings
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S, reconcile_for, refuse
from tests.support.world import World

pytestmark = pytest.mark.stores


def test_a_driver_is_launched_with_its_configuration(world: World, settings: Settings) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 4})
    launch = world.launcher.launches[f"exp-{one}-a1"]
    assert (launch.attempt, launch.attempt_id, launch.slots) == (1, f"exp-{one}-a1", 4)
    assert launch.storage == f"{settings.storage_root}/{one}"
    assert launch.service_url == settings.service_url
    written = ExperimentFolder(Path(launch.storage))
    assert ExperimentSpec.model_validate_json(written.spec.read_text()).name == "x"
    assert LaunchConfig.model_validate_json(written.launch_config(1).read_text()) == launch
    world.reconciler.reconcile_once()
    assert list(world.launcher.jobs) == [launch.attempt_id]


def test_nothing_changes_while_ray_is_unreachable(world: World, clock: Clock) -> None:
    running = world.started()
    world.beat(running, {"phase": "searching"})
    world.launcher.unreachable = True
    waiting = world.submit()
    clock.sleep(3600)
    world.reconciler.reconcile_once()
    assert (world.show(running)["state"], world.show(waiting)["state"]) == ("RUNNING", "QUEUED")
    assert [world.show(one)["reason"] for one in (running, waiting)] == ["", "waiting for Ray: connection refused"]
    listed = world.client.get("/api/v1/experiments").json()["items"]
    assert {one["id"]: one["reason"] for one in listed} == {
        one: world.show(one)["reason"] for one in (running, waiting)
    }
    world.launcher.unreachable = False
    world.reconciler.reconcile_once()
    assert world.show(waiting)["reason"] == "", "it waits for nothing that this round gave it"
    assert world.show(waiting)["spec"]["resources"]["gpus_per_trial"] == 1, "decided late, as the cluster was unknown"


def test_slots_are_reassigned_and_reported_to_the_drivers(world: World) -> None:
    one = world.started()
    assert world.beat(one, {"phase": "searching"}).json()["slots"] == 10
    two = world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    assert world.beat(one, {"phase": "searching"}).json()["slots"] == 5
    assert world.show(two)["slots"] == 5
    world.beat(one, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert world.beat(two, {"phase": "searching"}).json()["slots"] == 10


def test_an_experiment_gets_no_more_slots_than_it_has_trials_left(world: World) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 4})
    world.beat(one, {"phase": "searching", "trials": [world.line(n, state="COMPLETED") for n in range(3)]})
    world.reconciler.reconcile_once()
    assert world.show(one)["slots"] == 1
    world.beat(one, {"phase": "finalizing", "trials": [world.line(3, state="COMPLETED")]})
    world.reconciler.reconcile_once()
    assert world.show(one)["slots"] == 1, "the finalist needs one"


def test_first_come_first_served_when_the_cluster_is_full(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    two, three = world.submit(), world.submit()
    world.reconciler.reconcile_once()
    assert [world.show(i)["state"] for i in (two, three)] == ["QUEUED", "QUEUED"]
    assert world.show(two)["reason"] == "waiting for free slots"
    world.beat(one, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert [world.show(i)["state"] for i in (two, three)] == ["RUNNING", "QUEUED"]
    assert world.show(two)["reason"] == ""


def test_experiments_queue_while_the_cluster_has_no_node(world: World) -> None:
    nodes, world.launcher.nodes = world.launcher.nodes, Cluster(())
    world.reconciler.reconcile_once()
    one = world.submit()
    world.reconciler.reconcile_once()
    assert world.show(one)["reason"] == "waiting for a node: the cluster has none"
    world.launcher.nodes = nodes
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["spec"]["resources"]["gpus_per_trial"]) == ("RUNNING", 1)


def test_only_the_number_of_gpus_is_added_to_a_stored_spec(world: World, context: AppContext) -> None:
    nodes, world.launcher.nodes = world.launcher.nodes, Cluster(())
    world.reconciler.reconcile_once()
    one = world.submit()
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        document = {"version": 1, "name": "x", "asha": {"max_t": 4}, "resources": {"gpus_per_trial": None}}
        row.spec, row.spec_version = document, 1
    world.launcher.nodes = nodes
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    with context.database.read() as session:
        row = session.get_one(Experiment, one)
        assert (row.spec, row.spec_version) == (document | {"resources": {"gpus_per_trial": 1}}, 1)


def test_an_experiment_that_fits_no_node_waits_and_reports_why(world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 8})
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert view["state"] == "QUEUED"
    assert "waiting for a larger node: resources.gpus_per_trial: must be at most 2" in view["reason"]


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
    status = world.launcher.status

    def speak(attempt_id: str) -> JobStatus:
        world.beat(one, {"phase": "searching"})
        found: JobStatus = status(attempt_id)
        return found

    monkeypatch.setattr(world.launcher, "status", speak)
    reconcile_for(world.reconciler, clock, 2 * STEP_S)
    assert world.show(one)["state"] == "CANCELED", "a word of a driver that was to stop is no excuse"
    assert world.launcher.stopped == [f"exp-{one}-a1"]


def test_a_driver_that_died_after_a_cancel_ends_its_experiment_as_canceled(world: World, clock: Clock) -> None:
    one = world.started()
    world.cancel(one)
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    reconcile_for(world.reconciler, clock, 10)
    assert world.show(one)["state"] == "CANCELED"


def test_a_failed_launch_does_not_count_as_a_lost_attempt(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.submit()
    with monkeypatch.context() as broken:
        broken.setattr(world.launcher, "launch", refuse)
        for wait_s in (5, 10, 20, 40, 80, 160, 300, 300):
            world.reconciler.reconcile_once()
            view = world.show(one)
            assert view["state"] == "QUEUED"
            assert "the driver could not be started: 500 Internal Server Error" in view["reason"]
            clock.sleep(wait_s - 1)
            world.reconciler.reconcile_once()
            assert len(world.show(one)["attempts"]) == len(view["attempts"]), "it did not wait"
            clock.sleep(2)
    world.reconciler.reconcile_once()
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 9)
    world.launcher.jobs[f"exp-{one}-a9"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    assert "attempt 9 was lost, another follows in 5 s" in world.show(one)["reason"], "a failure was counted"


def test_a_heartbeat_before_a_failed_launch_answer_proves_that_the_driver_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of Ray was lost, not the request."""
    one = world.submit()
    launch = world.launcher.launch

    def launch_without_an_answer(order: Any) -> None:
        launch(order)
        world.beat(one, {"phase": "canceled", "reason": "SIGTERM"})
        raise ClusterUnreachableError("timed out")

    with monkeypatch.context() as broken:
        broken.setattr(world.launcher, "launch", launch_without_an_answer)
        world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], [attempt["state"] for attempt in view["attempts"]]) == ("QUEUED", ["ENDED"])
    assert "the driver stopped without a request (SIGTERM)" in view["reason"]


def test_a_cancel_takes_effect_although_the_launch_found_a_full_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.submit()

    def fill(*_: Any, **__: Any) -> None:
        assert world.cancel(one).json()["state"] == "STOPPING"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderArtifacts, "write", fill)
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "CANCELED"


def test_a_resumed_experiment_is_launched_without_a_retry_delay(world: World) -> None:
    one = world.started()
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    assert "another follows in" in world.show(one)["reason"]
    world.post(one, "pause")
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 2)


def test_a_running_experiment_that_cannot_be_read_keeps_its_slots(world: World, context: AppContext) -> None:
    one = world.started()
    slots = world.show(one)["slots"]
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.controls = {**row.controls, "what": 1}
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["slots"]) == ("RUNNING", slots)
    assert slots > 0


def failing(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Let every write to the storage of an experiment raise this error."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FolderArtifacts, "write", fail)


def test_a_full_disk_pauses_the_experiment_and_is_named(
    world: World, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.submit()
    with monkeypatch.context() as full_disk:
        failing(full_disk, OSError(errno.ENOSPC, "No space left on device"))
        world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["slots"]) == ("PAUSED", 0)
    found = re.fullmatch(
        r"paused: no space left on RUNG_STORAGE_ROOT (\S+) \((\d+) bytes free\); free some space, then resume",
        view["reason"],
    )
    assert found, view["reason"]
    assert found[1] == str(settings.storage_root)
    assert int(found[2]) > 0
    clock.sleep(3600)
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "PAUSED", "nothing resumes before a person has freed space"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_storage_pauses_the_experiment_and_is_named(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing(monkeypatch, OSError(number, "not here", "/shared/exp-1\udc80/spec.json"))
    one = world.submit()
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["attempt"]) == ("PAUSED", 1)
    assert f"paused: RUNG_STORAGE_ROOT {settings.storage_root} is not writable" in view["reason"]
    assert "/shared/exp-1" in view["reason"]


def test_an_unreadable_experiment_does_not_block_others(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    first = world.started()
    world.beat(first, {"phase": "searching", "trials": [world.line(0)]})
    bad = [world.submit() for _ in range(3)]
    good = world.submit()
    for experiment, spoiled in zip(bad, ({"num_samples": 0}, {}, {"num_samples": 3, "what": 1}), strict=True):
        with context.database.write() as session:
            session.get_one(Experiment, experiment).controls = {"priority": 0, "num_samples": 3, **spoiled}
    with context.database.write() as session:
        session.get_one(Experiment, bad[1]).spec = {"resources": {"cpus_per_trial": "many"}}
    world.beat(first, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert world.show(good)["state"] == "RUNNING"
    for experiment in bad:
        view = world.show(experiment)
        assert view["state"] == "ERROR"
        assert "this version of Rung cannot read its resources or controls" in view["reason"]


def test_an_error_in_one_launch_does_not_block_others(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.submit(resources={"gpus_per_trial": 0}), world.submit(resources={"gpus_per_trial": 0})
    launch_all = world.launcher.launch

    def fail_one(launch: LaunchConfig) -> None:
        if launch.experiment_id == one:
            raise ValueError("what nobody thought of")
        launch_all(launch)

    monkeypatch.setattr(world.launcher, "launch", fail_one)
    world.reconciler.reconcile_once()
    assert f"exp-{two}-a1" in world.launcher.jobs
    reconcile_for(world.reconciler, clock, 80)
    assert world.show(one)["state"] == "QUEUED"


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
    assert reason.endswith("\ufffd the last line")
    assert len(reason) < 2_500


def test_a_higher_priority_is_launched_first(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    two, three = world.submit(), world.submit(priority=5)
    world.beat(one, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert [world.show(i)["state"] for i in (two, three)] == ["QUEUED", "RUNNING"]


def test_an_unreadable_log_and_a_job_that_cannot_be_stopped_do_not_block_others(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching"})
    waiting = world.submit(resources={"gpus_per_trial": 0})

    monkeypatch.setattr(world.launcher, "logs", refuse)
    monkeypatch.setattr(world.launcher, "stop", refuse)
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    reconcile_for(world.reconciler, clock, 10)
    assert "the driver ended (FAILED) without a final heartbeat" in world.show(one)["reason"]
    assert world.show(waiting)["state"] == "RUNNING"


def test_a_driver_that_cannot_be_checked_does_not_block_others(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.started(), world.started()
    for experiment in (one, two):
        world.beat(experiment, {"phase": "searching"})
    status = world.launcher.status

    def refuse_one(attempt_id: str) -> JobStatus:
        if one in attempt_id:
            raise ClusterUnreachableError("500 Internal Server Error")
        found: JobStatus = status(attempt_id)
        return found

    monkeypatch.setattr(world.launcher, "status", refuse_one)
    world.launcher.jobs[f"exp-{two}-a1"] = JobStatus.FAILED
    reconcile_for(world.reconciler, clock, 10)
    assert world.show(one)["state"] == "RUNNING"
    assert "the driver ended (FAILED)" in world.show(two)["reason"]
