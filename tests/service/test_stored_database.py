"""A database that version 0.1 left behind after a crash: the service upgrades it, shows every row, and continues.

`stored/` holds a dump of a SQLite and one of a PostgreSQL database. Version 0.1 made them with real searches.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.postgres import Postgres
from tests.support.reconciling import reconcile_for
from tests.support.world import World

STORED = Path(__file__).with_name("stored")
#: The columns that the API shows under the same name.
SHOWN = ("name", "project", "state", "reason", "revision", "source_id", "attempt", "slots", "mlflow_run_id")

Rows = list[dict[str, Any]]


class OldDatabase:
    """The URL of a restored database, and its rows as version 0.1 wrote them."""

    def __init__(self, url: str, experiments: Rows, trials: Rows) -> None:
        self.url = url
        self.experiments = experiments
        self.trials = trials


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OldDatabase]:
    (tmp_path / "storage").mkdir()  # it had one beside it, without an identity
    tables = ("SELECT * FROM experiments ORDER BY id", "SELECT * FROM trials ORDER BY experiment_id, trial")
    if request.param == "sqlite":
        path = tmp_path / "rung.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(_dump("sqlite"))
            connection.row_factory = sqlite3.Row
            rows = [[dict(row) for row in connection.execute(table)] for table in tables]
        yield OldDatabase(f"sqlite:///{path}", *rows)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create()
    with psycopg.connect(postgres.url(name), autocommit=True, row_factory=dict_row) as server:
        server.execute(_dump("postgresql").encode())
        server.execute("SET search_path TO public")
        rows = [server.execute(table.encode()).fetchall() for table in tables]
    yield OldDatabase(postgres.url(name), *rows)
    postgres.drop(name)


@pytest.fixture
def database_url(old: OldDatabase) -> str:
    return Settings(database_url=old.url).sqlalchemy_url


def test_every_experiment_and_every_trial_is_shown(old: OldDatabase, client: httpx.Client, world: World) -> None:
    listed = _all_items(client, "/api/v1/experiments?limit=5")
    assert sorted(item["id"] for item in listed) == [row["id"] for row in old.experiments if row["archived_at"] is None]
    for row in old.experiments:
        view = world.show(row["id"])
        assert {name: view[name] for name in SHOWN} == {name: row[name] for name in SHOWN}, row["name"]
        trials = [trial for trial in old.trials if trial["experiment_id"] == row["id"]]
        assert sum(view["trials"].values()) == len(trials)
        shown = _all_items(client, f"/api/v1/experiments/{row['id']}/trials?limit=100")
        assert [(one["trial"], one["state"], one["epoch"], one["best_value"]) for one in shown] == [
            (trial["trial"], trial["state"], trial["epoch"], trial["best_value"]) for trial in trials
        ]
        for trial in trials:
            answer = client.get(f"/api/v1/experiments/{row['id']}/trials/{trial['trial']}/spec")
            assert answer.status_code == 200, (row["name"], answer.text)


@pytest.mark.parametrize("old", ["sqlite"], indirect=True)
def test_an_experiment_is_shown_as_version_0_1_showed_it(old: OldDatabase, world: World) -> None:
    before = json.loads((STORED / "version-0.1.experiment.json").read_text())
    now = world.show(before["id"])
    before.pop("spec")  # shown as the version of specs of today
    assert {name: now[name] for name in before} == before


def test_experiments_that_ran_at_the_crash_get_a_new_driver(
    old: OldDatabase, world: World, context: AppContext, clock: Clock
) -> None:
    reconciler = Reconciler(context, clock, clock.monotonic)
    reconcile_for(reconciler, clock, 30)
    driven = [row for row in old.experiments if row["state"] == "RUNNING"]
    assert driven
    for row in driven:
        view = world.show(row["id"])
        *_, lost, newest = view["attempts"]
        assert (lost["number"], lost["state"]) == (row["attempt"], "LOST")
        assert lost["reason"].startswith("Ray does not know the driver")
        assert (newest["number"], newest["state"], view["state"]) == (row["attempt"] + 1, "STARTING", "RUNNING")


def test_a_paused_experiment_is_resumed(old: OldDatabase, world: World) -> None:
    queued = [row["id"] for row in old.experiments if row["state"] == "QUEUED"]
    paused = next(row["id"] for row in old.experiments if row["state"] == "PAUSED")
    for one in queued:
        world.cancel(one)
    assert world.post(paused, "resume").status_code == 200
    world.reconciler.reconcile_once()
    attempt = world.show(paused)["attempt"]
    launch = world.launcher.launches[f"exp-{paused}-a{attempt}"]
    assert launch.trials == len([trial for trial in old.trials if trial["experiment_id"] == paused])
    assert world.beat(paused, {"phase": "searching"}, attempt).status_code == 200


def _all_items(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(path, params=httpx.QueryParams(path.partition("?")[2]).merge(cursor)).json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}


def _dump(store: str) -> str:
    return lzma.decompress((STORED / f"version-0.1.{store}.sql.xz").read_bytes()).decode()
