"""HEAD, OPTIONS and Allow, for every path of the interface."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
VALUES = {
    "experiment_id": "k3v9q2mz",
    "trial": "0",
    "name": "digits-quick",
    "attempt_id": "exp-k3v9q2mz-a1",
    "team": "vision",
    "login": "ada",
    "token_id": "k3v9q2mz",
    "pool": "default",
    "webhook_id": "k3v9q2mzk3",
}


@pytest.fixture
def allowed(client: httpx.Client) -> dict[str, set[str]]:
    """The methods of each path, as the OpenAPI document has them."""
    document: dict[str, Any] = client.get("/api/v1/openapi.json").json()
    found = {}
    for path, operations in document["paths"].items():
        methods = {method.upper() for method in operations} | {"OPTIONS"}
        found[path.format(**VALUES)] = methods | ({"HEAD"} if "GET" in methods else set())
    return found


def test_options_lists_every_method(client: httpx.Client, allowed: dict[str, set[str]]) -> None:
    for path, methods in allowed.items():
        response = client.options(path)
        assert (response.status_code, response.content) == (204, b""), path
        assert response.headers["allow"] == ", ".join(sorted(methods)), path


def test_405_lists_every_method(client: httpx.Client, allowed: dict[str, set[str]]) -> None:
    for path, methods in allowed.items():
        for method in set(METHODS) - methods:
            response = client.request(method, path)
            assert response.status_code == 405, (method, path)
            assert response.headers["allow"] == ", ".join(sorted(methods)), (method, path)
            if method == "HEAD":
                assert response.content == b""
                continue
            document = response.json()
            assert document["title"] == "Method not allowed"
            assert document["detail"] == f"{method} is not allowed for {path}"
            (error,) = document["errors"]
            assert (error["field"], error["value"]) == ("method", method)
            assert error["rule"] == f"must be one of {', '.join(sorted(methods))}"


def test_head_answers_as_get_without_a_body(client: httpx.Client, allowed: dict[str, set[str]]) -> None:
    pages = ["/docs", "/", "/api/v1/openapi.json", "/docs/assets/favicon.png"]
    for path in [*pages, *(path for path, methods in allowed.items() if "GET" in methods)]:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        ignored = {"date", "x-request-id"}
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in get.headers.items() if k not in ignored
        }, path


def test_an_unknown_path_is_404_for_every_method(client: httpx.Client) -> None:
    for method in METHODS:
        response = client.request(method, "/api/v1/nowhere")
        assert response.status_code == 404, method
        assert "allow" not in response.headers


def test_static_files_list_their_methods(client: httpx.Client) -> None:
    response = client.post("/docs/assets/favicon.png")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
