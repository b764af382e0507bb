"""Drivers that cannot be launched, and experiments that cannot be read: they wait or pause, and block no others."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import UNUSABLE_ERRNOS
from search_spaces.storage.folder import FolderArtifacts
from service.adapters.launcher import ClusterUnreachableError, JobStatus
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.settings import Settings
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.reconciling import reconcile_for, refuse
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)


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
            assert "the driver could not be started; the log of the service says why" in view["reason"]
            clock.sleep(wait_s - 1)
            world.reconciler.reconcile_once()
            assert len(world.show(one)["attempts"]) == len(view["attempts"]), "it did not wait"
            clock.sleep(2)
    world.reconciler.reconcile_once()
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 9)
    world.launcher.jobs[f"exp-{one}-a9"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    assert "attempt 9 was lost; the next attempt starts in 5 s" in world.show(one)["reason"], "a failure was counted"


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
    assert "the driver stopped: SIGTERM" in view["reason"]


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


@pytest.mark.parametrize("name", ["marker", "spec.json", "launch-a1.json"])
def test_a_folder_in_the_place_of_a_file_pauses_the_experiment(world: World, settings: Settings, name: str) -> None:
    one = world.submit()
    misplaced = Path(settings.storage_root) / one / name
    misplaced.mkdir(parents=True)
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["attempt"]) == ("PAUSED", 1)
    assert view["reason"].startswith("paused: something else is in the place of a file: ")
    assert str(misplaced) in view["reason"]
    misplaced.rmdir()
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"


@pytest.mark.parametrize("number", sorted(UNUSABLE_ERRNOS))
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
