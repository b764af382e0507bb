"""Runs against MLflow's own SQLite store: one of the experiment, one of each trial, and none besides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import LaunchConfig
from workers.tracking.connection import Connection
from workers.tracking.cursor import JournalCursor
from workers.tracking.runs import Runs

Open = Callable[..., Runs]


@pytest.fixture
def runs(client: MlflowClient, launch: Callable[..., LaunchConfig], experiment: Callable[..., ExperimentSpec]) -> Open:
    """`runs(place)`: those of an attempt that had one before it, or of a first one where not `continued`."""
    told = launch(mlflow_tracking_uri=client.tracking_uri)
    return lambda place, continued=True: Runs(Connection(told), told, experiment(), place, continued)


def active(client: MlflowClient, place: JournalCursor) -> set[str]:
    return {run.info.run_id for run in client.search_runs([str(place.experiment)])}


def test_what_was_created_is_found_again(client: MlflowClient, runs: Open) -> None:
    first, second = JournalCursor(), JournalCursor()
    for place in (first, second):
        for number in range(3):
            runs(place).of_trial(number, {}, 1000 + number)
    assert first == second
    assert active(client, first) == {str(first.parent), *first.runs.values()}


def test_runs_of_lost_creations_are_deleted(client: MlflowClient, runs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were on their way when a process died, and arrived when the next had made its own."""
    monkeypatch.setattr("workers.tracking.runs.PAGE", 2)
    place = JournalCursor()
    one = runs(place)
    kept = {one.of_trial(number, {}, 1000) for number in range(3)} | {one.parent()}
    home = str(place.experiment)
    alike = {"mlflow.parentRunId": one.parent(), "rung.experiment_id": "abc", "rung.trial_id": "1"}
    client.create_run(home, tags=alike, run_name="trial-0001")
    client.create_run(home, tags={"rung.experiment_id": "abc", "rung.role": "experiment"}, run_name="tested")
    other = client.create_run(home, tags={"rung.experiment_id": "xyz", "rung.role": "experiment"})
    one.prune(range(3))
    assert active(client, place) == kept | {other.info.run_id}


def test_what_nothing_can_have_left_is_not_looked_for(client: MlflowClient, runs: Open) -> None:
    """Not by a first attempt to which every answer came: MLflow would read all that the experiment has told it."""
    place = JournalCursor()
    first = runs(place, continued=False)
    kept = {first.of_trial(0, {}, 1000), first.parent()}
    stray = client.create_run(str(place.experiment), tags={"rung.experiment_id": "abc", "rung.trial_id": "0"})
    first.prune({0})
    assert active(client, place) == kept | {stray.info.run_id}
    first.doubt(100)
    first.prune({0})
    assert active(client, place) == kept


def test_a_run_of_no_trial_is_deleted(client: MlflowClient, runs: Open) -> None:
    place = JournalCursor()
    one = runs(place)
    kept = {one.of_trial(number, {}, 1000) for number in range(2)} | {one.parent()}
    one.of_trial(2, {}, 1000)
    one.prune({0, 1})
    assert active(client, place) == kept
    assert set(place.runs) == {0, 1}


def test_a_run_that_is_taken_up_again_belongs_to_the_parent_that_is_left(client: MlflowClient, runs: Open) -> None:
    lost, place = JournalCursor(), JournalCursor()
    run = runs(lost).of_trial(0, {}, 1000)
    client.delete_run(str(lost.parent))
    client.set_terminated(run, "KILLED")
    assert runs(place).of_trial(0, {}, 1000) == run
    found = client.get_run(run)
    assert (found.info.status, found.data.tags["mlflow.parentRunId"]) == ("RUNNING", place.parent)
    assert place.parent != lost.parent


def test_a_deleted_experiment_is_taken_up_again(client: MlflowClient, runs: Open) -> None:
    client.delete_experiment(client.get_experiment_by_name("driver").experiment_id)
    place = JournalCursor()
    assert client.get_run(runs(place).parent()).info.experiment_id == place.experiment
    assert client.get_experiment(str(place.experiment)).lifecycle_stage == "active"
