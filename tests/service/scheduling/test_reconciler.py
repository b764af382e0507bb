"""The reconciler against a cluster in memory and a clock that is moved by hand: what should run, runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig
from service.adapters.launcher import JobStatus
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.settings import Settings
from service.store.models import Experiment
from tests.support.clock import Clock
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
    assert [world.show(one)["reason"] for one in (running, waiting)] == [
        "Ray does not answer; the log of the service says why",
        "waiting for slots: Ray does not answer; the log of the service says why",
    ]
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
    waiting = world.submit(resources={"gpus_per_trial": 0})
    world.beat(one, {"phase": "delivering", "reason": "waiting for MLflow: it is unavailable"})
    world.reconciler.reconcile_once()
    assert (world.show(one)["state"], world.show(one)["slots"]) == ("RUNNING", 0)
    assert world.show(waiting)["slots"] == 10, "all that the cluster has"


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
    one = world.submit(resources={"cpus_per_trial": 256})
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert view["state"] == "QUEUED"
    assert "waiting for a larger node: resources.cpus_per_trial: must be at most 8" in view["reason"]


def test_a_resumed_experiment_is_launched_without_a_retry_delay(world: World) -> None:
    one = world.started()
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    assert "the next attempt starts in" in world.show(one)["reason"]
    world.post(one, "pause")
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert (world.show(one)["state"], world.show(one)["attempt"]) == ("RUNNING", 2)


def test_a_resumed_experiment_that_failed_tries_its_failed_trials_again(world: World) -> None:
    """Also if the first driver after that is lost; not after a driver that ended in another way."""
    one = world.started()
    assert world.launcher.launches[f"exp-{one}-a1"].failed_attempt == 0
    world.beat(one, {"phase": "failed", "reason": "no trial has a value", "trials": [world.line(0, state="ERROR")]})
    assert world.show(one)["state"] == "ERROR"
    assert world.post(one, "resume").json()["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    assert world.launcher.launches[f"exp-{one}-a2"].failed_attempt == 1
    world.launcher.jobs[f"exp-{one}-a2"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    world.post(one, "pause")
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.launcher.launches[f"exp-{one}-a3"].failed_attempt == 1
    world.beat(one, {"phase": "searching", "trials": [world.line(0, state="PENDING")]}, 3)
    assert world.show(one)["trials"] == {"PENDING": 1}
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"}, 3)
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.launcher.launches[f"exp-{one}-a4"].failed_attempt == 0


def test_a_higher_priority_is_launched_first(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    two, three = world.submit(), world.submit(priority=5)
    world.beat(one, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert [world.show(i)["state"] for i in (two, three)] == ["QUEUED", "RUNNING"]


def test_a_node_that_leaves_is_given_to_nobody_once_any_driver_knows(world: World) -> None:
    """A node that only one of them cannot use is another matter."""
    one = world.started()
    world.beat(one, {"phase": "searching", "excluded_nodes": ["l"], "leaving_nodes": ["l"]})
    other, third = world.submit(resources={"gpus_per_trial": 0}), world.submit(resources={"gpus_per_trial": 1})
    world.reconciler.reconcile_once()
    assert [world.show(i)["slots"] for i in (one, other, third)] == [1, 1, 0]
    assert world.show(third)["reason"].startswith("waiting for a node with 1 GPU")
    world.beat(one, {"phase": "searching"})
    world.reconciler.reconcile_once()
    assert sum(world.show(i)["slots"] for i in (one, other, third)) == 10
    world.beat(one, {"phase": "searching", "leaving_nodes": ["l"]})
    world.beat(one, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert sum(world.show(i)["slots"] for i in (other, third)) == 10, "the driver that knew has ended"


def test_slots_of_nodes_that_a_driver_does_not_use_go_to_others(world: World) -> None:
    """Its next attempt may use them again, and so may a driver of an earlier version, which names none."""
    one, other = world.started(), world.started()
    searching = {"phase": "searching"}

    def slots() -> list[int]:
        world.reconciler.reconcile_once()
        return [world.show(i)["slots"] for i in (one, other)]

    assert slots() == [5, 5]
    world.beat(one, searching | {"excluded_nodes": ["l"]})
    assert slots() == [2, 8]
    assert world.beat(one, searching | {"excluded_nodes": ["l"]}).json()["slots"] == 2
    world.beat(one, searching | {"excluded_nodes": ["l", "s", "gone"]})
    assert slots() == [0, 10]
    world.beat(one, searching)
    assert slots() == [5, 5]
    world.beat(one, searching | {"excluded_nodes": ["l", "s"]})
    world.post(one, "pause")
    world.beat(one, {"phase": "paused", "excluded_nodes": ["l", "s"]})
    world.post(one, "resume")
    assert slots() == [5, 5]
    assert world.show(one)["attempt"] == 2
