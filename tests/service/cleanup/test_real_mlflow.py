"""Deletion against MLflow's own server: what a stranger has tagged stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from service.cleanup.worker import CleanupWorker
from tests.support.mlflow_server import record_runs
from tests.support.real_mlflow import running_mlflow
from tests.support.world import World


@pytest.fixture
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In place of the small server: MLflow's own."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


class Owner:
    """Someone's experiment in MLflow, as a driver leaves it: a parent run with artifacts and a version, and a trial."""

    def __init__(self, client: MlflowClient, home: str, experiment_id: str, folder: Path) -> None:
        self._client, self._home = client, home
        tags = {"rung.experiment_id": experiment_id}
        self.parent = client.create_run(home, tags=tags | {"rung.role": "experiment"}).info.run_id
        self.trial = client.create_run(home, tags=tags | {"rung.trial_id": "0"}).info.run_id
        client.log_artifacts(self.parent, str(folder), "pictures")
        model = client.create_logged_model(home, name="winner", source_run_id=self.parent, tags=tags)
        self.model = model.model_id
        client.log_model_artifacts(self.model, str(folder))
        client.finalize_logged_model(self.model, "READY")
        source = f"models:/{self.model}"
        self.version = client.create_model_version(
            "default.x", source, self.parent, tags=tags, model_id=self.model
        ).version

    def left(self) -> set[str]:
        """What MLflow still has of it."""
        runs = {"parent": self.parent, "trial": self.trial}
        active = {run.info.run_id for run in self._client.search_runs([self._home])}
        left = {name for name, run_id in runs.items() if run_id in active}
        left |= {"artifacts"} if self._client.list_artifacts(self.parent) else set()
        models = self._client.search_logged_models([self._home])
        left |= {"model"} if self.model in {model.model_id for model in models} else set()
        versions = self._client.search_model_versions("name = 'default.x'")
        return left | ({"version"} if self.version in {version.version for version in versions} else set())


def test_a_victim_keeps_what_a_stranger_has_tagged_with_his_own_experiment(
    world: World, keeper: CleanupWorker, uri: str, tmp_path: Path
) -> None:
    client = MlflowClient(uri)
    home = client.create_experiment("default")
    client.create_registered_model("default.x")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    deleted = world.started()
    stranger, victim = (Owner(client, home, one, folder) for one in (deleted, "victims1"))
    everything = {"parent", "trial", "artifacts", "model", "version"}
    assert stranger.left() == victim.left() == everything
    for run in (victim.parent, victim.trial):
        client.set_tag(run, "rung.experiment_id", deleted)
    client.set_model_version_tag("default.x", victim.version, "rung.experiment_id", deleted)
    client.set_logged_model_tags(victim.model, {"rung.experiment_id": deleted})
    record_runs(world, deleted, stranger.parent, {0: stranger.trial}, home)
    world.beat(deleted, {"phase": "failed", "mlflow_experiment_id": home, "mlflow_run_id": stranger.parent})
    keeper.run_once()
    assert client.get_run(stranger.trial).info.status == "KILLED"
    assert {client.get_run(run).info.status for run in (victim.parent, victim.trial)} == {"RUNNING"}
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{deleted}")
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{deleted}").status_code == 404
    assert (stranger.left(), victim.left()) == (set(), everything)
