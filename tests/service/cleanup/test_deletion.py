"""Deletions are complete, keep other experiments, and none of them blocks another."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from sqlalchemy import select

from search_spaces.storage.folder import FolderStorage
from service.adapters.launcher import JobStatus
from service.cleanup.worker import BATCH_SIZE, CleanupWorker
from service.context import AppContext
from service.settings import Settings
from service.store.models import Base
from tests.support.clock import Clock
from tests.support.mlflow_server import Mlflow, failed_experiment, record_runs
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)


def test_a_deletion_is_complete_and_leaves_other_experiments(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, context: AppContext, settings: Settings, clock: Clock
) -> None:
    one, other = failed_experiment(world, mlflow), world.started()
    mlflow.add("another", other, None)
    mlflow.versions = [
        {"name": "default.x", "version": "1", "run_id": "parent", "source": "models:/m-1"},
        {"name": "default.x", "version": "2", "run_id": "x", "source": "models:/m-9"},
        {"name": "in use", "version": "1", "run_id": "parent", "source": "models:/m-3"},
    ]
    mlflow.models = {"m-1": "parent", "m-2": "another", "m-3": "parent"}
    kept = {f"7/{name}" for name in ("another/artifacts/a.png", "models/m-2/MLmodel", "models/m-3/MLmodel")}
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
    assert view["reason"] == "being deleted; MLflow is unavailable; the log of the service says why"
    mlflow.unavailable = False
    clock.sleep(11)
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert sorted(path.name for path in Path(settings.storage_root).iterdir()) == sorted([".rung-storage", other])
    assert [name for name, run in mlflow.runs.items() if not run["deleted"]] == ["another"]
    assert [(version["name"], version["version"]) for version in mlflow.versions] == [
        ("default.x", "2"),
        ("in use", "1"),
    ], "of another experiment, and registered by a person"
    assert mlflow.models == {"m-2": "another", "m-3": "parent"}
    assert mlflow.artifacts == kept
    assert mlflow.experiment_tags == {("7", "mlflow.sharedViewState.key of another experiment")}
    with context.database.read() as session:
        tables = [table for table in Base.metadata.sorted_tables if table.name != "audit"]  # it outlives its objects
        assert one not in repr([session.execute(select(table)).all() for table in tables])
    assert world.show(other)["state"] == "RUNNING"


def test_runs_that_another_experiment_reported_stay(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    """Whatever the storage says: code that trains can write there."""
    one, other = failed_experiment(world, mlflow), world.started()
    for run_id, trial in (("their parent", None), ("theirs", 0)):
        mlflow.add(run_id, other, trial)
    lines = [world.line(0, mlflow_run_id="theirs")]
    answer = world.beat(
        other, {"phase": "searching", "mlflow_experiment_id": "7", "mlflow_run_id": "their parent", "trials": lines}
    )
    assert answer.status_code == 200, answer.text
    assert [t["mlflow_run_id"] for t in world.client.get(f"/api/v1/experiments/{other}/trials").json()["items"]] == [
        "theirs"
    ]
    record_runs(world, one, "their parent", {0: "theirs", 2: "untold"})
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert {name for name, run in mlflow.runs.items() if not run["deleted"]} == {"their parent", "theirs"}


def test_an_experiment_that_never_ran_is_deleted_without_mlflow(
    world: World, mlflow: Mlflow, keeper: CleanupWorker
) -> None:
    one = world.submit()
    world.cancel(one)
    world.client.delete(f"/api/v1/experiments/{one}")
    mlflow.unavailable = True
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404


def test_a_victim_keeps_a_run_that_has_the_tags_of_a_deleted_experiment(
    world: World, mlflow: Mlflow, keeper: CleanupWorker
) -> None:
    one = failed_experiment(world, mlflow)
    mlflow.add("of a victim", one, None)
    mlflow.versions = [{"name": "default.x", "version": "1", "run_id": "of a victim", "source": "models:/m-1"}]
    mlflow.models = {"m-1": "of a victim"}
    mlflow.artifacts = {"7/of a victim/artifacts/a.png", "7/models/m-1/artifacts/MLmodel"}
    before = [*mlflow.versions, *mlflow.artifacts]
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert [name for name, run in mlflow.runs.items() if not run["deleted"]] == ["of a victim"]
    assert ([*mlflow.versions, *mlflow.artifacts], mlflow.models) == (before, {"m-1": "of a victim"})


def test_runs_that_only_the_driver_recorded_are_deleted_after_an_outage(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, clock: Clock
) -> None:
    """The files go at once, because a full disk may be the reason of the outage; what names the runs goes last."""
    one = failed_experiment(world, mlflow)
    large = Path(settings.storage_root) / one / "trials" / "00000" / "last.pt"
    large.parent.mkdir(parents=True)
    large.touch()
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    mlflow.unavailable = True
    keeper.run_once()
    assert not large.exists()
    mlflow.unavailable = False
    clock.sleep(11)
    keeper.run_once()
    assert not (Path(settings.storage_root) / one).exists()
    assert mlflow.runs["untold"]["deleted"]


def test_an_experiment_whose_folder_was_replaced_by_a_link_is_deleted_and_the_link_leads_to_what_it_did(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, tmp_path: Path
) -> None:
    one = failed_experiment(world, mlflow)
    folder, moved = Path(settings.storage_root) / one, tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    before = {path: path.read_bytes() for path in moved.iterdir()}
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert not folder.is_symlink()
    assert {path: path.read_bytes() for path in moved.iterdir()} == before


@pytest.mark.parametrize("what", ["a link", "a sparse file", "deep lists"])
def test_what_a_trial_left_in_the_place_of_the_record_delays_no_deletion(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, what: str
) -> None:
    """The runs that only the record names stay; those that the driver reported are deleted."""
    one = failed_experiment(world, mlflow)
    record = Path(settings.storage_root) / one / "tracking.json"
    record.unlink()
    if what == "a link":
        record.symlink_to("/dev/zero")
    elif what == "deep lists":
        record.write_text("[" * 200_000)
    else:
        with record.open("wb") as file:
            file.truncate(2**40)
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert not (Path(settings.storage_root) / one).exists()
    assert [name for name, run in mlflow.runs.items() if not run["deleted"]] == ["untold"]


def test_an_experiment_without_recorded_runs_is_deleted_and_leaves_mlflow_as_it_is(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, caplog: pytest.LogCaptureFixture
) -> None:
    one = world.ended("failed")
    mlflow.add("perhaps", one, None)
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert (mlflow.requests, mlflow.runs["perhaps"]["deleted"]) == ([], False)
    assert "has no recorded parent run" in caplog.text


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
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = [world.submit() for _ in range(BATCH_SIZE)]
    broken = set(stuck)
    remove = FolderStorage.remove

    def removed(storage: FolderStorage) -> None:
        if storage.root.name in broken:
            raise OSError(errno.EIO, "Input/output error")
        remove(storage)

    monkeypatch.setattr(FolderStorage, "remove", removed)
    for one in stuck:
        world.cancel(one)
        world.client.delete(f"/api/v1/experiments/{one}")
    last = failed_experiment(world, mlflow)
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "RUNNING"
    assert (
        "being deleted; could not remove its files; the log of the service says why" in world.show(stuck[0])["reason"]
    )
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"
    clock.sleep(11)
    keeper.run_once()
    broken.clear()
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


def test_more_runs_than_one_request_names_are_ended_and_deleted(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.adapters.mlflow_client.RUNS_PER_REQUEST", 2)
    one = failed_experiment(world, mlflow)
    for _ in range(3):
        keeper.run_once()
    assert "RUNNING" not in {run["status"] for run in mlflow.runs.values()}
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert all(run["deleted"] for run in mlflow.runs.values())


def test_a_model_is_deleted_with_its_last_version(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    one = failed_experiment(world, mlflow)
    mlflow.versions = [
        {"name": "default.x", "version": str(number), "run_id": "parent", "source": f"models:/m-{number}"}
        for number in (1, 2)
    ]
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert mlflow.versions == []
    assert "DELETE /registered-models/delete" in mlflow.requests


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
