"""The rows of the fault table about an MLflow of which some requests fail, and about nodes that cannot be used."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import NotFoundError
from service.contract.schemas import ExperimentView
from service.stack import children
from tests.faults.experiments import TRIALS, parallel, serial, wait_for_end, wait_for_epochs
from tests.faults.flaky import FlakyProxy
from tests.faults.invariants import assert_nothing_lost, finished
from tests.faults.stand import CPUS, Stand
from tests.support.image_files import save_image
from tests.support.processes import command
from workers.nodes import own_version

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1200)]


def seconds(view: ExperimentView) -> float:
    """From the first start of an experiment to its end."""
    assert view.started_at is not None
    assert view.ended_at is not None
    return (view.ended_at - view.started_at).total_seconds()


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_an_mlflow_that_fails_some_requests(stand: Stand, undisturbed: Callable[..., str], share: float) -> None:
    like = undisturbed()
    with FlakyProxy(stand.mlflow_url, share).running() as proxy:
        stand.restart_service(MLFLOW_TRACKING_URI=proxy.url)
        try:
            submitted = stand.rung.submit(serial(f"mlflow-flaky-{share:g}"))
            wait_for_end(stand, submitted.id)
            view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, trained_again=0)
            assert view.attempt == 1
            assert proxy.failed
            took, before = seconds(view), seconds(stand.rung.get(like))
            failed = f"{proxy.failed} of {proxy.requests.total()} requests failed"
            print(f"{share:.0%}: {took:.1f} s, undisturbed {before:.1f} s, {failed}")
            assert share > 0.05 or took <= 2 * before
            stand.rung.delete(submitted.id)
            stand.wait_until(lambda: _is_gone(stand, submitted.id), "the experiment is deleted", 60)
        finally:
            stand.restart_service()
    runs = "SELECT lifecycle_stage FROM runs JOIN tags USING (run_uuid) WHERE key = 'rung.experiment_id' AND value = %s"
    assert set(stand.query("mlflow", runs, submitted.id)) == {("deleted",)}
    assert not stand.query("mlflow", "SELECT 1 FROM model_versions WHERE run_id = %s", view.mlflow_run_id)


def test_an_mlflow_that_loses_its_database(stand: Stand, undisturbed: Callable[..., str]) -> None:
    """An empty database takes its place while a driver runs, until somebody restores the old one."""
    like = undisturbed()
    submitted = stand.rung.submit(serial("mlflow-lost"))
    stand.wait_until(lambda: _known_runs(stand, submitted.id) >= 2, "MLflow has runs of two trials")
    stand.kill("mlflow")
    stand.administer("ALTER DATABASE mlflow RENAME TO lost", "CREATE DATABASE mlflow")
    stand.start("mlflow")
    try:
        expected = ", which Rung recorded; restore its database"
        stand.wait_until(lambda: expected in stand.rung.get(submitted.id).reason, f"the reason has {expected!r}")
        before = finished(stand, submitted.id)
        assert stand.rung.get(submitted.id).phase == "delivering", "training did not wait"
    finally:
        stand.kill("mlflow")
        stand.administer("DROP DATABASE mlflow", "ALTER DATABASE lost RENAME TO mlflow")
        stand.start("mlflow")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=0)
    assert view.attempt == 1


def _known_runs(stand: Stand, experiment_id: str) -> int:
    return sum(trial.mlflow_run_id is not None for trial in stand.rung.trials(experiment_id))


def _is_gone(stand: Stand, experiment_id: str) -> bool:
    try:
        stand.rung.get(experiment_id)
    except NotFoundError:
        return True
    return False


@pytest.fixture
def _separate_mounts() -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process cannot have mounts of its own here")


@pytest.mark.usefixtures("_separate_mounts")
@pytest.mark.parametrize("problem", ["storage", "version", "data"])
def test_a_node_that_cannot_be_used(stand: Stand, problem: str) -> None:
    """It has more cores than the others: without the check, most trials would be placed there."""
    pictures = stand.home / "pictures"  # the stand's home is the data root
    hidden = {"storage": stand.storages[0], "data": pictures}.get(problem)
    paths: tuple[Path, ...] = ()
    changes: dict[str, Any] = {}
    if problem == "version":
        metadata = stand.folder / "other" / "rung-0.0.1.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rung\nVersion: 0.0.1\n")
        paths = (metadata.parent,)
    if problem == "data":
        for index in range(600):
            color = (index % 200, 255 * (index % 2), 0)
            save_image(pictures / ("green" if index % 2 else "red") / f"{index}.png", color)
        data = {"name": "image_folder", "path": pictures.name, "size": 16}
        changes = {"dataset": data, "max_epochs": 12, "early_stopping": "none"}  # until w2 has started a trial
    with stand.node("w2", CPUS, hidden=hidden, paths=paths):
        submitted = stand.rung.submit(
            parallel(f"node-{problem}", resources={"cpus_per_trial": CPUS // 2, "max_concurrent_trials": 4}, **changes)
        )
        expected = {
            "storage": f"node w2 does not see RUNG_STORAGE_ROOT {hidden}: ",
            "version": f"node w2 has Rung 0.0.1, but the experiment runs with {own_version()}: ",
            "data": f"node w2 cannot load the data set: image_folder: {hidden} is empty; ",
        }[problem]
        stand.wait_until(lambda: expected in stand.rung.get(submitted.id).reason, f"the reason has {expected!r}")
        stand.wait_until(lambda: stand.rung.get(submitted.id).slots == 2, "it has no slots of w2 any more")
        wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, trained_again=0)
    assert view.attempt == 1
    assert {trial.restarts for trial in stand.rung.trials(view.id)} == {0}


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """No file in the folder can be opened for writing; those that are open can still be written."""
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("a folder cannot be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_storage_that_is_read_only_for_a_time(stand: Stand) -> None:
    """The only node, the driver and the service see it. The experiment waits for a person, and loses no trial."""
    submitted = stand.rung.submit(parallel("storage-read-only"))
    wait_for_epochs(stand, submitted.id, 3)
    with read_only(stand.storages[0]):
        view = wait_for_end(stand, submitted.id)
    assert view.state == "PAUSED", (view.state, view.reason)
    assert "RUNG_STORAGE_ROOT" in view.reason
    before = finished(stand, submitted.id)
    stand.rung.resume(submitted.id)
    stand.wait_until(lambda: stand.rung.get(submitted.id).state != "PAUSED", "the experiment resumes")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, before=before, trained_again=2)
    assert {trial.restarts for trial in stand.rung.trials(view.id)} == {0}


@pytest.mark.usefixtures("_separate_mounts")
def test_a_node_that_loses_the_storage(stand: Stand) -> None:
    """While trials run there: they continue on another node after their last epoch."""
    with stand.node("w2", CPUS) as node:
        submitted = stand.rung.submit(
            parallel(
                "storage-lost",
                max_epochs=12,
                early_stopping="none",
                resources={"cpus_per_trial": CPUS // 2, "max_concurrent_trials": 4},
            )
        )

        def trains_there() -> bool:
            found = [pid for pid in children.descendants(node) if "ray::TrialWorker" in command(pid)]
            return bool(found) and sum(trial.epoch for trial in stand.rung.trials(submitted.id)) >= 8

        stand.wait_until(trains_there, "trials run on both nodes", 240)
        before = finished(stand, submitted.id)
        hide = ["nsenter", f"--mount=/proc/{node}/ns/mnt", "mount", "-t", "tmpfs", "none", str(stand.storages[0])]
        subprocess.run(hide, check=True)
        expected = f"node w2 does not see RUNG_STORAGE_ROOT {stand.storages[0]}: "
        stand.wait_until(lambda: expected in stand.rung.get(submitted.id).reason, f"the reason has {expected!r}")
        wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, before=before, trained_again=4)
    assert view.attempt == 1
    assert {trial.restarts for trial in stand.rung.trials(view.id)} == {0}
