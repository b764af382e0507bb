"""Signing in over REST: with a password, and with the ID token of a real OpenID provider process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.context import AppContext
from service.contract.errors import ProblemDocument
from service.identity import issued_tokens, tokens, users
from service.settings import AuthMode, Settings
from tests.support.accounts import Accounts, signed_in
from tests.support.openid_provider import CLIENT, OpenIdProvider

LOGIN, EXCHANGE, WHOAMI = "/api/v1/auth/login", "/api/v1/auth/exchange", "/api/v1/auth/whoami"
PASSWORD, ANOTHER = "correct horse battery", "staple my paperclip!"


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    own: dict[str, Any] = {}
    if "running_provider" in request.fixturenames:
        provider = request.getfixturevalue("running_provider")
        provider.behave()
        own = {"oidc_issuer": provider.issuer, "oidc_client_id": CLIENT}
    return Settings(**{**settings.model_dump(), **own})


@pytest.fixture
def admin(client: httpx.Client, accounts: Accounts) -> Iterator[httpx.Client]:
    with signed_in(client, accounts.person("root", admin=True)) as sender:
        yield sender


def add(admin: httpx.Client, login: str = "ada", password: str | None = PASSWORD) -> httpx.Response:
    return admin.post("/api/v1/users", json={"login": login, "password": password})


def log_in(client: httpx.Client, login: str = "ada", password: str = PASSWORD, **more: Any) -> httpx.Response:
    return client.post(LOGIN, json={"login": login, "password": password, **more})


def test_a_password_gives_a_token(client: httpx.Client, admin: httpx.Client) -> None:
    assert add(admin).status_code == 201
    answer = log_in(client, " Ada", name="laptop", expires_days=3)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["user"]["login"], found["name"]) == ("ada", "laptop")
    left = datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=2.9) < left <= timedelta(days=3)
    assert tokens.is_well_formed(found["token"])
    with signed_in(client, found["token"]) as ada:
        assert ada.get(WHOAMI).json()["token"]["id"] == found["id"]
        assert [one["name"] for one in ada.get("/api/v1/tokens").json()["items"]] == ["laptop"]
        assert ada.post("/api/v1/auth/logout").status_code == 204
        assert ada.get(WHOAMI).status_code == 401
    newest = admin.get("/api/v1/audit", params={"object": "users/ada"}).json()["items"][0]
    assert (newest["action"], newest["kind"], newest["principal"]) == ("log_in", "nobody", "ada")
    assert found["token"] not in str(newest)
    assert PASSWORD not in str(admin.get("/api/v1/audit").json())


def test_what_is_wrong_is_not_said(client: httpx.Client, admin: httpx.Client) -> None:
    add(admin)
    add(admin, "bob", None)
    add(admin, "eve")
    admin.patch("/api/v1/users/eve", json={"disabled": True}).raise_for_status()
    answers = [log_in(client, "ada", "wrong"), log_in(client, "nobody"), log_in(client, "bob"), log_in(client, "eve")]
    assert {(one.status_code, one.text) for one in answers} == {(401, answers[0].text)}
    refused = admin.get("/api/v1/audit", params={"object": "auth"}).json()["items"]
    assert [row["principal"] for row in refused] == ["eve", "bob", "unknown login", "ada"]
    assert {row["outcome"] for row in refused} == {"refused"}


def test_attempts_are_limited(client: httpx.Client, admin: httpx.Client) -> None:
    add(admin)
    found = [log_in(client, "ada", "wrong").status_code for _ in range(11)]
    assert found == [401] * 10 + [429]
    assert log_in(client).status_code == 429, "also with the right password"
    assert log_in(client).headers["retry-after"]
    assert len(admin.get("/api/v1/audit", params={"object": "auth"}).json()["items"]) == 10


def test_a_person_changes_the_own_password(client: httpx.Client, admin: httpx.Client) -> None:
    add(admin)
    add(admin, "bob")
    with signed_in(client, log_in(client).json()["token"]) as ada:
        for given in ({"new": ANOTHER}, {"new": ANOTHER, "old": "wrong"}, {"new": "short", "old": PASSWORD}):
            assert ada.post("/api/v1/auth/password", json=given).status_code == 422
        changed = ada.post("/api/v1/auth/password", json={"new": ANOTHER, "old": PASSWORD})
        assert changed.status_code == 204, changed.text
        for login in ("ada", "bob"):
            assert ada.patch(f"/api/v1/users/{login}", json={"password": PASSWORD}).status_code == 403
    assert (log_in(client).status_code, log_in(client, password=ANOTHER).status_code) == (401, 201)
    assert admin.patch("/api/v1/users/bob", json={"password": ANOTHER}).status_code == 200
    assert log_in(client, "bob", ANOTHER).status_code == 201


def test_a_person_without_a_password_gets_the_first_one_from_an_administrator(
    client: httpx.Client, accounts: Accounts, admin: httpx.Client
) -> None:
    """Otherwise a stolen token of somebody who signs in with the provider would become a way in for good."""
    with signed_in(client, accounts.person("bob")) as bob:
        assert bob.post("/api/v1/auth/password", json={"new": ANOTHER, "old": ""}).status_code == 409
        admin.patch("/api/v1/users/bob", json={"password": PASSWORD}).raise_for_status()
        assert bob.post("/api/v1/auth/password", json={"new": ANOTHER, "old": PASSWORD}).status_code == 204


def test_a_weak_password_is_refused_and_not_repeated(admin: httpx.Client) -> None:
    answer = add(admin, "ada", "aaaa")
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"password"}
    assert "aaaa" not in answer.text
    answer = admin.post("/api/v1/users", json={"login": "ada", "password": ["secret"]})
    assert (answer.status_code, "secret" in answer.text) == (422, False)


def test_an_id_token_gives_a_token(client: httpx.Client, admin: httpx.Client, running_provider: OpenIdProvider) -> None:
    assert client.get("/api/v1/auth").json()["oidc"] == {
        "issuer": running_provider.issuer,
        "client_id": CLIENT,
        "scopes": ["openid", "profile", "email"],
    }
    body = {"id_token": running_provider.id_token(nonce="n1"), "nonce": "n1", "name": "laptop"}
    first = client.post(EXCHANGE, json=body)
    assert first.status_code == 201, first.text
    found = first.json()["user"]
    assert (found["login"], found["name"], found["email"]) == ("alice", "Alice Example", "alice@example.com")
    with signed_in(client, first.json()["token"]) as alice:
        assert alice.get(WHOAMI).json()["teams"] == [], "until somebody adds her"
        assert alice.post("/api/v1/experiments", json={"name": "x"}).status_code == 403
        admin.put("/api/v1/teams/default/members/alice", json={"role": "member"}).raise_for_status()
        assert alice.post("/api/v1/experiments", json={"name": "x"}).json()["owner"] == "alice"
    again = client.post(EXCHANGE, json={"id_token": running_provider.id_token()})
    assert again.json()["user"]["login"] == "alice"
    admin.patch("/api/v1/users/alice", json={"disabled": True}).raise_for_status()
    assert client.post(EXCHANGE, json={"id_token": running_provider.id_token()}).status_code == 401


def test_a_login_that_is_taken_is_not_given_to_another_person(
    client: httpx.Client, admin: httpx.Client, running_provider: OpenIdProvider
) -> None:
    add(admin, "alice")
    answer = client.post(EXCHANGE, json={"id_token": running_provider.id_token()})
    assert answer.json()["user"]["login"] == "alice-2"
    other = client.post(EXCHANGE, json={"id_token": running_provider.id_token(sub="subject-2")})
    assert other.json()["user"]["login"] == "alice-3"


def test_a_subject_that_differs_by_a_space_is_another_person(
    client: httpx.Client, admin: httpx.Client, running_provider: OpenIdProvider
) -> None:
    found = [
        client.post(EXCHANGE, json={"id_token": running_provider.id_token(sub=subject)}).json()["user"]["login"]
        for subject in ("subject-1", " subject-1 ", "subject-1")
    ]
    assert found == ["alice", "alice-2", "alice"]


def test_an_id_token_is_exchanged_once_however_its_signature_is_written(
    client: httpx.Client, admin: httpx.Client, running_provider: OpenIdProvider
) -> None:
    token = running_provider.id_token()
    assert client.post(EXCHANGE, json={"id_token": token}).status_code == 201
    unused_bits = {"A": "B", "Q": "R", "g": "h", "w": "x"}  # of the last character of 256 bytes in base64
    for again in (token, token[:-1] + unused_bits[token[-1]]):
        answer = client.post(EXCHANGE, json={"id_token": again})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), answer.text
    assert "must not have been used before; sign in again" in client.post(EXCHANGE, json={"id_token": token}).text
    assert client.post(EXCHANGE, json={"id_token": running_provider.id_token()}).status_code == 201


@pytest.mark.stores
def test_of_parallel_exchanges_of_an_id_token_one_succeeds(
    client: httpx.Client, admin: httpx.Client, running_provider: OpenIdProvider
) -> None:
    body = {"id_token": running_provider.id_token()}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(EXCHANGE, json=body).status_code, range(4)))
    assert sorted(answers) == [201, 401, 401, 401]


@pytest.mark.parametrize("claims", [{"aud": "other"}, {"iss": "https://evil.example"}, {"exp": 1}, {"nonce": "n2"}])
def test_an_id_token_for_somebody_else_is_refused(
    client: httpx.Client, accounts: Accounts, running_provider: OpenIdProvider, claims: dict[str, Any]
) -> None:
    body = {"id_token": running_provider.id_token(**claims), "nonce": "n1"}
    answer = client.post(EXCHANGE, json=body)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), answer.text
    assert ProblemDocument.model_validate(answer.json()).status == 401
    with accounts.database.read() as session:
        assert users.list_all(session) == []


def test_a_way_that_the_service_does_not_offer(client: httpx.Client, accounts: Accounts) -> None:
    assert client.post(EXCHANGE, json={"id_token": "a.b.c"}).status_code == 403


def test_without_accounts_nobody_signs_in(client: httpx.Client) -> None:
    assert log_in(client).status_code == 409
    assert client.post(EXCHANGE, json={"id_token": "a.b.c"}).status_code == 409


def test_a_token_makes_none_that_outlives_it_unless_it_is_from_signing_in(
    client: httpx.Client, admin: httpx.Client
) -> None:
    admin.post("/api/v1/teams", json={"team": "vision"}).raise_for_status()
    add(admin)
    admin.put("/api/v1/teams/vision/members/ada", json={"role": "manager"}).raise_for_status()
    program = {"kind": "service", "team": "vision", "role": "member"}
    with signed_in(client, log_in(client, expires_days=1).json()["token"]) as ada:
        short = ada.post("/api/v1/tokens", json={"expires_days": 5}).json()["token"]
        restricted = ada.post("/api/v1/tokens", json={"expires_days": 5, "team": "vision"}).json()["token"]
    for token, kind in ((short, {}), (short, program), (restricted, program)):
        with signed_in(client, token) as sender:
            for days in ({"expires_days": 5}, {"expires_days": 365}, {}):
                refused = sender.post("/api/v1/tokens", json={**kind, **days})
                assert refused.status_code == 422, refused.text
                [error] = refused.json()["errors"]
                assert error["field"] == "expires_days"
                assert "only tokens that you get by signing in make longer ones" in error["rule"]
            made = sender.post("/api/v1/tokens", json={**kind, "expires_days": 4})
            assert made.status_code == 201, made.text
    with signed_in(client, log_in(client, expires_days=1).json()["token"]) as ada:
        assert ada.post("/api/v1/tokens", json={"expires_days": 365}).status_code == 201


def test_a_token_of_a_sign_in_is_a_persons(client: httpx.Client, admin: httpx.Client, context: AppContext) -> None:
    add(admin)
    text = log_in(client).json()["token"]
    with context.database.read() as session:
        found = issued_tokens.recognize(session.connection(), text, datetime.now(UTC))
    assert found is not None
    assert found.principal.login == "ada"
    assert context.settings.auth is AuthMode.ACCOUNTS
