"""Clients in environments whose proxies and certificates cannot be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from service.client import Client
from service.client.transport import UnreachableError
from service.http_client import EnvironmentUnusableError, open_client
from service.settings import Settings

REMOTE, NOWHERE = "http://rung.invalid:9", "/nowhere/ca.pem"
#: Each breaks a client of httpx that follows the environment.
UNUSABLE = [
    {"ALL_PROXY": "socks5://127.0.0.1:1"},
    {"all_proxy": "socks5h://127.0.0.1:1", "NO_PROXY": "example.org"},
    {"HTTP_PROXY": "foo://127.0.0.1:1"},
    {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "fe80::/10"},
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server on this machine."""
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variables", [*UNUSABLE, {"SSL_CERT_FILE": NOWHERE}, {"HTTP_PROXY": "http://127.0.0.1:1"}])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.5"])
def test_a_server_on_this_machine_is_reached_in_any_environment(
    monkeypatch: pytest.MonkeyPatch, port: int, variables: dict[str, str], host: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with open_client(url := f"http://{host}:{port}") as client:
        if host != "127.0.0.5":  # the server listens on one address only
            assert client.get(url).status_code == 200
    Client(url).close()


@pytest.mark.parametrize("variables", UNUSABLE)
def test_an_unusable_proxy_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnreachableError, match=", ".join(sorted(variables))):
        Client(REMOTE)
    monkeypatch.setenv("no_proxy", "rung.invalid")
    Client(REMOTE).close()


def test_a_proxy_is_used_for_another_machine(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with open_client(REMOTE) as client:
        assert client.get(REMOTE).status_code == 200
    monkeypatch.setenv("NO_PROXY", "rung.invalid")
    with open_client(REMOTE) as client, pytest.raises(httpx.ConnectError):
        client.get(REMOTE)


@pytest.mark.parametrize("certificates", [NOWHERE, __file__])
def test_unusable_certificates_matter_only_for_encrypted_connections(
    monkeypatch: pytest.MonkeyPatch, certificates: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates)
    open_client(REMOTE).close()
    with pytest.raises(EnvironmentUnusableError, match=r"^SSL_CERT_FILE must name readable certificates"):
        open_client("https://rung.invalid")


def test_the_service_reaches_mlflow_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from service.adapters.mlflow_client import MlflowClient

    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", NOWHERE)
    MlflowClient(Settings(home=str(tmp_path))).close()
