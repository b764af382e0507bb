"""Runs against MLflow's own SQLite store: one run of the experiment, one of each trial, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.tracking import LosingClient
from tests.support.workers import BuildLaunch, BuildSpec
from workers.tracking import repetition
from workers.tracking.connection import Connection
from workers.tracking.description import Description
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.runs import Runs

Open = Callable[..., Runs]

#: When the parent run and those of three trials began, in Unix milliseconds.
BEGAN = {None: 900, 0: 1000, 1: 1001, 2: 1002}


@pytest.fixture
def open_runs(client: MlflowClient, launch: BuildLaunch, experiment: BuildSpec) -> Open:
    """`open_runs()`: the runs of an attempt that had one before it, or of a first one if not `continued`."""
    config = launch(mlflow_tracking_uri=client.tracking_uri)

    def build(continued: bool = True) -> Runs:
        spec = experiment()
        return Runs(Connection(config), config, spec, Description(config, spec), MlflowIds(), continued)

    return build


def test_runs_are_of_the_owner_of_the_experiment(
    client: MlflowClient, launch: BuildLaunch, experiment: BuildSpec
) -> None:
    spec = experiment()
    for owner, tags, user in (("ada", {"ada"}, "ada"), ("", {None}, "unknown")):
        config = launch(mlflow_tracking_uri=client.tracking_uri, owner=owner)
        runs = Runs(Connection(config), config, spec, Description(config, spec), MlflowIds(), False)
        found = [client.get_run(run) for run in (runs.parent(), runs.of_trial(0, "trial", {}, 1000))]
        assert {run.data.tags.get("mlflow.user") for run in found} == tags
        assert {run.info.user_id for run in found} == {user}


def active(client: MlflowClient, runs: Runs) -> set[str]:
    return {run.info.run_id for run in client.search_runs([str(runs.ids().experiment)])}


def test_runs_that_were_created_before_are_found(client: MlflowClient, open_runs: Open) -> None:
    first, second = open_runs(), open_runs()
    for runs in (first, second):
        runs.parent(900)
        for number in range(3):
            runs.of_trial(number, "trial", {}, 1000 + number)
    assert first.ids() == second.ids()
    assert active(client, first) == {str(first.ids().parent), *first.ids().runs.values()}


def test_runs_of_lost_creations_are_deleted(
    client: MlflowClient, open_runs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests were on their way when a process died, and arrived after the next process had created its runs."""
    monkeypatch.setattr("workers.tracking.runs.PAGE", 2)
    runs = open_runs()
    kept = {runs.parent(900)} | {runs.of_trial(number, "trial", {}, 1000 + number) for number in range(3)}
    home = str(runs.ids().experiment)
    duplicate = {"mlflow.parentRunId": runs.parent(), "rung.experiment_id": "abc", "rung.trial_id": "1"}
    client.create_run(home, 1001, tags=duplicate, run_name="trial-0001")
    client.create_run(home, 900, tags={"rung.experiment_id": "abc", "rung.role": "experiment"}, run_name="tested")
    other = client.create_run(home, 900, tags={"rung.experiment_id": "xyz", "rung.role": "experiment"})
    runs.delete_orphans(BEGAN)
    assert active(client, runs) == kept | {other.info.run_id}


def test_a_run_that_only_has_the_tags_is_neither_used_nor_deleted(client: MlflowClient, open_runs: Open) -> None:
    """Its owner, or a stranger, set them. When it began, nobody can change."""
    home = client.get_experiment_by_name("driver").experiment_id
    tags = {"rung.experiment_id": "abc"}
    strange = {
        client.create_run(home, 5000, tags=tags | role).info.run_id
        for role in (
            {"rung.role": "experiment"},
            {"rung.trial_id": "1"},
            {"rung.trial_id": "7"},
            {"rung.trial_id": "x"},
        )
    }
    runs = open_runs()
    own = {runs.parent(900)} | {runs.of_trial(number, "trial", {}, 1000 + number) for number in range(3)}
    assert not own & strange
    runs.delete_orphans(BEGAN)
    assert active(client, runs) == own | strange
    assert {client.get_run(run).info.status for run in strange} == {"RUNNING"}


def test_orphans_are_looked_for_only_where_there_may_be_some(
    client: MlflowClient, open_runs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a first attempt that received every answer: MLflow would read all that the experiment has sent it."""
    first = open_runs(continued=False)
    kept = {first.parent(900), first.of_trial(0, "trial", {}, 1000)}
    home = str(first.ids().experiment)
    stray = client.create_run(home, 1000, tags={"rung.experiment_id": "abc", "rung.trial_id": "0"})
    first.delete_orphans(BEGAN)
    assert active(client, first) == kept | {stray.info.run_id}
    losing: Any = LosingClient(client, "create_run", 1, after=False)
    monkeypatch.setattr(repetition, "PATIENCE_S", 5.0)
    monkeypatch.setattr(first._connection, "_client", losing)
    kept.add(first.of_trial(1, "trial", {}, 1001))
    for run in first.ids().runs.values():
        client.set_terminated(run)
    first.delete_orphans(BEGAN)
    assert active(client, first) == kept


def test_the_run_of_a_trial_that_does_not_exist_is_deleted(client: MlflowClient, open_runs: Open) -> None:
    runs = open_runs()
    kept = {runs.parent(900)} | {runs.of_trial(number, "trial", {}, 1000 + number) for number in range(2)}
    runs.of_trial(2, "trial", {}, 1002)
    runs.delete_orphans({number: BEGAN[number] for number in (None, 0, 1)})
    assert active(client, runs) == kept
    assert set(runs.ids().runs) == {0, 1}


def test_the_run_of_another_experiment_is_not_deleted_as_an_orphan(client: MlflowClient, open_runs: Open) -> None:
    runs = open_runs()
    kept = {runs.parent(900)}
    other = client.create_run(str(runs.ids().experiment), 1000, tags={"rung.experiment_id": "other"}).info.run_id
    runs._runs[5] = other
    runs.delete_orphans({None: BEGAN[None]})
    assert active(client, runs) == kept | {other}
    assert runs.ids().runs == {}


def test_a_resumed_run_belongs_to_the_parent_that_exists(client: MlflowClient, open_runs: Open) -> None:
    lost, runs = open_runs(), open_runs()
    lost.parent(900)
    run = lost.of_trial(0, "trial", {}, 1000)
    client.delete_run(lost.parent())
    client.set_terminated(run, "KILLED")
    assert runs.of_trial(0, "trial", {}, 1000) == run
    found = client.get_run(run)
    assert (found.info.status, found.data.tags["mlflow.parentRunId"]) == ("RUNNING", runs.parent())
    assert runs.parent() != lost.parent()


def test_a_deleted_mlflow_experiment_is_restored(client: MlflowClient, open_runs: Open) -> None:
    client.delete_experiment(client.get_experiment_by_name("driver").experiment_id)
    runs = open_runs()
    assert client.get_run(runs.parent()).info.experiment_id == runs.ids().experiment
    assert client.get_experiment(str(runs.ids().experiment)).lifecycle_stage == "active"
