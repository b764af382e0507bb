"""What is removed after its time: keys of submissions, launch files, and files of experiments that ended long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any

import pytest
from sqlalchemy import select

from service.adapters.experiment_files import ExperimentFiles
from service.cleanup.retention import Retention
from service.context import AppContext
from service.domain import team_storage
from service.identity.oidc import LEEWAY_S, MAX_AGE_S
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.accounts import UsedIdToken
from service.store.models import Attempt, Experiment, IdempotencyKey, StorageUse
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
STORY = {"spec.json", "journal.jsonl", "model/MLmodel"}
DISPOSABLE = {
    "journal.damaged-1",
    "trials/00000/last.pt",
    "trials/00000/trial.log",
    "logs/driver-a1.log",
    "pictures/a.png",
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(**{**settings.model_dump(), "keep_files_days": 30})


class Keeper:
    """Sweeps as the holder of the lease, so many days from now."""

    def __init__(self, context: AppContext, reconciler: Reconciler) -> None:
        reconciler.reconcile_once()
        self._held = reconciler.held
        self.now = datetime.now(UTC)
        self._retention = Retention(context, lambda: self.now)

    def sweep(self, after_days: float = 0) -> None:
        self.now += timedelta(days=after_days)
        self._retention.sweep(self._held)


@pytest.fixture
def keeper(context: AppContext, reconciler: Reconciler) -> Keeper:
    return Keeper(context, reconciler)


@pytest.fixture
def written(settings: Settings) -> Any:
    """Writes every kind of file into an experiment's folder, and tells what is there."""

    def write(experiment_id: str) -> str:
        for name in STORY | DISPOSABLE:
            path = Path(settings.storage_root) / experiment_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        return experiment_id

    return write


def files(settings: Settings, experiment_id: str) -> set[str]:
    """All except the marker, which each experiment that was launched has."""
    folder: Path = Path(settings.storage_root) / experiment_id
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"marker"}


def test_expired_files_are_removed_except_journals_and_models(
    world: World, keeper: Keeper, settings: Settings, written: Any
) -> None:
    ended, running = written(world.ended("failed")), written(world.started())
    keeper.sweep(after_days=29)
    assert files(settings, ended) == STORY | DISPOSABLE
    keeper.sweep(after_days=2)
    assert files(settings, ended) == STORY
    assert files(settings, running) == STORY | DISPOSABLE | {"launch-a1.json"}


def test_what_is_left_of_an_experiment_is_measured_at_once(
    world: World, keeper: Keeper, context: AppContext, settings: Settings, written: Any
) -> None:
    one, running = written(world.ended("failed")), written(world.started())
    with context.database.write() as session:
        for experiment_id in (one, running):
            team_storage.record(session, experiment_id, 10**9, datetime.now(UTC))
    keeper.sweep(after_days=31)
    left = sum(path.stat().st_size for path in (Path(settings.storage_root) / one).rglob("*") if path.is_file())
    with context.database.read() as session:
        known = {row.experiment_id: row.bytes for row in session.scalars(select(StorageUse))}
    assert 0 < left < 10**9
    assert known == {one: left, running: 10**9}


def test_files_that_a_continuation_must_still_import_are_kept(
    world: World, keeper: Keeper, settings: Settings, written: Any
) -> None:
    source, other = written(world.ended("failed")), written(world.ended("failed"))
    fork = world.post(source, "continue").json()["id"]
    world.reconciler.reconcile_once()
    keeper.sweep(after_days=31)
    assert (files(settings, source), files(settings, other)) == (STORY | DISPOSABLE, STORY)
    world.beat(fork, {"phase": "searching", "trials": [world.line(0, state="COMPLETED")]})
    keeper.sweep()
    assert files(settings, source) == STORY


def test_files_are_not_kept_for_a_continuation_in_another_team(
    world: World, keeper: Keeper, settings: Settings, written: Any, context: AppContext
) -> None:
    source = written(world.ended("failed"))
    fork = world.post(source, "continue").json()["id"]
    with context.database.write() as session:
        session.get_one(Experiment, fork).source_team_id = "another"
    world.post(fork, "pause")
    keeper.sweep(after_days=31)
    assert files(settings, source) == STORY


def test_an_experiment_that_is_resumed_during_a_sweep_keeps_its_files(
    world: World, keeper: Keeper, settings: Settings, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {written(world.ended("failed")), written(world.ended("failed"))}
    swept: list[str] = []

    def remove(storage: ExperimentFiles, real: Any = ExperimentFiles.remove_disposable) -> int:
        swept.append(PurePath(storage.address).name)
        for other in both - set(swept):
            assert world.post(other, "resume").status_code == 200
        freed: int = real(storage)
        return freed

    monkeypatch.setattr(ExperimentFiles, "remove_disposable", remove)
    keeper.sweep(after_days=31)
    (gone,) = swept
    (kept,) = both - {gone}
    assert (files(settings, gone), files(settings, kept)) == (STORY, STORY | DISPOSABLE)


@pytest.mark.parametrize("error", [PermissionError("not yours"), ValueError("odd")])
def test_files_that_cannot_be_removed_do_not_block_others(
    world: World,
    keeper: Keeper,
    settings: Settings,
    written: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    stuck, *others = (written(world.ended("failed")) for _ in range(3))

    def remove(storage: ExperimentFiles, real: Any = ExperimentFiles.remove_disposable) -> int:
        if storage.address.endswith(stuck):
            raise error
        freed: int = real(storage)
        return freed

    with monkeypatch.context() as patch:
        patch.setattr(ExperimentFiles, "remove_disposable", remove)
        keeper.sweep(after_days=31)
    assert [files(settings, one) for one in others] == [STORY] * 2
    keeper.sweep()
    assert files(settings, stuck) == STORY


def test_launch_files_are_removed_when_their_attempt_ends(world: World, keeper: Keeper, settings: Settings) -> None:
    one = world.started()
    keeper.sweep()
    assert files(settings, one) == {"spec.json", "launch-a1.json"}
    world.beat(one, {"phase": "failed"})
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    keeper.sweep()
    assert files(settings, one) == {"spec.json", "launch-a2.json"}
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"}, 2)
    keeper.sweep()
    assert files(settings, one) == {"spec.json"}


def test_old_launch_files_are_looked_for_once(
    world: World, keeper: Keeper, settings: Settings, context: AppContext
) -> None:
    """But an end may be stored late, or by a clock that is behind: the last hour is looked at again."""
    ended_late, long_ago = world.ended("failed"), world.ended("failed")
    keeper.sweep(after_days=1)
    for one, minutes in ((ended_late, 59), (long_ago, 61)):
        path = Path(settings.storage_root) / one / "launch-a1.json"
        path.write_text("the password")
        with context.database.write() as session:
            attempt = session.get_one(Attempt, f"exp-{one}-a1")
            attempt.ended_at = keeper.now - timedelta(minutes=minutes)
    keeper.sweep()
    assert (files(settings, ended_late), files(settings, long_ago)) == ({"spec.json"}, {"spec.json", "launch-a1.json"})


def test_files_are_swept_once_for_each_end(world: World, keeper: Keeper, settings: Settings, written: Any) -> None:
    one = written(world.ended("failed"))
    keeper.sweep(after_days=31)
    written(one)
    keeper.sweep()
    assert files(settings, one) == STORY | DISPOSABLE, "a walk over each folder every few minutes would be much"
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "failed"}, 2)
    keeper.sweep()
    assert not files(settings, one) & DISPOSABLE


def test_used_id_tokens_are_kept_longer_than_they_are_accepted(keeper: Keeper, context: AppContext) -> None:
    accepted = timedelta(seconds=MAX_AGE_S + 2 * LEEWAY_S)
    with context.database.write() as session:
        for sha256, age in (("old", timedelta(hours=2)), ("new", accepted)):
            session.add(UsedIdToken(sha256=sha256, used_at=keeper.now - age))
    keeper.sweep()
    with context.database.read() as session:
        assert list(session.scalars(select(UsedIdToken.sha256))) == ["new"]


def test_idempotency_keys_are_kept_for_a_day(world: World, keeper: Keeper, context: AppContext) -> None:
    one = world.submit()
    with context.database.write() as session:
        for key, age in (("old", 25), ("new", 23)):
            at = keeper.now - timedelta(hours=age)
            session.add(IdempotencyKey(key=key, body_sha256="", experiment_id=one, created_at=at))
    keeper.sweep()
    with context.database.read() as session:
        assert list(session.scalars(select(IdempotencyKey.key))) == ["new"]
