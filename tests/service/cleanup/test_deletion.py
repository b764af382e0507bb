"""Deletions are complete, keep other experiments, and none of them blocks another."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from service.adapters.launcher import JobStatus
from service.cleanup.worker import BATCH_SIZE, CleanupWorker
from service.context import AppContext
from service.settings import Settings
from service.store.models import Base
from tests.support.clock import Clock
from tests.support.mlflow_server import Mlflow, failed_experiment
from tests.support.world import World

pytestmark = pytest.mark.stores


def test_a_deletion_is_complete_and_leaves_other_experiments(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, context: AppContext, settings: Settings, clock: Clock
) -> None:
    one, other = failed_experiment(world, mlflow), world.started()
    mlflow.add("another", other, None)
    mlflow.versions = [
        {"name": name, "version": version, "run_id": run_id}
        for name, version, run_id in (("m", "1", "parent"), ("m", "2", "x"), ("single", "1", "parent"))
    ]
    mlflow.models = {"m-1": "parent", "m-2": "another"}
    kept = {"7/another/artifacts/a.png", "7/models/m-2/artifacts/MLmodel"}
    mlflow.artifacts = {*kept, "7/parent/artifacts/pictures/a.png", "7/models/m-1/artifacts/MLmodel"}
    for folder in (one, other):
        (Path(settings.storage_root) / folder / "trials" / "00000").mkdir(parents=True)
    mlflow.unavailable = True
    assert world.client.delete(f"/api/v1/experiments/{one}").status_code in {200, 202}
    job = f"exp-{one}-a{world.show(one)['attempt']}"
    world.launcher.jobs[job] = JobStatus.RUNNING  # it draws its pictures
    keeper.run_once()
    assert world.launcher.stopped[-1] == job
    assert (Path(settings.storage_root) / one).exists()
    world.launcher.jobs[job] = JobStatus.SUCCEEDED
    clock.sleep(11)
    keeper.run_once()
    view = world.show(one)
    assert view["state"] == "DELETING"
    assert "being deleted; MLflow at" in view["reason"]
    assert "answers 503" in view["reason"]
    mlflow.unavailable = False
    clock.sleep(11)
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert [path.name for path in Path(settings.storage_root).iterdir()] == [other]
    assert [name for name, run in mlflow.runs.items() if not run["deleted"]] == ["another"]
    assert (mlflow.versions, mlflow.models) == ([{"name": "m", "version": "2", "run_id": "x"}], {"m-2": "another"})
    assert "DELETE /registered-models/delete" in mlflow.requests, "of the one that would be empty"
    assert mlflow.artifacts == kept
    with context.database.read() as session:
        assert one not in repr([session.execute(select(table)).all() for table in Base.metadata.sorted_tables])
    assert world.show(other)["state"] == "RUNNING"


def test_an_experiment_that_never_ran_is_deleted_without_mlflow(
    world: World, mlflow: Mlflow, keeper: CleanupWorker
) -> None:
    one = world.submit()
    world.cancel(one)
    world.client.delete(f"/api/v1/experiments/{one}")
    mlflow.unavailable = True
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404


def test_artifacts_that_mlflow_does_not_store_itself_are_kept(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, caplog: pytest.LogCaptureFixture
) -> None:
    one = failed_experiment(world, mlflow)
    mlflow.runs["parent"]["artifact_uri"] = "s3://bucket/7/parent/artifacts"
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    with caplog.at_level("INFO", "service.adapters.mlflow_client"):
        keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert "keeping the files at s3://bucket/7/parent/artifacts" in caplog.text
    assert not [request for request in mlflow.requests if "artifacts" in request]


def test_a_full_batch_of_failing_deletions_does_not_block_others(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, clock: Clock
) -> None:
    Path(settings.storage_root).mkdir(parents=True)
    stuck = [world.submit() for _ in range(BATCH_SIZE)]
    for one in stuck:
        (Path(settings.storage_root) / one).touch()  # no folder: it cannot be removed as one
        world.cancel(one)
        world.client.delete(f"/api/v1/experiments/{one}")
    last = failed_experiment(world, mlflow)
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "RUNNING"
    assert "being deleted; could not remove its files" in world.show(stuck[0])["reason"]
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"
    clock.sleep(11)
    keeper.run_once()
    for one in stuck:
        (Path(settings.storage_root) / one).unlink()
    clock.sleep(11)
    keeper.run_once()
    assert world.show(stuck[0])["state"] == "DELETING", "the second delay is twice the first"
    clock.sleep(10)
    keeper.run_once()
    assert [item["id"] for item in world.client.get("/api/v1/experiments").json()["items"]] == [last]


def test_experiments_without_runs_are_handled_while_mlflow_is_unavailable(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cleanup.worker.BATCH_SIZE", 1)
    failed_experiment(world, mlflow)
    one = world.submit()
    world.cancel(one)
    world.client.delete(f"/api/v1/experiments/{one}")
    mlflow.unavailable = True
    keeper.run_once()
    asked = len(mlflow.requests)
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert len(mlflow.requests) == asked


def test_experiments_without_an_end_time_are_deleted_first_on_every_database(
    world: World, keeper: CleanupWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cleanup.worker.BATCH_SIZE", 1)
    ended, paused = world.submit(), world.submit()
    world.cancel(ended)
    world.post(paused, "pause")
    for one in (ended, paused):
        world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert [item["id"] for item in world.client.get("/api/v1/experiments").json()["items"]] == [ended]


def test_more_runs_than_a_page_are_ended_and_deleted(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.adapters.mlflow_client.RUNS_PER_PAGE", 2)
    one = failed_experiment(world, mlflow)
    for _ in range(3):
        keeper.run_once()
    assert "RUNNING" not in {run["status"] for run in mlflow.runs.values()}
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert all(run["deleted"] for run in mlflow.runs.values())


def test_model_names_with_quotes_are_deleted_correctly(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    one = failed_experiment(world, mlflow)
    mlflow.versions = [
        {"name": name, "version": version, "run_id": run_id}
        for name, version, run_id in (
            ("bob's digits", "1", "parent"),
            ("bob's digits", "2", "x"),
            ("eve's digits", "1", "parent"),
            ("eve_s digits", "2", "x"),
        )
    ]
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    left = [(version["name"], version["version"]) for version in mlflow.versions]
    assert left == [("bob's digits", "2"), ("eve_s digits", "2")]
    assert mlflow.requests.count("DELETE /registered-models/delete") == 1


def test_a_deletion_waits_for_an_unreachable_ray_up_to_the_stop_grace_period(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, clock: Clock
) -> None:
    one = failed_experiment(world, mlflow)
    folder = Path(settings.storage_root) / one
    (folder / "pictures").mkdir(parents=True)
    world.client.delete(f"/api/v1/experiments/{one}")
    world.launcher.unreachable = True
    keeper.run_once()
    clock.sleep(settings.stop_grace_s)
    keeper.run_once()
    assert folder.exists()
    assert world.show(one)["state"] == "DELETING"
    clock.sleep(21)
    keeper.run_once()
    assert not folder.exists()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
