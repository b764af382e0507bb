"""The schema: migrations match the models in both directions; times keep their zone; leases fence."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, inspect, select, text
from sqlalchemy.exc import IntegrityError

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from service.contract.states import State
from service.domain import experiments
from service.store.accounting import UsageOfMonth
from service.store.database import Database, DatabaseUnusableError
from service.store.leases import HeldLease, LeaseLostError, acquire, assert_held, release
from service.store.models import Attempt, Base, Label, Trial
from tests.support.postgres import Postgres

pytestmark = pytest.mark.stores

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def test_a_sqlite_file_is_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        home = tmp_path / "home"
        database = Database.open(f"sqlite:///{home / 'rung.db'}")
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
        database.close()
        assert {"rung.db", "rung.db-wal"} <= set(files)
        assert set(files.values()) == {0o600}
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        (home / "rung.db").chmod(0o644)  # as earlier versions made it
        Database.open(f"sqlite:///{home / 'rung.db'}").close()
        assert stat.S_IMODE((home / "rung.db").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_folder_of_a_new_sqlite_file_is_created(tmp_path: Path) -> None:
    Database.open(f"sqlite:///{tmp_path / 'deep' / 'rung.db'}").close()
    assert (tmp_path / "deep" / "rung.db").exists()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_new_database_must_store_every_character(
    postgres: Postgres, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"encoded_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
    url = postgres.url(name).replace("postgresql:", "postgresql+psycopg:")
    with pytest.raises(DatabaseUnusableError, match=rf"must have the encoding UTF8 \(got {encoding}\); create it with"):
        Database.open(url)
    older = Database(url)
    older.migrate()
    older.close()
    Database.open(url).close()
    assert f"must have the encoding UTF8 (got {encoding})" in caplog.text, "what an older version stored stays usable"
    postgres.drop(name)


def test_the_migrated_schema_is_that_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == []


def test_migrations_go_down_and_up_again(database: Database) -> None:
    database.migrate("base", down=True)
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.migrate()
    database.migrate()
    assert "experiments" in inspect(database.engine).get_table_names()


def test_migrations_keep_stored_rows_in_both_directions(database: Database) -> None:
    """An experiment of the second schema, with a trial, goes through the third and back."""
    database.migrate("0002", down=True)
    before = _tables(database)
    spec = {"name": "old", "resources": {"max_concurrent_trials": 3}, "objective": {"goal": 0.9}, "labels": ["é"]}
    experiment = {
        "id": "k3v9q2mz", "name": "old", "project": "p", "state": "RUNNING", "phase": "searching", "reason": "",
        "spec": spec, "spec_version": 1, "warnings": [], "num_samples": 12, "attempt": 1, "failures": 0, "slots": 2,
        "created_at": NOW,
    }  # fmt: skip
    trial = {
        "experiment_id": "k3v9q2mz", "trial": 0, "attempt": 1, "state": "RUNNING", "stop_reason": "", "epoch": 2,
        "metrics": {"lr": 0.1}, "parameters": {}, "sample": {"lr": 0.5}, "updated_at": NOW,
    }  # fmt: skip
    with database.engine.begin() as connection:
        connection.execute(before["experiments"].insert().values(experiment))
        connection.execute(before["trials"].insert().values(trial))
    database.migrate()
    with database.read() as session:
        found = experiments.find(session, "k3v9q2mz")
        assert (found.spec, found.created_at, found.revision, found.mlflow_closed) == (spec, NOW, 1, False)
        assert Controls.model_validate(found.controls) == Controls(num_samples=12, max_concurrent_trials=3, goal=0.9)
        line = session.get_one(Trial, ("k3v9q2mz", 0))
        assert (line.metrics, line.sample, line.restarts, line.error_kind) == ({"lr": 0.1}, {"lr": 0.5}, 0, None)
    database.migrate("0002", down=True)
    after = _tables(database)
    for name, row in (("experiments", experiment), ("trials", trial)):
        assert [column.name for column in after[name].columns] == [column.name for column in before[name].columns]
        with database.engine.connect() as connection:
            kept = connection.execute(after[name].select()).one()._mapping
        assert {key: kept[key] for key in row if not key.endswith("_at")} == {
            key: value for key, value in row.items() if not key.endswith("_at")
        }


def test_a_deletion_in_progress_is_canceled_in_the_second_schema(database: Database) -> None:
    with database.write() as session:
        kept, deleted = (experiments.submit(session, ExperimentSpec(name="x"), []) for _ in range(2))
        deleted.state = State.DELETING
        ids = kept.id, deleted.id
    database.migrate("0002", down=True)
    rows = _tables(database)["experiments"]
    with database.engine.connect() as connection:
        found = dict(connection.execute(rows.select().with_only_columns(rows.c.id, rows.c.state)).all())
    assert found == dict(zip(ids, ("QUEUED", "CANCELED"), strict=True))


def test_the_best_epoch_comes_with_the_fourth_schema_and_goes_with_it(database: Database) -> None:
    with database.write() as session:
        experiment_id = experiments.submit(session, ExperimentSpec(name="x"), []).id
        more = {"state": "RUNNING", "metrics": {"lr": 0.1}, "parameters": {}, "best_epoch": 3, "updated_at": NOW}
        session.add(Trial(experiment_id=experiment_id, trial=0, attempt=1, **more))
    database.migrate("0003", down=True)
    assert "best_epoch" not in _tables(database)["trials"].columns
    database.migrate()
    with database.read() as session:
        line = session.get_one(Trial, (experiment_id, 0))
        assert (line.metrics, line.best_epoch) == ({"lr": 0.1}, None)


def test_priority_and_size_of_stored_experiments_come_with_the_fifth_schema(database: Database) -> None:
    """Whatever an earlier version stored: the scheduler reads the specs of those without a size itself."""
    stored: list[tuple[object, object, tuple[int, float | None, float | None]]] = [
        ({"resources": {"cpus_per_trial": 2, "gpus_per_trial": 0.5}}, {"priority": -3}, (-3, 2, 0.5)),
        ({"resources": {"gpus_per_trial": None}}, {"priority": 0}, (0, 1, None)),
        ({}, {}, (0, 1, None)),
        ({"resources": {"cpus_per_trial": "many"}}, {"priority": "urgent"}, (0, None, None)),
        ({"resources": [1]}, {"priority": 10**12}, (0, None, None)),
    ]
    with database.write() as session:
        ids = [experiments.submit(session, ExperimentSpec(name="x"), []).id for _ in stored]
    database.migrate("0004", down=True)
    rows = _tables(database)["experiments"]
    assert not {"priority", "cpus_per_trial", "gpus_per_trial"} & set(rows.columns.keys())
    with database.engine.begin() as connection:
        for experiment_id, (spec, controls, _) in zip(ids, stored, strict=True):
            row = rows.update().where(rows.c.id == experiment_id)
            connection.execute(row.values(spec=spec, controls=controls))
    database.migrate()
    with database.read() as session:
        found = [experiments.find(session, experiment_id) for experiment_id in ids]
    assert [(one.priority, one.cpus_per_trial, one.gpus_per_trial) for one in found] == [row for *_, row in stored]
    with database.write() as session:
        for experiment_id, (spec, controls, row) in zip(ids, stored, strict=True):
            one = experiments.find(session, experiment_id)
            one.spec, one.controls = spec, controls
            assert (one.priority, one.cpus_per_trial, one.gpus_per_trial) == row


def test_what_was_used_in_each_month_comes_with_the_nineteenth_schema(database: Database) -> None:
    database.migrate("0018", down=True)
    usage = _tables(database)["usage"]
    hours = [(1, 31, 23, 5.0), (2, 1, 0, 7.0), (2, 28, 23, 11.0)]
    with database.engine.begin() as connection:
        for number, (month, day, hour, seconds) in enumerate(hours):
            row = {
                "hour": datetime(2026, month, day, hour, tzinfo=UTC), "experiment_id": str(number),
                "team_id": "default", "pool": "default",
                "slot_seconds": seconds, "gpu_seconds": 0.5 * seconds, "cpu_seconds": 2 * seconds,
            }  # fmt: skip
            connection.execute(usage.insert().values(row))
    database.migrate()
    with database.read() as session:
        found = list(session.scalars(select(UsageOfMonth).order_by(UsageOfMonth.month)))
    assert [(one.team_id, one.month) for one in found] == [
        ("default", datetime(2026, 1, 1, tzinfo=UTC)),
        ("default", datetime(2026, 2, 1, tzinfo=UTC)),
    ]
    assert [(one.slot_seconds, one.gpu_seconds, one.cpu_seconds) for one in found] == [(5, 2.5, 10), (18, 9, 36)]


def _tables(database: Database) -> dict[str, Table]:
    """The tables as the database itself describes them."""
    found = MetaData()
    found.reflect(database.engine)
    return dict(found.tables)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_is_strict(database: Database) -> None:
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_rows_must_refer_to_existing_rows(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(Label(experiment_id="nobody", label="x"))


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="must name a SQLite file"):
        Database("sqlite://")


def test_what_is_stored_is_read_back_the_same(database: Database) -> None:
    spec = ExperimentSpec(name="x", labels=("a", "b", "a"))
    with database.write() as session:
        stored = experiments.submit(session, spec, ["careful"])
    with database.read() as session:
        found = experiments.find(session, stored.id)
        assert found.created_at == stored.created_at
        assert found.created_at.tzinfo is UTC
        assert ExperimentSpec.model_validate(found.spec) == spec
        assert found.winner is None


def test_times_of_other_zones_are_kept_as_instants(database: Database) -> None:
    there = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    with database.write() as session:
        stored = experiments.submit(session, ExperimentSpec(name="x"), [])
        stored.started_at = there
    with database.read() as session:
        assert experiments.find(session, stored.id).started_at == there


def test_attempt_numbers_and_trial_numbers_are_unique(database: Database) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        experiment_id = experiments.submit(session, ExperimentSpec(name="x"), []).id

    def attempt(name: str) -> Attempt:
        return Attempt(
            id=name, experiment_id=experiment_id, number=1, state="STARTING", token_sha256="", created_at=now
        )

    def trial() -> Trial:
        return Trial(
            experiment_id=experiment_id, trial=0, attempt=1, state="RUNNING", metrics={}, parameters={}, updated_at=now
        )

    with pytest.raises(IntegrityError), database.write() as session:
        session.add_all([attempt("a"), attempt("b")])
    with database.write() as session:
        session.add(trial())
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(trial())


def test_one_owner_at_a_time(database: Database) -> None:
    first = acquire(database, "queue", "one", 60, NOW)
    assert first == HeldLease("queue", "one", 1, 60)
    assert acquire(database, "queue", "two", 60, NOW) is None
    assert acquire(database, "queue", "one", 60, NOW) == first
    release(database, first, NOW)
    second = acquire(database, "queue", "two", 60, NOW)
    assert second == HeldLease("queue", "two", 2, 60)
    with pytest.raises(LeaseLostError), database.write() as session:
        assert_held(session, first, NOW)
    with database.write() as session:
        assert_held(session, second, NOW)


def test_a_write_under_a_lost_lease_changes_nothing(database: Database) -> None:
    first = acquire(database, "queue", "one", 60, NOW)
    assert first is not None
    assert acquire(database, "queue", "two", 60, NOW + timedelta(seconds=61)) is not None

    def write_late() -> None:
        with database.write() as session:
            experiments.submit(session, ExperimentSpec(name="x"), [])
            assert_held(session, first, NOW)

    with pytest.raises(LeaseLostError):
        write_late()
    with database.read() as session:
        assert experiments.list_newest(session, experiments.Selection(limit=5)) == []


def test_a_clock_that_is_set_back_does_not_prolong_a_lease(database: Database) -> None:
    assert acquire(database, "queue", "dead", 60, NOW)
    earlier = NOW - timedelta(hours=1)
    assert acquire(database, "queue", "two", 60, earlier) is None
    assert acquire(database, "queue", "two", 60, earlier + timedelta(seconds=59)) is None
    assert acquire(database, "queue", "two", 60, earlier + timedelta(seconds=61)) is not None
