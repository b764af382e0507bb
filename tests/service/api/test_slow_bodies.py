"""A caller who loses rights while the body of a request arrives: the request has those of its end, not of its start."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.api
from search_spaces.protocol import API_PREFIX
from service.identity import issued_tokens, teams, users
from service.identity.principals import Role
from tests.support.accounts import Accounts, signed_in

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 30.0

Change = Callable[[Accounts, str], None]


def disable(accounts: Accounts, token: str) -> None:
    with accounts.database.write() as session:
        users.change(session, users.find(session, "ada", lock=True), {"disabled": True}, NOW)


def demote(accounts: Accounts, token: str) -> None:
    with accounts.database.write() as session:
        users.change(session, users.find(session, "ada", lock=True), {"admin": False}, NOW)


def leave(accounts: Accounts, token: str) -> None:
    with accounts.database.write() as session:
        teams.remove_member(session, teams.find(session, "vision", None), "ada")


def only_read(accounts: Accounts, token: str) -> None:
    with accounts.database.write() as session:
        teams.set_member(session, teams.find(session, "vision", None), "ada", Role.VIEWER)


def revoke(accounts: Accounts, token: str) -> None:
    with accounts.database.write() as session:
        row = issued_tokens.find(session, accounts.row(token).id, None, None, None)
        issued_tokens.revoke(row, NOW)


@pytest.fixture
def send_slowly(client: httpx.Client, accounts: Accounts) -> Callable[..., int]:
    """The status of a request whose body is complete only after a change. Its token must not have been used before."""

    def send(token: str, request: tuple[str, str, Any], change: Change) -> int:
        method, path, body = request
        text = json.dumps(body).encode()

        def parts() -> Iterator[bytes]:
            yield text[:-1]
            deadline = time.monotonic() + WAIT_S
            while accounts.row(token).last_used_at is None:  # until the service has looked at the headers
                assert time.monotonic() < deadline
                time.sleep(0.01)
            change(accounts, token)
            yield text[-1:]

        with signed_in(client, token) as own:
            headers = {"Content-Type": "application/json"}
            return own.request(method, API_PREFIX + path, content=parts(), headers=headers).status_code

    return send


def nothing(accounts: Accounts, token: str) -> None:
    """No right is lost."""


SERVICE_TOKEN = {"kind": "service", "team": "vision", "role": "member", "name": "nightly", "expires_days": 90}
SUBMISSION = "POST", "/experiments?team=vision", {"name": "x"}
VALIDATION = "POST", "/experiments?team=vision&validate_only=true", {"name": "x"}
OWN_ROLE = "PUT", "/teams/vision/members/ada", {"role": "manager"}


@pytest.mark.parametrize(
    ("role", "change", "request_", "status"),
    [
        ("admin", disable, ("PATCH", "/users/ada", {"disabled": False, "admin": True}), 401),
        ("admin", disable, ("PATCH", "/users/eve", {"admin": True}), 401),
        ("admin", demote, ("PATCH", "/users/eve", {"admin": True}), 403),
        ("manager", leave, OWN_ROLE, 403),
        ("manager", only_read, OWN_ROLE, 403),
        ("manager", nothing, OWN_ROLE, 200),
        ("manager", leave, ("POST", "/tokens", SERVICE_TOKEN), 403),
        ("manager", revoke, ("POST", "/tokens", {"kind": "person", "expires_days": 90}), 401),
        ("manager", revoke, ("POST", "/auth/password", {"old": "x", "new": "correct horse battery"}), 401),
        ("member", revoke, SUBMISSION, 401),
        ("member", only_read, SUBMISSION, 403),
        ("member", only_read, VALIDATION, 403),
        ("member", nothing, SUBMISSION, 201),
        ("member", nothing, VALIDATION, 200),
    ],
)
def test_rights_that_are_lost_meanwhile(
    accounts: Accounts,
    send_slowly: Callable[..., int],
    role: str,
    change: Change,
    request_: tuple[str, str, Any],
    status: int,
) -> None:
    accounts.team("vision")
    accounts.person("root", admin=True)
    accounts.person("eve")
    token = accounts.person("ada", admin=role == "admin", **({} if role == "admin" else {"vision": role}))
    assert send_slowly(token, request_, change) == status
    with accounts.database.read() as session:
        assert [user.login for user in users.list_all(session) if user.admin and not user.disabled_at][-1] == "root"


def test_an_experiment_is_not_changed_with_lost_rights(
    client: httpx.Client, accounts: Accounts, send_slowly: Callable[..., int]
) -> None:
    accounts.team("vision")
    with signed_in(client, accounts.person("ada", vision="member")) as ada:
        made = ada.post(f"{API_PREFIX}/experiments", json={"name": "x"}).json()["id"]
    path = f"/experiments/{made}"
    assert send_slowly(accounts.token("ada"), ("PATCH", path, {"priority": 7}), nothing) == 200
    assert send_slowly(accounts.token("ada"), ("PATCH", path, {"priority": 8}), leave) == 403
    with signed_in(client, accounts.person("root", admin=True)) as root:
        assert root.get(API_PREFIX + path).json()["controls"]["priority"] == 7


def test_routes_change_nothing_in_other_transactions() -> None:
    """Heartbeats have a token of their attempt, which their transaction checks; who signs in has none."""
    routes = Path(service.api.__file__).parent / "routes"
    found = {file.stem for file in routes.glob("*.py") if "database.write()" in file.read_text()}
    assert found == {"heartbeats", "sign_in"}
