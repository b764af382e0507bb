"""Who sends a request: tokens are looked up at once and before the body, in each mode of the service."""

from __future__ import annotations

import os
import queue
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import event, text

from service.api import callers, routes
from service.api.callers import UndeclaredPermissionError, may, public
from service.app import create_app
from service.contract.errors import ConflictError
from service.contract.home_files import OWNER_TOKEN
from service.identity import issued_tokens, owner_token, teams, tokens, users
from service.identity.authentication import AccountAuthentication
from service.identity.first_admin import create_first_admin
from service.identity.owner_token import OwnerTokenError
from service.identity.permissions import Permission
from service.identity.principals import Role
from service.identity.tokens import TokenKind
from service.settings import AuthMode, Settings
from service.store.database import Database
from tests.support.accounts import Accounts, signed_in
from tests.support.memory_launcher import MemoryLauncher
from tests.support.raw_http import connected
from tests.support.server import serving
from tests.support.world import World

WHOAMI = "/api/v1/auth/whoami"
EXPERIMENTS = "/api/v1/experiments"


@contextmanager
def served(settings: Settings, **changes: object) -> Iterator[httpx.Client]:
    with serving(create_app(Settings(**{**settings.model_dump(), **changes}), MemoryLauncher())) as client:
        yield client


def status(client: httpx.Client, token: str | None) -> int:
    with signed_in(client, token) as sender:
        return sender.get(WHOAMI).status_code


def test_a_person_is_known_by_the_token(client: httpx.Client, accounts: Accounts) -> None:
    accounts.team("vision")
    token = accounts.person("ada", vision="member")
    with signed_in(client, token) as ada:
        found = ada.get(WHOAMI).json()
    assert (found["user"]["login"], found["kind"], found["admin"]) == ("ada", "person", False)
    assert found["teams"] == [{"team": "vision", "role": "member"}]
    assert found["token"]["name"] == "test"
    assert token not in str(found)


def test_a_program_is_known_by_the_token_of_its_team(client: httpx.Client, accounts: Accounts) -> None:
    accounts.team("vision")
    with signed_in(client, accounts.program("vision", "member")) as program:
        found = program.get(WHOAMI).json()
        assert (found["user"], found["kind"]) == (None, "service")
        assert found["teams"] == [{"team": "vision", "role": "member"}]
        made = program.post(EXPERIMENTS, json={"name": "x"}).json()
    assert (made["team"], made["owner"]) == ("vision", None)


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Basic dTpw", "Bearer nonsense", "Bearer \xff"])
def test_without_a_valid_token_nothing_is_answered(client: httpx.Client, accounts: Accounts, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
    answer = client.get(WHOAMI, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "token" in answer.json()["detail"]


def test_a_token_stops_at_once(client: httpx.Client, accounts: Accounts) -> None:
    accounts.person("root", admin=True)
    token = accounts.person("ada")
    assert status(client, token) == 200
    now = datetime.now(UTC)
    with accounts.database.write() as session:
        issued_tokens.revoke(issued_tokens.find(session, accounts.row(token).id, None, None, None), now)
    assert status(client, token) == 401
    assert status(client, accounts.token("ada", lifetime=timedelta(0))) == 401
    other = accounts.token("ada")
    assert status(client, other) == 200
    with accounts.database.write() as session:
        users.change(session, users.find(session, "ada"), {"disabled": True}, now)
    assert status(client, other) == 401


def test_a_token_is_worth_at_most_what_its_owner_may_now(client: httpx.Client, accounts: Accounts) -> None:
    accounts.team("vision")
    accounts.team("speech")
    accounts.person("ada", vision="manager", speech="member")
    limited = accounts.token("ada", team="vision", role="member")

    def known() -> list[dict[str, str]]:
        with signed_in(client, limited) as ada:
            found: list[dict[str, str]] = ada.get(WHOAMI).json()["teams"]
            return found

    assert known() == [{"team": "vision", "role": "member"}]
    with accounts.database.write() as session:
        teams.set_member(session, teams.find(session, "vision", None), "ada", Role.VIEWER)
    assert known() == [{"team": "vision", "role": "viewer"}]
    with accounts.database.write() as session:
        teams.remove_member(session, teams.find(session, "vision", None), "ada")
    assert known() == []


def test_a_restricted_token_of_an_administrator_does_not_administer(client: httpx.Client, accounts: Accounts) -> None:
    token = accounts.person("root", admin=True)
    with signed_in(client, token) as root, signed_in(client, accounts.token("root", role="member")) as limited:
        assert root.get("/api/v1/users").status_code == 200
        assert limited.get("/api/v1/users").status_code == 403


@pytest.mark.parametrize("restriction", [{"role": "manager"}, {"team": "vision"}])
def test_a_restricted_token_changes_nothing_beyond_its_restriction(
    client: httpx.Client, accounts: Accounts, restriction: dict[str, str]
) -> None:
    accounts.team("vision")
    main = accounts.person("root", admin=True, vision="manager")
    limited, other = accounts.token("root", **restriction), accounts.token("root", role="viewer")
    with signed_in(client, limited) as restricted:
        for wanted in ({}, {"expires_days": 365}, restriction, {**restriction, "role": "viewer"}):
            answer = restricted.post("/api/v1/tokens", json=wanted)
            assert (answer.status_code, "account.change" in answer.text) == (403, True)
        assert restricted.post("/api/v1/auth/password", json={"new": "correct horse battery"}).status_code == 403
        for one in (main, other):
            assert restricted.delete(f"/api/v1/tokens/{accounts.row(one).id}").status_code == 403
        program = {"kind": "service", "team": "vision", "role": "member"}
        made = restricted.post("/api/v1/tokens", json=program)
        assert made.status_code == 201, "what a manager of the team may do"
        assert restricted.delete(f"/api/v1/tokens/{made.json()['id']}").status_code == 204
        assert restricted.delete(f"/api/v1/tokens/{accounts.row(limited).id}").status_code == 204, "the one in use"
    with signed_in(client, main) as root:
        assert root.get(WHOAMI).status_code == 200
        assert root.delete(f"/api/v1/tokens/{accounts.row(other).id}").status_code == 204


def test_the_caller_costs_one_query(client: httpx.Client, accounts: Accounts) -> None:
    accounts.team("vision")
    token = accounts.person("ada", vision="member")
    authentication, statements = AccountAuthentication(accounts.database), list[str]()
    authentication.principal(token)  # the first use is recorded

    def executed(_c: object, _k: object, statement: str, *_: object) -> None:
        if statement != "BEGIN":
            statements.append(statement)

    event.listen(accounts.database.engine, "before_cursor_execute", executed)
    try:
        authentication.principal(token)
        assert len(statements) == 1
        with pytest.raises(Exception, match="not known"):
            authentication.principal(token[:-1] + ("a" if token[-1] != "a" else "b"))
        assert len(statements) == 1, "a typing error costs no query"
    finally:
        event.remove(accounts.database.engine, "before_cursor_execute", executed)


def test_the_query_uses_the_index_of_the_digest(accounts: Accounts) -> None:
    with accounts.database.engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM tokens WHERE sha256 = 'x'").all()
    assert "USING INDEX" in str(plan)


def test_the_last_use_is_written_once_a_minute(accounts: Accounts) -> None:
    token = accounts.person("ada")
    now = datetime(2026, 1, 2, tzinfo=UTC)
    used = []
    for seconds in (0, 30, 59, 61, 62):
        at = now + timedelta(seconds=seconds)
        AccountAuthentication(accounts.database, lambda at=at: at).principal(token)
        last = accounts.row(token).last_used_at
        used.append(None if last is None else (last - now).total_seconds())
    assert used == [0, 0, 0, 61, 61]


def test_of_those_whose_use_is_to_be_written_one_waits_for_the_database(accounts: Accounts) -> None:
    people = [accounts.person(login) for login in ("ada", "grace", "mary")]
    authentication, answered = AccountAuthentication(accounts.database), queue.Queue[str]()

    def use(token: str) -> None:
        answered.put(authentication.principal(token).login)

    threads = [threading.Thread(target=use, args=(token,)) for token in people]
    with accounts.database.write() as session:
        session.execute(text("SELECT 1"))
        for thread in threads:
            thread.start()
        found = {answered.get(timeout=20) for _ in range(2)}
        assert answered.empty(), "one waits"
    for thread in threads:
        thread.join()
    assert {*found, answered.get_nowait()} == {"ada", "grace", "mary"}
    written = [token for token in people if accounts.row(token).last_used_at is not None]
    assert len(written) == 1
    for token in people:
        authentication.principal(token)
    assert all(accounts.row(token).last_used_at is not None for token in people)


@pytest.mark.parametrize("lines", [(), ("Authorization: Bearer nonsense",)])
def test_a_request_without_a_valid_token_is_refused_before_its_body_is_read(
    client: httpx.Client, accounts: Accounts, lines: tuple[str, ...]
) -> None:
    with connected(str(client.base_url)) as raw:
        head = (f"POST {EXPERIMENTS} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 20", "Expect: 100-continue", *lines)
        raw.sendall("\r\n".join((*head, "", "")).encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_the_token_of_an_attempt_is_for_heartbeats_only(client: httpx.Client, accounts: Accounts, world: World) -> None:
    accounts.team("vision")
    client.headers["Authorization"] = f"Bearer {accounts.person('ada', vision='member')}"
    one = world.started()
    token = world.launcher.launches[f"exp-{one}-a1"].token
    with signed_in(client, token) as driver:
        assert driver.post(f"/api/v1/attempts/exp-{one}-a1/heartbeat", json={"phase": "searching"}).status_code == 200
        assert driver.get(f"{EXPERIMENTS}/{one}").status_code == 401


def test_a_service_may_be_open(client: httpx.Client) -> None:
    for token in (None, "whatever"):
        with signed_in(client, token) as anybody:
            found = anybody.get(WHOAMI).json()
            assert (found["kind"], found["user"], found["token"]) == ("open", None, None)
            assert found["teams"] == [{"team": "default", "role": "manager"}]
    assert client.get("/api/v1/auth").json()["mode"] == "open"
    assert client.post("/api/v1/tokens", json={"name": "x"}).status_code == 409


def test_a_service_may_have_one_owner(settings: Settings, tmp_path: Path) -> None:
    with served(settings, auth=AuthMode.OWNER) as client:
        path = tmp_path / OWNER_TOKEN
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        token = path.read_text().strip()
        assert status(client, None) == 401
        assert status(client, tokens.make(TokenKind.PERSON)) == 401
        with signed_in(client, token) as owner:
            assert owner.get(WHOAMI).json()["kind"] == "owner"
            made = owner.post(EXPERIMENTS, json={"name": "x"}).json()
            assert (made["team"], made["owner"]) == ("default", None)
        assert client.get("/readyz").status_code in (200, 503)
    assert owner_token.read_or_make(tmp_path) == token, "the next start keeps it"


@pytest.mark.parametrize("spoil", ["readable", "link", "text", "empty"])
def test_an_owner_token_that_others_may_know_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / OWNER_TOKEN
    owner_token.read_or_make(tmp_path)
    match spoil:
        case "readable":
            path.chmod(0o640)
        case "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        case "text":
            path.write_text("secret")
        case "empty":
            path.write_text("")
    with pytest.raises(OwnerTokenError, match=OWNER_TOKEN):
        owner_token.read_or_make(tmp_path)


def test_a_route_must_declare_its_permission(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgotten() -> None: ...

    router = APIRouter()
    for dependencies in ([], [public(), may(Permission.LOG_READ)]):
        router = APIRouter()
        router.get("/api/v1/forgotten", dependencies=dependencies)(forgotten)
        known = routes.all_routes()
        with monkeypatch.context() as patch:
            patch.setattr(routes, "all_routes", lambda known=known, router=router: [*known, *router.routes])
            with pytest.raises(UndeclaredPermissionError, match="GET /api/v1/forgotten must declare exactly one"):
                create_app(settings, MemoryLauncher())
    callers.check_declared(routes.all_routes())


def test_the_first_administrator_comes_from_the_host(accounts: Accounts, client: httpx.Client) -> None:
    token = create_first_admin(accounts.database, "root")
    with signed_in(client, token) as root:
        assert root.get(WHOAMI).json()["admin"] is True
        assert [row["action"] for row in root.get("/api/v1/audit").json()["items"]] == ["create_first_admin"]
    with pytest.raises(ConflictError, match="--again"):
        create_first_admin(accounts.database, "eve")
    assert status(client, create_first_admin(accounts.database, "eve", again=True)) == 200
    with pytest.raises(ValueError, match="login"):
        create_first_admin(accounts.database, "Not A Login", again=True)


def test_the_command_for_the_first_administrator(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.identity.first_admin", *arguments]
        environment = {**os.environ, "RUNG_HOME": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first = run("root")
    assert (first.returncode, first.stderr) == (0, "")
    assert tokens.is_well_formed(first.stdout.strip())
    again = run("eve")
    assert (again.returncode, again.stdout, len(again.stderr.splitlines())) == (2, "", 1)
    assert run().returncode == 2
    database = Database(Settings(home=tmp_path).sqlalchemy_url)
    with database.read() as session:
        assert users.count_admins(session) == 1
    database.close()


def test_each_response_has_the_id_of_its_request(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="service.access"):
        own = client.get(EXPERIMENTS, params={"name": "secret"}, headers={"X-Request-Id": "mine-1"})
        made = [client.get(EXPERIMENTS, headers={"X-Request-Id": "not\tgood" * n}).headers for n in (0, 1)]
        assert client.get("/nowhere").headers["x-request-id"]
    assert own.headers["x-request-id"] == "mine-1"
    assert len({headers["x-request-id"] for headers in made} - {"", "not\tgood"}) == 2
    line = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("mine-1 "))
    assert line.startswith(f"mine-1 GET {EXPERIMENTS} 200 by 'open' from 127.0.0.1 in ")
    assert "secret" not in line
