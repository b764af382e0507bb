"""Requests during another transaction, which only PostgreSQL permits: what must hold of both together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.experiment import ExperimentSpec
from service.context import AppContext
from service.domain import experiments
from service.domain.experiments import Belonging
from service.identity import teams, users
from service.identity.users import NewUser
from service.store.accounts import User
from tests.support.accounts import Accounts, signed_in
from tests.support.postgres import Postgres

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
EXPERIMENTS = "/api/v1/experiments"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 30.0


class Parallel:
    """Sends requests while a transaction of the test's own is open."""

    def __init__(self, context: AppContext, postgres: Postgres) -> None:
        self._database = context.database
        self._url = postgres.url(str(context.database.engine.url.database))

    def status(self, change: Callable[[Session], object], send: Callable[[], httpx.Response]) -> int:
        """The status of a request that is sent after the change and before its commit."""
        with ThreadPoolExecutor(1) as sender:
            with self._database.write() as session:
                change(session)
                session.flush()
                answer = sender.submit(send)
                deadline = time.monotonic() + WAIT_S
                with psycopg.connect(self._url, autocommit=True) as looking:
                    while not answer.done() and not self._is_waiting(looking) and time.monotonic() < deadline:
                        pass
            return answer.result(WAIT_S).status_code

    @staticmethod
    def _is_waiting(looking: psycopg.Connection) -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        (waiting,) = looking.execute(query).fetchone() or (0,)
        return bool(waiting)


@pytest.fixture
def parallel(context: AppContext, postgres: Postgres) -> Parallel:
    return Parallel(context, postgres)


@contextmanager
def used(client: httpx.Client, token: str) -> Iterator[httpx.Client]:
    """A client whose token has been used: the first use is written, which may wait too."""
    with signed_in(client, token) as own:
        own.get("/api/v1/auth/whoami").raise_for_status()
        yield own


@pytest.mark.parametrize("demoted", [{"admin": False}, {"disabled": True}])
def test_two_administrators_who_demote_each_other_leave_one(
    client: httpx.Client, accounts: Accounts, parallel: Parallel, demoted: dict[str, bool]
) -> None:
    token = accounts.person("ada", admin=True)
    accounts.person("root", admin=True)

    def demote(session: Session) -> None:
        users.change(session, users.find(session, "ada", lock=True), demoted, NOW)

    with used(client, token) as ada:
        assert parallel.status(demote, lambda: ada.patch("/api/v1/users/root", json=demoted)) == 409
    with accounts.database.read() as session:
        assert users.count_admins(session) == 1


def test_a_login_that_is_taken_at_the_same_moment_is_409(
    client: httpx.Client, accounts: Accounts, parallel: Parallel
) -> None:
    with used(client, accounts.person("root", admin=True)) as root:

        def taken(session: Session) -> User:
            return users.create(session, NewUser("ada"), NOW)

        assert parallel.status(taken, lambda: root.post("/api/v1/users", json={"login": "ada"})) == 409


def test_a_team_that_is_created_at_the_same_moment_is_409(
    client: httpx.Client, accounts: Accounts, parallel: Parallel
) -> None:
    with used(client, accounts.person("root", admin=True)) as root:

        def created(session: Session) -> object:
            return teams.create(session, "vision", "", NOW)

        assert parallel.status(created, lambda: root.post("/api/v1/teams", json={"team": "vision"})) == 409


@pytest.mark.parametrize("request_to", ["", "/ID/continue", "/ID/resume"])
def test_a_team_that_is_archived_at_the_same_moment_gets_nothing_to_run(
    client: httpx.Client, accounts: Accounts, parallel: Parallel, request_to: str
) -> None:
    accounts.team("vision")
    with used(client, accounts.person("ada", vision="member")) as ada:
        source = ada.post(EXPERIMENTS, json={"name": "x"}).json()["id"]
        ada.post(f"{EXPERIMENTS}/{source}/pause").raise_for_status()

        def archive(session: Session) -> None:
            teams.archive(session, teams.find(session, "vision", None, lock=True), NOW)

        def send() -> httpx.Response:
            path = EXPERIMENTS + request_to.replace("ID", source)
            body = {"name": "y"} if not request_to else {}
            return ada.post(path, json=body) if not request_to.endswith("resume") else ada.post(path)

        assert parallel.status(archive, send) == 409
    with accounts.database.read() as session:
        assert not experiments.any_active(session)


def test_a_team_whose_experiment_is_submitted_at_the_same_moment_is_not_archived(
    client: httpx.Client, accounts: Accounts, parallel: Parallel
) -> None:
    accounts.team("vision")
    with used(client, accounts.person("root", admin=True)) as root:

        def submit(session: Session) -> None:
            teams.lock_open(session, "vision")
            experiments.submit(session, ExperimentSpec(name="x"), [], belonging=Belonging("vision"))

        assert parallel.status(submit, lambda: root.post("/api/v1/teams/vision/archive")) == 409


@pytest.mark.parametrize(
    ("first", "logins"),
    [
        (NewUser("ada", issuer="https://id.example", subject="1"), ["ada"]),
        (NewUser("ada", issuer="https://id.example", subject="2"), ["ada", "ada-2"]),
    ],
)
def test_a_person_who_signs_in_twice_at_once_is_one_person(
    accounts: Accounts, parallel: Parallel, first: NewUser, logins: list[str]
) -> None:
    def sign_in() -> httpx.Response:
        with accounts.database.write() as session:
            users.of_identity(session, NewUser("ada", issuer="https://id.example", subject="1"), NOW)
        return httpx.Response(201)

    assert parallel.status(lambda session: users.of_identity(session, first, NOW), sign_in) == 201
    with accounts.database.read() as session:
        assert list(session.scalars(select(User.login).order_by(User.login))) == logins
