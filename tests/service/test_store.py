"""The schema: migrations say what the models say, and go both ways; times keep their zone; leases fence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from search_spaces.experiment import ExperimentSpec
from service import experiments
from service.store.database import Database
from service.store.leases import Held, LeaseLost, acquire, hold, release
from service.store.models import Attempt, Base, Label, Trial


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'rung.db'}")
    database.migrate()
    yield database
    database.close()


def test_migrations_make_what_the_models_say(database: Database) -> None:
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == []


def test_migrations_go_down_and_up_again(database: Database) -> None:
    database.migrate("base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.migrate()
    database.migrate()
    assert "experiments" in inspect(database.engine).get_table_names()


def test_sqlite_is_strict(database: Database) -> None:
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(Label(experiment_id="nobody", label="x"))


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="a SQLite file required"):
        Database("sqlite://")


def test_what_is_stored_is_read_back_the_same(database: Database) -> None:
    spec = ExperimentSpec(name="x", labels=("a", "b", "a"))
    with database.write() as session:
        stored = experiments.submit(session, spec, ["careful"], 20)
    with database.read() as session:
        found = experiments.find(session, stored.id)
        assert found.created_at == stored.created_at
        assert found.created_at.tzinfo is UTC
        assert ExperimentSpec.model_validate(found.spec) == spec
        assert found.winner is None


def test_times_of_other_zones_are_kept_as_instants(database: Database) -> None:
    there = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    with database.write() as session:
        stored = experiments.submit(session, ExperimentSpec(name="x"), [], 1)
        stored.started_at = there
    with database.read() as session:
        assert experiments.find(session, stored.id).started_at == there


def test_one_attempt_of_a_number_and_one_line_of_a_trial(database: Database) -> None:
    now = datetime.now(UTC)
    with database.write() as session:
        one = experiments.submit(session, ExperimentSpec(name="x"), [], 1).id

    def attempt(name: str) -> Attempt:
        return Attempt(id=name, experiment_id=one, number=1, state="STARTING", token_sha256="", created_at=now)

    def trial() -> Trial:
        return Trial(experiment_id=one, trial=0, attempt=1, state="RUNNING", metrics={}, parameters={}, updated_at=now)

    with pytest.raises(IntegrityError), database.write() as session:
        session.add_all([attempt("a"), attempt("b")])
    with database.write() as session:
        session.add(trial())
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(trial())


def test_one_owner_at_a_time(database: Database) -> None:
    first = acquire(database, "queue", "one", 60)
    assert first == Held("queue", "one", 1, 60)
    assert acquire(database, "queue", "two", 60) is None
    assert acquire(database, "queue", "one", 60) == first
    release(database, first)
    second = acquire(database, "queue", "two", 60)
    assert second is not None
    assert second.fence == 2
    with pytest.raises(LeaseLost), database.write() as session:
        hold(session, first)
    with database.write() as session:
        hold(session, second)


def test_a_write_under_a_lost_lease_changes_nothing(database: Database) -> None:
    first = acquire(database, "queue", "one", 0.001)
    assert first is not None
    release(database, first)
    assert acquire(database, "queue", "two", 60) is not None

    def write_late() -> None:
        with database.write() as session:
            experiments.submit(session, ExperimentSpec(name="x"), [], 1)
            hold(session, first)

    with pytest.raises(LeaseLost):
        write_late()
    with database.read() as session:
        assert experiments.newest(session, limit=5) == []
