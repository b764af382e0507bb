"""What the commands say where no Rung service answers, or where it stops while they watch."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from service.cli import app, submission
from service.cli.rendering import watch
from service.client import Client
from tests.support.losing import Losing

COMMANDS = (
    ("list",),
    ("show", "22222222"),
    ("watch", "22222222"),
    ("logs", "22222222", "--follow"),
    ("submit", "preset:digits-quick"),
)


@pytest.fixture(params=[200, 404, 405], ids=["a page", "not found", "not allowed"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a web server that is not Rung."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>something else</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_server_is_not_a_rung_service(stranger: str, command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--url", stranger])
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"rung: {stranger} is not a Rung service (GET /")
    assert result.stderr.endswith("; check --url / RUNG_URL\n")
    problem = json.loads(CliRunner().invoke(app, [*command, "--url", stranger, "--json"]).stderr)
    assert problem["detail"].endswith("check --url / RUNG_URL")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_page_of_the_service_is_not_its_url(client: httpx.Client, command: tuple[str, ...]) -> None:
    url = f"{str(client.base_url).rstrip('/')}/docs"
    result = CliRunner().invoke(app, [*command, "--url", url])
    assert result.exit_code == 3
    assert result.stderr == f"rung: {url} is not a Rung service; try it without /docs; check --url / RUNG_URL\n"


def test_where_nothing_answers_the_options_are_named() -> None:
    result = CliRunner().invoke(app, ["list", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 3
    assert result.stderr.startswith("rung: no Rung service answers at http://127.0.0.1:1 (")
    assert result.stderr.endswith("); start one with `rung up`, or check --url / RUNG_URL\n")


@pytest.mark.parametrize("live", [False, True])
def test_a_watch_reports_an_outage_and_continues(client: httpx.Client, live: bool) -> None:
    with Client(str(client.base_url)) as rung:
        one = rung.submit({"name": "first"}).id
        rung.cancel(one)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=live, width=200, color_system=None)
    lossy = Losing("refused", "refused")
    with Client(str(client.base_url), transport=lossy) as rung:
        assert watch(rung, one, console).state == "CANCELED"
    shown = "(connection refused); trying again for up to 60 s"
    assert shown in screen.getvalue()
    assert live or screen.getvalue().count("trying again") == 1
    assert lossy.timeouts[:2] == [5, 30], "a service that hangs is reported after five seconds"


def test_a_watch_ends_where_the_service_does_not_come_back(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(client.base_url).rstrip("/")
    with Client(url) as rung:
        one = rung.submit({"name": "first"}).id
    lossy = Losing("", "", *["refused"] * 50)
    monkeypatch.setattr(submission, "connect", lambda *_: Client(url, transport=lossy, watch_retry_s=0.3))
    result = CliRunner().invoke(app, ["watch", one, "--interval", "0.05"])
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"{one} keeps running without the service; `rung watch {one}` shows it",
        f"rung: no Rung service answers at {url} (connection refused); start one with `rung up`, or check --url / "
        "RUNG_URL",
    ]
