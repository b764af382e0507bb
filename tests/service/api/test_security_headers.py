"""What browsers must obey: every response has the headers, and the page of the documentation still works."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest

from service.api.openapi import ASSETS
from service.app import create_app
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher
from tests.support.server import serving


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("GET", "/api/v1/experiments", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("OPTIONS", "/api/v1/experiments", {}, 204),
        ("POST", "/api/v1/experiments", {"Content-Type": "text/html"}, 415),
        ("GET", "/healthz", {"Host": "evil.example"}, 400),
        ("GET", "/", {}, 307),
    ],
)
def test_every_response_has_the_headers(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = client.request(method, path, headers=headers)
    assert response.status_code == status
    check_headers(response)


def test_an_internal_error_has_the_headers_too(settings: Settings, launcher: MemoryLauncher) -> None:
    app = create_app(settings, launcher)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a defect")

    with serving(app) as client:
        response = client.get("/broken")
    assert response.status_code == 500
    check_headers(response)


def check_headers(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_the_page_of_the_documentation_may_run_its_own_scripts_only(client: httpx.Client) -> None:
    page = client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert (policy["style-src"], policy["connect-src"]) == ("'self' 'unsafe-inline'", "'self'")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    assert all(address.startswith(f"{ASSETS}/") for address in loaded)


def test_the_files_of_the_documentation_may_be_stored(client: httpx.Client) -> None:
    response = client.get(f"{ASSETS}/swagger-ui.css")
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-cache")
    assert client.get(f"{ASSETS}/nothing.js").headers["cache-control"] == "no-store"
    again = client.get(f"{ASSETS}/swagger-ui.css", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
