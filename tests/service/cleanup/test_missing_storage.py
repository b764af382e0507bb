"""While the storage is missing or another one, nothing is started or deleted; the first one is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import delete, select

from search_spaces.storage.base import open_root
from service.adapters.storage_identity import StorageIdentity, StorageLostError
from service.cleanup.worker import CleanupWorker
from service.context import AppContext
from service.settings import Settings
from service.store.models import Storage
from tests.support.clock import Clock
from tests.support.mlflow_server import Mlflow, failed_experiment
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

NOT_READY = "RUNG_STORAGE_ROOT cannot be read, or is not the storage of this database; the log of the service says why"


@pytest.fixture
def root(settings: Settings) -> Path:
    return Path(settings.storage_root)


def take_away(root: Path, instead: str) -> Path:
    """Move the root, as if it were not mounted, and put something in its place. Returns where it is."""
    away = root.rename(root.with_name("away"))
    if instead != "nothing":
        root.mkdir()
    if instead == "another storage":
        open_root(str(root)).identify("another")
    return away


def bring_back(root: Path, away: Path) -> None:
    if root.exists():
        root.rename(root.with_name("not ours"))
    away.rename(root)


INSTEAD = ["nothing", "an empty folder", "another storage"]


@pytest.mark.parametrize("instead", INSTEAD)
def test_nothing_starts_without_the_storage(world: World, root: Path, instead: str) -> None:
    assert world.client.get("/readyz").json()["storage"]["ok"]
    away = take_away(root, instead)
    before = sorted(root.rglob("*"))
    one = world.submit()
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert view["state"] == "PAUSED"
    assert view["reason"].startswith(f"paused: RUNG_STORAGE_ROOT {root} ")
    assert view["reason"].endswith(f"to {root}/.rung-storage, then resume")
    assert world.launcher.launches == {}
    assert sorted(root.rglob("*")) == before
    assert root.exists() == (instead != "nothing")
    ready = world.client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True), "specs are accepted"
    assert (ready.json()["storage"]["ok"], ready.json()["storage"]["detail"]) == (False, NOT_READY)
    bring_back(root, away)
    assert world.client.get("/readyz").json()["storage"]["ok"]
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert (root / one / "spec.json").exists()


@pytest.mark.parametrize("instead", INSTEAD)
def test_nothing_is_deleted_without_the_storage(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock, root: Path, instead: str
) -> None:
    one = failed_experiment(world, mlflow)
    away = take_away(root, instead)
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{one}")
    keeper.run_once()
    view = world.show(one)
    assert (view["state"], view["reason"][:13]) == ("DELETING", "being deleted")
    assert (away / one).exists()
    assert not [name for name, run in mlflow.runs.items() if run["deleted"]]
    bring_back(root, away)
    clock.sleep(11)
    keeper.run_once()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert not (root / one).exists()
    assert mlflow.runs["untold"]["deleted"], "only the storage has its id"


@pytest.mark.parametrize("instead", INSTEAD)
def test_files_of_a_missing_storage_are_not_counted(world: World, root: Path, instead: str) -> None:
    address = f"/api/v1/experiments/{world.started()}/storage"
    away = take_away(root, instead)
    assert world.client.get(address).status_code == 503
    bring_back(root, away)
    assert world.client.get(address).json()["total_bytes"] > 0


def test_runs_whose_ids_only_the_storage_has_are_ended_when_it_is_back(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock, root: Path
) -> None:
    failed_experiment(world, mlflow)
    away = take_away(root, "an empty folder")
    keeper.run_once()
    bring_back(root, away)
    clock.sleep(11)
    keeper.run_once()
    assert "RUNNING" not in {run["status"] for run in mlflow.runs.values()}


def test_what_expires_while_the_storage_is_missing_is_removed_when_it_is_back(
    world: World, keeper: CleanupWorker, clock: Clock, root: Path
) -> None:
    launch = root / world.ended() / "launch-a1.json"
    clock.sleep(7200)  # longer than a sweep looks back
    world.reconciler.reconcile_once()
    away = take_away(root, "an empty folder")
    keeper.run_once()
    bring_back(root, away)
    assert launch.exists()
    clock.sleep(301)
    world.reconciler.reconcile_once()
    keeper.run_once()
    assert not launch.exists()


def test_the_storage_of_a_version_that_remembered_none_is_adopted(
    world: World, context: AppContext, root: Path
) -> None:
    one = world.ended()
    (root / ".rung-storage").unlink()
    with context.database.write() as session:
        session.execute(delete(Storage))
    StorageIdentity(context.database, str(root)).check()
    identity = open_root(str(root)).identity()
    with context.database.read() as session:
        assert session.scalars(select(Storage.identity)).all() == [identity]
    assert (root / one / "spec.json").exists()


def test_a_storage_of_a_version_that_remembered_none_is_not_created_again(
    world: World, context: AppContext, root: Path
) -> None:
    world.ended()
    take_away(root, "nothing")
    with context.database.write() as session:
        session.execute(delete(Storage))
    with pytest.raises(StorageLostError, match="is missing, but experiments have files there"):
        StorageIdentity(context.database, str(root)).check()
    assert not root.exists()


def test_a_database_adopts_the_identity_that_a_storage_has(world: World, context: AppContext, root: Path) -> None:
    """As after a database was lost, or where two replicas start at once."""
    identity = open_root(str(root)).identity()
    with context.database.write() as session:
        session.execute(delete(Storage))
    for _ in range(2):
        StorageIdentity(context.database, str(root)).check()
    assert open_root(str(root)).identity() == identity


def test_a_storage_is_the_same_one_at_another_path(
    world: World, context: AppContext, root: Path, tmp_path: Path
) -> None:
    moved = root.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved)
    for path in (moved, tmp_path / "link"):
        StorageIdentity(context.database, str(path)).check()


def test_both_identities_are_named(context: AppContext, root: Path) -> None:
    known = (root / ".rung-storage").read_text().strip()
    (root / ".rung-storage").write_text("an\x1bother\n")
    with pytest.raises(
        StorageLostError, match=rf"is another storage, of the identity 'an\\x1bother'; .* write {known} to "
    ):
        context.storage.check()


def test_the_operator_can_say_that_it_is_the_storage(world: World, context: AppContext, root: Path) -> None:
    """As after a backup was restored without it."""
    (root / ".rung-storage").unlink()
    with pytest.raises(StorageLostError, match="has no identity") as lost:
        context.storage.check()
    identity, file = str(lost.value).rpartition("write ")[2].split(" to ")
    Path(file).write_text(identity)
    context.storage.check()
