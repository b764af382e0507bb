"""A long queue: a pass reads, locks and writes what the cluster can use, however many experiments wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import event, func, insert, null, select, text, update

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from service.client import Client
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.queue import MAX_OF_ONE_SIZE
from service.store.database import Database
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in
from tests.support.pools import set_pool
from tests.support.world import World

pytestmark = pytest.mark.stores

BEGIN = datetime(2026, 1, 2, tzinfo=UTC)
LARGE = {"cpus_per_trial": 8, "gpus_per_trial": 0}


@dataclass
class Work:
    """What was asked of the database, and the rows of experiments that came back."""

    statements: list[str] = field(default_factory=list)
    rows: int = 0


@contextmanager
def counted(database: Database) -> Iterator[Work]:
    work = Work()

    def executed(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        work.statements.append(statement)

    def loaded(*_: Any) -> None:
        work.rows += 1

    event.listen(database.engine, "before_cursor_execute", executed)
    event.listen(Experiment, "load", loaded)
    try:
        yield work
    finally:
        event.remove(database.engine, "before_cursor_execute", executed)
        event.remove(Experiment, "load", loaded)


def fill(database: Database, count: int, *, priority: int = 0, age: int = 0, **resources: Any) -> list[str]:
    """Queue so many experiments at once; those with a greater `age` are older. Their ids."""
    spec = ExperimentSpec(name="x", resources={"gpus_per_trial": 0, **resources})
    row = {
        "name": "x", "project": "p", "state": "QUEUED", "phase": "", "reason": "", "warnings": [], "revision": 1,
        "spec": spec.model_dump(mode="json"), "spec_version": spec.version, "priority": priority,
        "controls": Controls.of(spec).model_dump(mode="json") | {"priority": priority},
        "cpus_per_trial": spec.resources.cpus_per_trial, "gpus_per_trial": spec.resources.gpus_per_trial,
        "attempt": 0, "failures": 0, "slots": 0, "mlflow_closed": False,
    }  # fmt: skip
    with database.write() as session:
        first = session.scalar(select(func.count()).select_from(Experiment)) or 0
        ids = [id_of(first + number) for number in range(count)]
        at = [BEGIN - timedelta(days=age) + timedelta(seconds=number) for number in range(count)]
        rows = [row | {"id": one, "created_at": created} for one, created in zip(ids, at, strict=True)]
        session.execute(insert(Experiment), rows)
    return ids


def id_of(number: int) -> str:
    digits = "23456789ab"
    return "".join(digits[int(digit)] for digit in f"{number:08d}")


@pytest.mark.parametrize("count", [200, 5_000])
def test_a_pass_reads_and_locks_no_more_than_the_cluster_can_use(world: World, context: AppContext, count: int) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=2),))
    running = [world.started(searcher={"kind": "random", "num_samples": 1}) for _ in range(2)]
    fill(context.database, count)
    world.reconciler.reconcile_once()
    with counted(context.database) as work:
        world.reconciler.reconcile_once()
    assert len(running) < work.rows <= MAX_OF_ONE_SIZE + 2 * len(running)
    assert len(work.statements) < 20
    assert not any("experiments.spec," in statement for statement in work.statements)
    locking = [statement for statement in work.statements if "FOR UPDATE" in statement and "experiments" in statement]
    assert all("experiments.state IN" in statement for statement in locking), "only those that run"
    written = [statement for statement in work.statements if statement.startswith("UPDATE experiments")]
    assert len(written) <= 1, "that waiting experiments have a reason is known by an index"
    with context.database.read() as session:
        reasons = session.scalars(select(Experiment.reason).where(Experiment.state == "QUEUED").distinct()).all()
    assert reasons == ["waiting for free slots"]


def test_a_small_experiment_starts_behind_thousands_that_do_not_fit(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=4),))
    fill(context.database, 2_000, **LARGE)
    small = world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    assert world.show(small)["state"] == "RUNNING"


def test_a_higher_priority_starts_before_thousands_that_are_older(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    fill(context.database, 2_000)
    urgent = world.submit(priority=5, resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    assert world.show(urgent)["state"] == "RUNNING"


def test_a_long_queue_is_worked_off_in_its_order(world: World, context: AppContext) -> None:
    """Also behind the bound of one pass, and after a change of priority."""
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    ids = fill(context.database, MAX_OF_ONE_SIZE + 20)
    assert world.patch(ids[-1], priority=1).status_code == 200
    for expected in [ids[-1], *ids[:3]]:
        world.reconciler.reconcile_once()
        assert world.show(expected)["state"] == "RUNNING"
        world.cancel(expected)
        world.beat(expected, {"phase": "canceled", "reason": "enough"})


def test_many_sizes_of_trials_make_no_more_statements(world: World, context: AppContext) -> None:
    for number in range(2 * MAX_OF_ONE_SIZE):
        fill(context.database, 1, gpus_per_trial=round(0.01 + number / 1000, 3))
    world.reconciler.reconcile_once()
    with counted(context.database) as work:
        world.reconciler.reconcile_once()
    assert len([one for one in work.statements if one.startswith("UPDATE experiments")]) <= 2


def test_all_of_a_long_queue_say_what_stops_them_as_long_as_it_does(world: World, context: AppContext) -> None:
    def reasons() -> set[tuple[str, str]]:
        with context.database.read() as session:
            query = select(Experiment.waits_for, Experiment.reason).where(Experiment.state == "QUEUED")
            return {(row.waits_for, row.reason) for row in session.execute(query)}

    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    fill(context.database, 2 * MAX_OF_ONE_SIZE)
    set_pool(context.database, stop="hold")
    world.reconciler.reconcile_once()
    assert reasons() == {("hold", "waiting for an administrator: the cluster starts no experiments")}
    set_pool(context.database, stop="none")
    world.reconciler.reconcile_once()
    world.reconciler.reconcile_once()
    assert reasons() == {("team", "waiting for free slots")}


def test_experiments_that_wait_for_a_retry_do_not_hide_the_others(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    failing = fill(context.database, 2 * MAX_OF_ONE_SIZE, age=1)
    with context.database.write() as session:
        for one in session.scalars(select(Experiment).where(Experiment.id.in_(failing))):
            one.retry_at = datetime.now(UTC) + timedelta(seconds=100)
    due = world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    assert world.show(due)["state"] == "RUNNING"


def test_many_experiments_of_one_person_do_not_hide_that_of_another(
    world: World, context: AppContext, accounts: Accounts, client: httpx.Client
) -> None:
    """However many sizes they have, and however high their priority is."""
    world.launcher.nodes = Cluster((Node("a", cpus=9),))
    accounts.team("speech")
    eve = accounts.person("eve", speech="member")
    for size in range(9):
        fill(context.database, MAX_OF_ONE_SIZE, priority=9, cpus_per_trial=1 + size)
    with signed_in(client, eve) as sender:
        spec = {"name": "x", "resources": {"gpus_per_trial": 0}}
        one = sender.post("/api/v1/experiments", json=spec).json()["id"]
        world.reconciler.reconcile_once()
        assert sender.get(f"/api/v1/experiments/{one}").json()["state"] == "RUNNING"


def test_the_view_of_the_cluster_is_paged_and_reads_no_specs(world: World, context: AppContext) -> None:
    ids = fill(context.database, 2_500)
    with counted(context.database) as work:
        page = world.client.get("/api/v1/cluster").json()
    assert [share["experiment_id"] for share in page["shares"]] == ids[:1000]
    assert work.rows == 1001
    assert not any("experiments.spec," in statement for statement in work.statements)
    last = world.client.get("/api/v1/cluster", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [share["experiment_id"] for share in last["shares"]] == ids[1000:1002]
    with Client(str(world.client.base_url)) as client:
        status = client.cluster()
    assert ([share.experiment_id for share in status.shares], status.next_cursor) == (ids, None)


def test_a_list_reads_no_specs_except_of_rows_that_an_earlier_version_has_written(
    world: World, context: AppContext
) -> None:
    """Each may have some hundred kB."""
    new, old = (world.submit(labels=[label], objective={"mode": "max"}) for label in ("new", "old"))
    with context.database.write() as session:
        session.execute(update(Experiment).where(Experiment.id == old).values(spec_overview=null()))
    with counted(context.database) as work:
        items = world.client.get("/api/v1/experiments", params={"limit": 1000}).json()["items"]
    assert {one["id"]: (one["labels"], one["metric"]) for one in items} == {
        new: (["new"], "validation_accuracy"),
        old: (["old"], "validation_accuracy"),
    }
    reading = [one for one in work.statements if "experiments.spec " in one or "experiments.spec," in one]
    assert len(reading) == 1
    assert "experiments.id = " in reading[0]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_queue_is_read_from_its_index(context: AppContext) -> None:
    with context.database.read() as session:
        plan = session.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT id, row_number() OVER (PARTITION BY team_id, owner_id, cpus_per_trial, "
                "gpus_per_trial ORDER BY priority DESC, created_at, id) FROM experiments WHERE state = 'QUEUED' AND "
                "(retry_at IS NULL OR retry_at <= '2026' OR retry_at > '2027')"
            )
        )
        assert "USING COVERING INDEX ix_experiments_queue" in " ".join(str(row) for row in plan)
