"""How much the files of experiments take: when they are measured, and what a team may not do that uses too much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from service.adapters.experiment_files import ExperimentFiles
from service.adapters.storage_identity import StorageLostError
from service.cleanup.storage_keeper import ALL_EVERY_S, PUT_OFF_S, StorageKeeper
from service.context import AppContext
from service.domain import team_storage
from service.domain.team_storage import RUNNING_EVERY, SETTLED_AFTER
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.models import Experiment, StorageUse
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

LIMIT = "/api/v1/teams/default/storage"


class Keeper:
    """Measures as the holder of the lease; `pass_once` lets time pass first and returns how many were measured."""

    def __init__(self, context: AppContext, reconciler: Reconciler) -> None:
        reconciler.reconcile_once()
        self._context = context
        self._now, self._seconds = datetime.now(UTC), 0.0
        self._keeper = StorageKeeper(context, lambda: reconciler.held, lambda: self._now, lambda: self._seconds)

    def pass_once(self, after: timedelta = timedelta()) -> int:
        self._now += after
        self._seconds += after.total_seconds()
        return self._keeper.run_once()

    def known(self) -> dict[str, int]:
        with self._context.database.read() as session:
            return {row.experiment_id: row.bytes for row in session.scalars(select(StorageUse))}


@pytest.fixture
def keeper(context: AppContext, reconciler: Reconciler) -> Keeper:
    return Keeper(context, reconciler)


def write(settings: Settings, experiment_id: str, size: int, name: str = "trials/00000/last.pt") -> int:
    """The size of all files of the experiment, of which this is one."""
    folder = Path(settings.storage_root) / experiment_id
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x" * size)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def paused(world: World) -> str:
    """An experiment with one attempt."""
    one = world.started()
    assert world.post(one, "pause").status_code in {200, 202}
    world.beat(one, {"phase": "paused", "reason": "paused"})
    assert world.show(one)["state"] == "PAUSED"
    return one


def close_in_mlflow(context: AppContext) -> None:
    with context.database.write() as session:
        session.execute(update(Experiment).values(mlflow_closed=True))


def test_an_experiment_is_measured_once_after_each_attempt(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    one = paused(world)
    size = write(settings, one, 5000)
    assert keeper.pass_once() == 0, "its driver may still write plots"
    assert keeper.pass_once(2 * SETTLED_AFTER) == 1
    assert keeper.known() == {one: size}
    assert keeper.pass_once(timedelta(days=1)) == 0
    assert world.post(one, "resume").status_code == 200
    world.reconciler.reconcile_once()
    assert keeper.pass_once() == 1, "it runs, and the last measurement is a day old"


def test_one_that_runs_is_measured_once_in_a_while(world: World, settings: Settings, keeper: Keeper) -> None:
    one = world.started()
    assert keeper.pass_once() == 1
    size = write(settings, one, 5000)
    assert keeper.pass_once(RUNNING_EVERY / 2) == 0
    assert keeper.pass_once(RUNNING_EVERY) == 1
    assert keeper.known() == {one: size}


def test_one_that_has_ended_is_measured_when_all_is_removed_that_will_be(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    one = world.ended()
    size = write(settings, one, 5000)
    assert keeper.pass_once(2 * SETTLED_AFTER) == 0
    close_in_mlflow(context)
    assert keeper.pass_once() == 1
    assert keeper.known() == {one: size}


def test_what_has_ended_is_not_looked_at_in_each_pass(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    """But one that has just ended is, and all are once in a while."""
    old = world.ended()
    close_in_mlflow(context)
    assert keeper.pass_once(2 * SETTLED_AFTER) == 1
    with context.database.write() as session:
        session.execute(delete(StorageUse))
    new = world.started()
    assert keeper.pass_once() == 1
    assert set(keeper.known()) == {new}, "a pass reads no experiment that ended before the last"
    world.beat(new, {"phase": "completed"})
    close_in_mlflow(context)
    size = write(settings, new, 5000)
    with context.database.write() as session:
        session.get_one(Experiment, new).ended_at = datetime.now(UTC) + 3 * SETTLED_AFTER
    assert keeper.pass_once(2 * SETTLED_AFTER) == 1
    assert keeper.known() == {new: size}
    assert keeper.pass_once(timedelta(seconds=ALL_EVERY_S)) == 1
    assert set(keeper.known()) == {old, new}


def test_one_that_begins_and_ends_between_two_passes_is_measured(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    assert keeper.pass_once() == 0, "all are looked at"
    one = world.ended()
    close_in_mlflow(context)
    size = write(settings, one, 5000)
    assert keeper.pass_once(timedelta(seconds=30)) == 0
    assert keeper.pass_once(2 * SETTLED_AFTER) == 1
    assert keeper.known() == {one: size}


def test_files_that_cannot_be_read_are_put_off(
    world: World, settings: Settings, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = world.started(), world.started()
    sizes = ExperimentFiles.sizes

    def read(files: ExperimentFiles) -> Any:
        if broken in files.address:
            raise OSError("stale file handle")
        return sizes(files)

    monkeypatch.setattr(ExperimentFiles, "sizes", read)
    assert keeper.pass_once() == 1
    assert set(keeper.known()) == {fine}
    monkeypatch.undo()
    assert keeper.pass_once(timedelta(seconds=PUT_OFF_S / 2)) == 0
    assert keeper.pass_once(timedelta(seconds=PUT_OFF_S)) == 1
    assert set(keeper.known()) == {broken, fine}


def test_a_storage_that_is_missing_is_not_an_empty_one(
    world: World, settings: Settings, keeper: Keeper, tmp_path: Path
) -> None:
    world.started()
    Path(settings.storage_root).rename(tmp_path / "elsewhere")
    with pytest.raises(StorageLostError):
        keeper.pass_once()
    assert keeper.known() == {}


def test_a_team_that_uses_all_that_it_may_starts_nothing_new(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    running, waiting = world.started(), paused(world)
    used = sum(write(settings, one, 400_000) for one in (running, waiting))
    assert keeper.pass_once(2 * SETTLED_AFTER) == 2
    assert world.client.put(LIMIT, json={"limit_bytes": used + 1}).json()["storage"] == {
        "used_bytes": used,
        "limit_bytes": used + 1,
    }
    warned = world.client.post("/api/v1/experiments", json={"name": "x"}, params={"validate_only": True}).json()
    assert [one for one in warned["warnings"] if one.startswith("team default uses 80") and one.endswith("or resumed")]
    assert world.client.put(LIMIT, json={"limit_bytes": used}).status_code == 200
    for refused in (
        world.client.post("/api/v1/experiments", json={"name": "x"}),
        world.post(waiting, "resume"),
        world.client.post(f"/api/v1/experiments/{waiting}/continue", json={}),
    ):
        assert refused.status_code == 422, refused.text
        [problem] = refused.json()["errors"]
        assert problem["field"] == "team"
        assert problem["rule"].startswith("must use less than 80")
    world.reconciler.reconcile_once()
    assert world.show(running)["state"] == "RUNNING", "what runs continues"
    with context.database.write() as session:
        session.delete(session.get_one(Experiment, waiting))
    assert world.submit()
    assert world.client.put(LIMIT, json={"limit_bytes": None}).json()["storage"]["limit_bytes"] is None


@pytest.mark.parametrize("size", [-1, team_storage.MAX_BYTES + 1, 0.5, "1TB"])
def test_a_wrong_limit_is_refused(world: World, size: Any) -> None:
    answer = world.client.put(LIMIT, json={"limit_bytes": size})
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == ["limit_bytes"]
    assert world.client.get("/api/v1/teams/default").json()["storage"]["limit_bytes"] is None


def test_one_that_is_canceled_while_it_is_paused_is_measured_without_its_checkpoints(
    world: World, context: AppContext, settings: Settings, keeper: Keeper
) -> None:
    one = paused(world)
    write(settings, one, 5000)
    assert keeper.pass_once(2 * SETTLED_AFTER) == 1
    assert world.post(one, "cancel").status_code in {200, 202}
    assert world.show(one)["state"] == "CANCELED"
    size = write(settings, one, 100)
    with context.database.write() as session:
        session.execute(update(Experiment).values(ended_at=datetime.now(UTC) + 3 * SETTLED_AFTER))
    assert keeper.pass_once(2 * SETTLED_AFTER) == 0
    close_in_mlflow(context)
    assert keeper.pass_once() == 1
    assert keeper.known() == {one: size}
