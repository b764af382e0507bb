"""Message: a notification as it is sent: its body in the format of the webhook, and its signed headers. Pure.

The signature is that of the Standard Webhooks specification, by the package of its authors. It must not know how it is
sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from standardwebhooks.webhooks import Webhook as Signer

from search_spaces.protocol import API_PREFIX
from service.contract.states import State
from service.contract.webhook_events import TEST, Event
from service.store.webhooks import Delivery

PHRASES: Mapping[Event, str] = {
    Event.STARTED: "has started",
    Event.GOAL_REACHED: "has reached its goal",
    Event.COMPLETED: "is completed",
    Event.FAILED: "has failed",
    Event.PREEMPTED: "has lost its slots and waits in the queue",
}
#: One that failed in a way that a person has to look at before it can continue.
BLOCKED = "is paused until somebody removes the cause"
BUDGETS = {"warning": "has nearly spent its budget of this month", "spent": "has spent its budget of this month"}


def body(delivery: Delivery, form: str, public_url: str) -> bytes:
    """The body. `public_url` is that of the service, for the link to an experiment."""
    data = dict(delivery.data)
    if "experiment_id" in data:
        data["link"] = f"{public_url.rstrip('/')}{API_PREFIX}/experiments/{data['experiment_id']}"
    if form == "slack":
        return json.dumps({"text": _text(delivery.event, data)}).encode()
    document = {"type": delivery.event, "timestamp": _timestamp(delivery.created_at), "data": data}
    return json.dumps(document).encode()


def headers(message_id: str, content: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The headers, signed with each of these secrets: a receiver accepts a signature by one that it knows."""
    text = content.decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Rung/{version('rung')}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(message_id, now, text) for secret in secrets),
    }


def _text(event: str, data: Mapping[str, Any]) -> str:
    """One line for people in a chat."""
    team = _escape(data["team"])
    if event == TEST:
        return f"Team {team}: this is a test of a webhook of Rung."
    if event == Event.BUDGET:
        return f"Team {team} {BUDGETS[data['state']]}."
    phrase = BLOCKED if event == Event.FAILED and data["state"] == State.PAUSED else PHRASES[Event(event)]
    name, link = _escape(data["name"]), _escape(data["link"])
    return f"Team {team}: experiment {name} ({data['experiment_id']}) {phrase}. {link}"


def _escape(text: str) -> str:
    """Without what Slack takes for a mention of a person or a channel, or for a link with another text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _timestamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
