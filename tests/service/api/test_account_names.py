"""Names of people, teams and tokens are one line: line feeds would forge rows of tables."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.accounts import Accounts, signed_in

HOSTILE = ("ada\nroot   admin", "a\rb", "a\tb", "\x1b[31mred", "\x9b31m", "a\u2028b", "ab\u202egnp", "\u2066x")
REQUESTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/api/v1/users", {"login": "ada"}, "name"),
    ("POST", "/api/v1/users", {"login": "ada"}, "email"),
    ("PATCH", "/api/v1/users/root", {}, "name"),
    ("PATCH", "/api/v1/users/root", {}, "email"),
    ("POST", "/api/v1/teams", {"team": "speech"}, "name"),
    ("POST", "/api/v1/tokens", {}, "name"),
    ("POST", "/api/v1/auth/login", {"login": "root", "password": "x"}, "name"),
    ("POST", "/api/v1/auth/login", {"password": "x"}, "login"),
    ("POST", "/api/v1/auth/exchange", {"id_token": "x"}, "name"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), REQUESTS)
def test_a_name_with_control_characters_is_refused(
    client: httpx.Client, accounts: Accounts, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    with signed_in(client, accounts.person("root", admin=True)) as root:
        for name in HOSTILE:
            answer = root.request(method, path, json={**body, field: name})
            assert answer.status_code == 422, name
            (problem,) = answer.json()["errors"]
            assert (problem["field"], "control characters" in problem["rule"]) == (field, True)
            assert problem["rule"].startswith("must "), "no words of the library"


def test_names_of_all_scripts_are_kept(client: httpx.Client, accounts: Accounts) -> None:
    with signed_in(client, accounts.person("root", admin=True)) as root:
        for name in ("Zoë Müller", "日本 太郎", "محمد", "👩\u200d🔬 lab"):
            assert root.patch("/api/v1/users/root", json={"name": name}).json()["name"] == name
