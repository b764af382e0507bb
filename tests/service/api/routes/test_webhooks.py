"""The routes of webhooks: what may be created, what is shown once, what the audit log says, and pages of deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.context import AppContext
from service.contract.webhook_events import Event
from service.domain import experiments, notifications, webhooks
from service.identity.secret_box import SecretBox
from tests.support.accounts import Accounts, signed_in

API = "/api/v1/webhooks"
URL = "https://hooks.example.com/services/T0/B0/path-of-the-chat"


@pytest.fixture
def manager(client: httpx.Client, accounts: Accounts) -> Iterator[httpx.Client]:
    accounts.team("vision")
    with signed_in(client, accounts.person("manager", vision="manager")) as found:
        yield found


def create(manager: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = manager.post(API, json={"url": URL, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_secret_is_shown_once_and_the_path_of_the_url_never(manager: httpx.Client) -> None:
    made = create(manager, name="our chat", format="slack")
    assert (made["team"], made["origin"], made["format"]) == ("vision", "https://hooks.example.com", "slack")
    assert made["events"] == [str(event) for event in Event]
    assert made["secret"].startswith("whsec_")
    manager.post(f"{API}/{made['id']}/enable").raise_for_status()
    rotated = manager.post(f"{API}/{made['id']}/rotate").json()
    assert rotated["secret"] != made["secret"]
    shown = manager.get(f"{API}/{made['id']}")
    assert shown.json() == {name: value for name, value in made.items() if name != "secret"}
    assert manager.get(API).json() == {"items": [shown.json()]}
    manager.delete(f"{API}/{made['id']}").raise_for_status()
    entries = manager.get("/api/v1/audit").json()["items"]
    assert [one["action"] for one in entries] == [
        "delete_webhook",
        "rotate_webhook",
        "enable_webhook",
        "create_webhook",
    ]
    assert [one["outcome"] for one in entries] == ["done", "done", "unchanged", "done"]
    assert {(one["object"], one["team"]) for one in entries} == {(f"webhooks/{made['id']}", "vision")}
    assert entries[-1]["change"] == {
        "after": {
            "name": "our chat",
            "origin": "https://hooks.example.com",
            "format": "slack",
            "events": [str(event) for event in Event],
        }
    }
    for text in (shown.text, str(entries)):
        assert "path-of-the-chat" not in text
        assert "whsec_" not in text


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"url": "http://hooks.example.com/"}, "url", "must begin with https://"),
        ({"url": "https://127.0.0.2/"}, "url", "must have public addresses only"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url", "must have public addresses only"),
        ({"url": "https://u:p@hooks.example.com/"}, "url", "must have no user, no password"),
        ({"url": "hooks"}, "url", "must be a URL such as"),
        ({"url": URL, "events": ["experiment.paused"]}, "events[0]", "must be one of"),
        ({"url": URL, "events": ["webhook.test"]}, "events[0]", "must be one of"),
        ({"url": URL, "events": []}, "events", "must"),
        ({"url": URL, "format": "xml"}, "format", "must be"),
        ({}, "url", "is required"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused(
    manager: httpx.Client, body: dict[str, Any], field: str, rule: str
) -> None:
    refused = manager.post(API, json=body)
    assert refused.status_code == 422, refused.text
    [problem] = refused.json()["errors"]
    assert problem["field"] == field
    assert problem["rule"].startswith(rule), problem
    assert "u:p" not in refused.text


def test_a_team_is_needed_by_who_manages_several(client: httpx.Client, accounts: Accounts) -> None:
    for team in ("vision", "speech", "text"):
        accounts.team(team)
    with signed_in(client, accounts.person("ada", vision="manager", speech="manager", text="member")) as ada:
        refused = ada.post(API, json={"url": URL})
        assert refused.json()["errors"] == [
            {"field": "team", "rule": "must be given: one of speech, vision", "value": None}
        ]
        for team in ("vision", "speech"):
            assert ada.post(API, json={"url": URL, "team": team}).json()["team"] == team
        assert ada.post(API, json={"url": URL, "team": "text"}).status_code == 403
        assert [one["team"] for one in ada.get(API).json()["items"]] == ["vision", "speech"]
        assert [one["team"] for one in ada.get(API, params={"team": "speech"}).json()["items"]] == ["speech"]


def test_a_service_without_accounts_has_the_default_team(client: httpx.Client) -> None:
    assert create(client)["team"] == "default"


def test_a_service_without_a_key_stores_no_secret(app: FastAPI, client: httpx.Client, context: AppContext) -> None:
    app.state.context = replace(context, secrets=SecretBox([]))
    refused = client.post(API, json={"url": URL})
    app.state.context = context
    assert refused.status_code == 409
    assert "an administrator must set RUNG_SECRET_KEY" in refused.json()["detail"]
    assert client.get(API).json() == {"items": []}


def test_a_team_has_a_limited_number(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 2)
    for _ in range(2):
        create(client)
    refused = client.post(API, json={"url": URL})
    assert (refused.status_code, "has 2 webhooks" in refused.text) == (409, True)


@pytest.mark.stores
def test_deliveries_come_in_pages_and_go_with_their_webhook(client: httpx.Client, context: AppContext) -> None:
    made = create(client)
    one = client.post("/api/v1/experiments", json={"name": "night"}).json()["id"]
    with context.database.write() as session:
        found = experiments.find(session, one)
        for event in (Event.STARTED, Event.GOAL_REACHED, Event.COMPLETED):
            notifications.publish(session, event, found, datetime.now(UTC))
    assert client.get(f"{API}/{made['id']}").json()["pending"] == 3
    first = client.get(f"{API}/{made['id']}/deliveries", params={"limit": 2}).json()
    second = client.get(f"{API}/{made['id']}/deliveries", params={"limit": 2, "after": first["next_after"]}).json()
    assert second["next_after"] is None
    items = first["items"] + second["items"]
    assert [one["event"] for one in items] == ["experiment.completed", "experiment.goal_reached", "experiment.started"]
    assert {one["state"] for one in items} == {"pending"}
    assert items[0]["data"] == {"experiment_id": one, "name": "night", "state": "QUEUED", "team": "default"}
    client.delete(f"{API}/{made['id']}").raise_for_status()
    assert client.get(f"{API}/{made['id']}/deliveries").status_code == 404
    with context.database.write() as session:
        notifications.publish(session, Event.STARTED, experiments.find(session, one), datetime.now(UTC))


def test_a_key_can_be_replaced(app: FastAPI, client: httpx.Client, context: AppContext) -> None:
    old, new = context.settings.secret_key, "b3RoZXIg" * 5 + "b3Q="
    made = create(client)
    with_new = [replace(context, secrets=SecretBox(keys)) for keys in ([new], [new, old])]
    app.state.context = with_new[0]
    refused = client.post(f"{API}/{made['id']}/rotate")
    assert (refused.status_code, "delete it and create a new one" in refused.text) == (409, True)
    app.state.context = with_new[1]
    client.post(f"{API}/{made['id']}/rotate").raise_for_status()
    app.state.context = with_new[0]
    assert client.post(f"{API}/{made['id']}/rotate").status_code == 200, "the old key is not needed any more"
    app.state.context = context
