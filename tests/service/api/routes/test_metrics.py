"""The metrics: what they say, what they cost, and what of them a neighbor that hangs takes along."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import httpx
import pytest
from sqlalchemy import event, insert, text

from service.api import scrapes
from service.api.thread_pools import PEOPLE_THREADS
from service.app import create_app
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.database import Database
from service.store.models import Experiment, Trial
from tests.support.clock import Clock
from tests.support.half_open import silent_server
from tests.support.memory_launcher import MemoryLauncher
from tests.support.metrics import Scraped, scrape
from tests.support.pools import set_grant
from tests.support.reconciling import reconcile_for, refuse
from tests.support.server import serving
from tests.support.world import World

LARGEST_SCRAPE_S = scrapes.WAIT_S + 20  # on a busy machine; what hangs here never answers


@pytest.fixture(autouse=True)
def _each_scrape_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 0.0)


@pytest.fixture
def hang() -> Iterator[Callable[..., NoReturn]]:
    """Stands for a call that answers only after the test, with an error."""
    released = threading.Event()

    def wait(*_: Any) -> NoReturn:
        released.wait()
        raise OSError("the test has ended")

    yield wait
    released.set()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    found: list[str] = []

    def executed(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    event.listen(database.engine, "before_cursor_execute", executed)
    yield found
    event.remove(database.engine, "before_cursor_execute", executed)


@pytest.mark.stores
def test_the_queue_the_slots_and_the_trials(world: World) -> None:
    small = Node("a", cpus=4, gpus=1)
    world.launcher.nodes = Cluster((small, Node("b", cpus=64)))
    size = {"gpus_per_trial": 0, "cpus_per_trial": 2}
    searching = world.started(searcher={"kind": "random", "num_samples": 2}, resources=size)
    lines = [world.line(0, state="COMPLETED"), world.line(1), world.line(2, state="EARLY_STOPPED")]
    world.beat(searching, {"phase": "searching", "trials": lines})
    for cpus in (3, 3, 64):
        world.submit(resources={"gpus_per_trial": 0, "cpus_per_trial": cpus})
    world.launcher.nodes = Cluster((small,))
    world.reconciler.reconcile_once()
    new = world.submit(resources={"gpus_per_trial": 0})
    found = scrape(world.client)
    assert found.by("rung_experiments", "state") == {"RUNNING": 1, "QUEUED": 4}
    assert found.by("rung_queue", "waiting_for") == {"slots": 2, "larger_node": 1, "pass": 1}
    assert found.by("rung_trials", "state") == {"COMPLETED": 1, "RUNNING": 1, "EARLY_STOPPED": 1}
    assert found.by("rung_drivers", "phase") == {"searching": 1}
    slots = world.show(searching)["slots"]
    assert found.value("rung_slots_held", pool="default") == slots
    assert found.by("rung_cluster_cpus", "use") == {"held": 2 * slots, "free": 4 - 2 * slots}
    assert found.by("rung_cluster_gpus", "use") == {"free": 1}
    assert found.value("rung_cluster_nodes", pool="default") == 1
    assert new not in "".join(map(str, found.samples))


def test_each_pool_has_its_own_queue_slots_and_nodes(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=4), Node("b", cpus=8, gpus=2, labels={"kind": "large"})))
    created = world.client.post("/api/v1/pools", json={"pool": "large", "labels": {"kind": "large"}})
    assert created.status_code == 201, created.text
    set_grant(context.database, pool="large")
    size = {"gpus_per_trial": 0, "max_concurrent_trials": 1}
    for pool, cpus, gpus, waiting in (("default", 3, 0, 1), ("large", 6, 1, 2)):
        own = size | {"cpus_per_trial": cpus, "pool": pool}
        world.started(resources=own | {"gpus_per_trial": gpus})
        for _ in range(waiting):
            world.submit(resources=own)
    world.reconciler.reconcile_once()
    found = scrape(world.client)
    for pool, cpus, free, gpus, waiting in (("default", 3, 1, 0, 1), ("large", 6, 2, 1, 2)):
        assert found.value("rung_cluster_nodes", pool=pool) == 1
        assert found.value("rung_slots_held", pool=pool) == 1
        assert found.value("rung_queue", pool=pool, waiting_for="slots") == waiting
        assert found.value("rung_cluster_cpus", pool=pool, use="held") == cpus
        assert found.value("rung_cluster_cpus", pool=pool, use="free") == free
        assert found.value("rung_cluster_gpus", pool=pool, use="held") == gpus
        assert found.value("rung_cluster_gpus", pool=pool, use="free") == gpus


@pytest.mark.stores
def test_what_queued_experiments_wait_for_is_recognized_by_the_reasons_that_the_scheduler_writes(
    world: World, launcher: MemoryLauncher, context: AppContext
) -> None:
    changed = {"max_drivers": 1, "retry_backoff_s": 300.0}
    one = replace(context, settings=context.settings.model_copy(update=changed))
    reconciler = Reconciler(one)
    launcher.nodes = Cluster()
    first = world.submit(resources={"gpus_per_trial": 0})
    reconciler.reconcile_once()
    assert scrape(world.client).by("rung_queue", "waiting_for") == {"node": 1}
    launcher.nodes = Cluster((Node("a", cpus=8),))
    world.submit(resources={"gpus_per_trial": 0})
    reconciler.reconcile_once()
    assert scrape(world.client).by("rung_queue", "waiting_for") == {"drivers": 1}
    launcher.jobs.clear()
    reconciler.reconcile_once()
    assert world.show(first)["state"] == "QUEUED"
    assert scrape(world.client).by("rung_queue", "waiting_for")["retry"] == 1


def test_the_age_of_heartbeats_and_the_backlog_of_mlflow(world: World, context: AppContext) -> None:
    silent, heard = world.started(), world.started()
    for experiment, behind_s in ((silent, 0), (heard, 75.5)):
        world.beat(experiment, {"phase": "searching", "mlflow_behind_s": behind_s})
    with context.database.write() as session:
        session.execute(
            text("UPDATE attempts SET last_heartbeat_at = :at WHERE experiment_id = :id"),
            {"at": datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=40), "id": silent},
        )
    found = scrape(world.client)
    assert 40 <= found.value("rung_heartbeat_oldest_age_seconds") < 60
    assert found.value("rung_heartbeat_age_seconds_bucket", le="30.0") == 1
    assert found.value("rung_heartbeat_age_seconds_bucket", le="60.0") == 2
    assert found.value("rung_mlflow_backlog_experiments") == 1
    assert found.value("rung_mlflow_backlog_seconds") == 75.5
    world.beat(heard, {"phase": "paused", "reason": "paused", "mlflow_behind_s": 80})
    assert scrape(world.client).value("rung_mlflow_backlog_seconds") == 0


def test_lost_attempts_are_counted_by_cause(
    world: World, context: AppContext, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = Reconciler(context, clock, clock.monotonic)
    silent = world.started()
    world.beat(silent, {"phase": "searching"})
    assert set(scrape(world.client).by("rung_attempts_lost_total", "cause")) == set()
    assert scrape(world.client).value("rung_attempts_lost_total", cause="silent") == 0
    reconcile_for(reconciler, clock, settings.lease_s + settings.driver_lost_s + 10)
    monkeypatch.setattr(world.launcher, "launch", refuse)
    world.submit(resources={"gpus_per_trial": 0})
    reconcile_for(reconciler, clock, 10)
    found = scrape(world.client).by("rung_attempts_lost_total", "cause")
    assert found["silent"] == 1
    assert found["not_submitted"] >= 1
    assert set(found) == {"silent", "not_submitted"}


@pytest.mark.stores
def test_replicas_agree_on_the_queue_and_one_holds_the_lease(
    world: World, settings: Settings, launcher: MemoryLauncher
) -> None:
    world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    app = create_app(settings, launcher)
    with serving(app) as other:
        Reconciler(app.state.context).reconcile_once()
        one, two = scrape(world.client), scrape(other)
    for name in ("rung_experiments", "rung_queue", "rung_slots_held", "rung_drivers", "rung_trials"):
        assert {key: value for key, value in one.samples.items() if key[0] == name} == {
            key: value for key, value in two.samples.items() if key[0] == name
        }
    assert (one.value("rung_lease_held"), two.value("rung_lease_held")) == (1, 0)
    assert 0 < one.value("rung_lease_left_seconds") <= settings.lease_s
    assert one.value("rung_reconcile_seconds_count") == 1
    assert one.value("rung_reconcile_age_seconds") < 60


def test_requests_are_counted_by_the_template_of_their_route_and_nothing_that_a_client_chose(world: World) -> None:
    experiment = world.submit(name="a-name-of-a-person", project="a-project", labels=["a-label"])
    before = set(scrape(world.client).samples)
    for number in range(50):
        world.client.get(f"/api/v1/experiments/{experiment}/trials/{number}")
        world.client.get(f"/api/v1/nothing-{number}")
        world.client.request(f"X{number}", f"/api/v1/experiments/{experiment}")
        world.client.head(f"/api/v1/experiments/{experiment}")
    after = scrape(world.client)
    template = "/api/v1/experiments/{experiment_id}"
    count = {"method": "GET", "route": f"{template}/trials/{{trial}}", "status": "404"}
    assert after.value("rung_request_seconds_count", **count) == 50
    assert after.value("rung_request_seconds_count", method="GET", route="other", status="404") == 50
    assert after.value("rung_request_seconds_count", method="other", route=template, status="405") == 50
    assert after.value("rung_request_seconds_count", method="HEAD", route=template, status="200") == 50
    new = {(name, labels) for name, labels in after.samples.keys() - before if not name.endswith("_bucket")}
    assert len(new) <= 2 * 6, "a count and a sum for each of a few combinations"
    for chosen in (experiment, "a-name", "a-project", "a-label", "nothing-1", "X1"):
        assert chosen not in "".join(map(str, after.samples))


def test_the_labels_of_all_metrics_are_known(world: World) -> None:
    world.started()
    found = scrape(world.client)
    labels = {label for _, pairs in found.samples for label, _ in pairs}
    requests = {"method", "route", "status"}
    assert labels == requests | {
        "cause",
        "disk",
        "le",
        "part",
        "phase",
        "pool",
        "state",
        "use",
        "version",
        "waiting_for",
    }
    undocumented = [family.name for family in found.families if not family.documentation]
    assert undocumented == []


@pytest.mark.stores
def test_a_scrape_asks_the_database_as_often_however_much_it_has(world: World, context: AppContext) -> None:
    world.started()
    with statements(context.database) as few:
        scrape(world.client)
    fill(context.database, experiments=500, trials=20)
    with statements(context.database) as many:
        found = scrape(world.client)
    assert found.by("rung_experiments", "state") == {"RUNNING": 1, "COMPLETED": 500}
    assert len(many) == len(few) <= 16
    assert not any("spec" in statement.partition("FROM")[0] for statement in many)


def fill(database: Database, experiments: int, trials: int) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    row = {
        "name": "x", "project": "p", "state": "COMPLETED", "phase": "", "reason": "", "warnings": [], "revision": 1,
        "spec": {}, "spec_version": 2, "controls": {}, "attempt": 1, "failures": 0, "slots": 0, "mlflow_closed": True,
        "priority": 0, "created_at": at,
    }  # fmt: skip
    trial = {"attempt": 1, "state": "COMPLETED", "stop_reason": "", "epoch": 1, "restarts": 0, "metrics": {}}
    ids = ["".join("23456789ab"[int(digit)] for digit in f"{number:08d}") for number in range(experiments)]
    with database.write() as session:
        session.execute(insert(Experiment), [row | {"id": one} for one in ids])
        session.execute(
            insert(Trial),
            [
                trial | {"experiment_id": one, "trial": number, "parameters": {}, "updated_at": at}
                for one in ids
                for number in range(trials)
            ],
        )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_has_ended_is_counted_in_an_index(world: World, context: AppContext) -> None:
    with statements(context.database) as asked:
        scrape(world.client)
    [counting] = [one for one in asked if "GROUP BY experiments.state" in one]
    with context.database.read() as session:
        plan = " ".join(str(row) for row in session.execute(text(f"EXPLAIN QUERY PLAN {counting}")))
    assert "USING COVERING INDEX" in plan


def test_an_mlflow_and_a_storage_that_hang_keep_neither_the_scrape_nor_people_waiting(
    settings: Settings, launcher: MemoryLauncher, hang: Callable[..., NoReturn], monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_server() as mlflow:
        patient = settings.model_copy(update={"mlflow_tracking_uri": mlflow.url, "mlflow_timeout_s": 3600.0})
        app = create_app(patient, launcher)
        with serving(app) as client:
            monkeypatch.setattr("service.adapters.observations.free_bytes_of_root", hang)
            monkeypatch.setattr("service.adapters.storage_identity.open_root", hang)
            found = timed_scrape(client)
            assert people_are_answered(client)
    assert (found.value("rung_reachable", part="mlflow"), found.value("rung_reachable", part="storage")) == (0, 0)
    assert found.value("rung_reachable", part="database") == 1
    assert "rung_experiments" in found.names()


def test_a_database_that_hangs_takes_only_its_own_metrics_along(
    client: httpx.Client, context: AppContext, hang: Callable[..., NoReturn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.domain.census.take", hang)
    with ThreadPoolExecutor(PEOPLE_THREADS * 2) as scraping:
        began = time.monotonic()
        scrapes_at_once = [scraping.submit(scrape, client) for _ in range(3)]
        assert people_are_answered(client), "while scrapes wait"
        found = scrapes_at_once[0].result()
        assert time.monotonic() - began < LARGEST_SCRAPE_S
    assert found.value("rung_reachable", part="database") == 0
    assert "rung_experiments" not in found.names()
    assert "rung_lease_held" in found.names()


def timed_scrape(client: httpx.Client) -> Scraped:
    began = time.monotonic()
    found = scrape(client)
    assert time.monotonic() - began < LARGEST_SCRAPE_S
    return found


def people_are_answered(client: httpx.Client) -> bool:
    with ThreadPoolExecutor(PEOPLE_THREADS) as people:
        answers = people.map(lambda _: client.get("/api/v1/experiments").status_code, range(PEOPLE_THREADS))
        return set(answers) == {200}


def test_scrapes_of_one_second_share_one_look(
    client: httpx.Client, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 3600.0)
    with statements(context.database) as asked:
        scrape(client)
        once = len(asked)
        for _ in range(20):
            scrape(client)
    assert len(asked) == once > 0
