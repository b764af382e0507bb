"""Who is let in: a page of another site, and a name that was bound to this machine, are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings

EXPERIMENTS = "/api/v1/experiments"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "file://"])
def test_a_page_of_another_site_is_refused(client: httpx.Client, origin: str) -> None:
    answer = client.post(EXPERIMENTS, json={"name": "x"}, headers={"Origin": origin})
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert client.get(EXPERIMENTS).json()["items"] == []


def test_the_services_own_page_and_programs_are_accepted(client: httpx.Client) -> None:
    own = f"http://127.0.0.1:{client.base_url.port}"
    assert client.post(EXPERIMENTS, json={"name": "x"}, headers={"Origin": own}).status_code == 201
    assert client.post(EXPERIMENTS, json={"name": "x"}).status_code == 201


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "", "[::1"])
def test_a_foreign_host_is_refused(client: httpx.Client, host: str) -> None:
    answer = client.get(EXPERIMENTS, headers={"Host": host})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080"])
def test_names_of_this_machine_are_accepted(client: httpx.Client, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_content_type_that_any_page_may_post_is_refused(client: httpx.Client) -> None:
    answer = client.post(EXPERIMENTS, content="name: x", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("given", "name", "known"),
    [
        ({}, "127.0.0.1", True),
        ({"host": "10.0.0.7"}, "10.0.0.7", True),
        ({"host": "10.0.0.7"}, "*", False),
        ({"host": "0.0.0.0", "allowed_hosts": "*"}, "*", True),
        ({"allowed_hosts": "*"}, "*", True),
        ({"host": "0.0.0.0", "allowed_hosts": "rung.example"}, "*", False),
        ({"host": "0.0.0.0", "allowed_hosts": "a.example, RUNG.example"}, "rung.example", True),
        ({"allowed_hosts": "rung.example", "service_url": "http://head:8080"}, "head", True),
    ],
)
def test_the_settings_decide_which_hosts_are_trusted(
    tmp_path: Path, given: dict[str, Any], name: str, known: bool
) -> None:
    assert (name in Settings(home=tmp_path, **given).hosts) is known
