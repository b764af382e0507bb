"""The commands about webhooks, with a real service and a real receiver: what they print, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from standardwebhooks import Webhook as Verifier
from typer.testing import CliRunner

from service.cli import app
from service.context import AppContext
from service.delivery.worker import DeliveryWorker
from service.scheduling.reconciler import Reconciler
from tests.support.webhook_receiver import WebhookReceiver, webhook_receiver

Run = Callable[..., Result]


@pytest.fixture
def run(client: httpx.Client, tmp_path: Path) -> Run:
    environment = {"RUNG_URL": str(client.base_url), "RUNG_HOME": str(tmp_path / "none"), "TZ": "UTC"}
    return lambda *arguments: CliRunner(env=environment).invoke(app, ["webhook", *arguments])


@pytest.fixture
def receiver(context: AppContext, reconciler: Reconciler) -> Iterator[WebhookReceiver]:
    """A receiver, while a worker of the service sends what is due."""
    reconciler.reconcile_once()
    worker = DeliveryWorker(context, lambda: reconciler.held)
    with webhook_receiver() as found:
        worker.start()
        yield found
        worker.stop()


def test_a_webhook_from_its_creation_to_its_end(run: Run, receiver: WebhookReceiver) -> None:
    made = run("create", f"{receiver.url}/hook", "--name", "our chat", "--event", "experiment.failed")
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    [shown] = json.loads(run("list", "--json").stdout)
    hook = shown["id"]
    assert made.stderr == f"webhook {hook} notifies {receiver.url}; its secret is not shown again:\n"
    sent = run("test", hook)
    assert (sent.exit_code, sent.stdout) == (0, "the test was delivered: answered 200\n"), sent.output
    [one] = receiver.received()
    Verifier(secret).verify(one.body, one.headers)
    receiver.behave(status=500)
    failed = run("test", hook)
    assert (failed.exit_code, failed.stdout) == (1, "the test was not delivered: answered 500\n"), failed.output
    rotated = run("rotate", hook)
    assert rotated.stdout.startswith("whsec_")
    assert rotated.stdout.strip() != secret
    assert run("show", hook).stdout.splitlines() == [
        f"webhook {hook} (our chat) of team default",
        f"  target    {receiver.url} (standard)",
        "  events    experiment.failed",
        "  pending   0",
    ]
    table = run("list").stdout
    assert all(word in table for word in (hook, "default", "our chat", "experiment.failed"))
    table = run("deliveries", hook).stdout
    assert table.count("webhook.test") == 2
    assert all(word in table for word in ("delivered", "failed", "answered 500"))
    assert run("delete", hook).stdout == f"webhook {hook} is deleted\n"
    assert run("show", hook).exit_code == 2
    assert json.loads(run("list", "--json").stdout) == []


def test_a_disabled_webhook_says_why_and_how_to_use_it_again(
    run: Run, receiver: WebhookReceiver, client: httpx.Client
) -> None:
    hook = json.loads(run("create", receiver.url, "--slack", "--json").stdout)["id"]
    receiver.behave(status=410)
    assert run("test", hook).exit_code == 1
    lines = run("show", hook).stdout.splitlines()
    assert lines[1] == f"  target    {receiver.url} (slack)"
    assert lines[2] == "  events    all"
    assert lines[4].endswith(": its receiver wants nothing more (answered 410)")
    assert lines[5] == f"  `rung webhook enable {hook}` uses it again"
    assert "disabled" in run("list").stdout
    refused = run("test", hook)
    assert (refused.exit_code, refused.stderr) == (1, f"rung: webhook {hook} is disabled: enable it first\n")
    assert len(run("enable", hook).stdout.splitlines()) == 4


def test_what_cannot_be_created_is_reported(run: Run) -> None:
    refused = run("create", "http://hooks.example.com/x")
    assert refused.exit_code == 2
    assert "url: must begin with https://" in refused.stderr
    refused = run("create", "https://hooks.example.com/x", "--event", "completed")
    assert refused.exit_code == 2
    assert "events[0]: must be one of experiment.started" in refused.stderr
