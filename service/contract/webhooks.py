"""Webhooks: the bodies of requests and responses about webhooks.

It must not know how a notification is sent.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.contract.webhook_events import Event

#: How the body of a notification is written.
Format = Literal["standard", "slack"]
DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookView(BaseModel):
    """A webhook, without its secret and without the path of its URL, which may be a secret too."""

    id: str = Field(description="Identifier of the webhook.")
    team: str = Field(description="Team whose events it is for.", examples=["vision"])
    name: str = Field("", description="What it is for, in the words of who created it.")
    origin: str = Field(description="Scheme, host and port of its URL.", examples=["https://hooks.example.com"])
    format: Format = Field("standard", description="How the bodies are written.")
    events: list[Event] = Field(description="Events that it is for.")
    created_at: datetime | None = Field(None, description="When it was created.")
    disabled_at: datetime | None = Field(None, description="When it was disabled; null while it is used.")
    disabled_reason: str | None = Field(None, description="Why it was disabled.")
    pending: int = Field(0, description="Number of notifications that are not delivered yet.")


class CreatedWebhook(WebhookView):
    """A webhook with a new secret. The service stores the secret encrypted: it is shown once."""

    secret: str = Field(description="Secret with which receivers verify signatures.", examples=["whsec_..."])


class WebhookList(BaseModel):
    """Webhooks, the oldest first."""

    items: list[WebhookView] = Field(description="The webhooks.")


class DeliveryView(BaseModel):
    """A notification, and what became of it."""

    id: str = Field(description="Identifier, which every try sends as `webhook-id`.")
    event: str = Field(description="What it is about: an event, or `webhook.test`.", examples=["experiment.completed"])
    data: dict[str, Any] = Field(description="Facts that it carries, without the link.")
    created_at: datetime | None = Field(None, description="When it happened.")
    state: DeliveryState = Field("pending", description="What became of it.")
    tries: int = Field(0, description="Number of tries so far.")
    next_at: datetime | None = Field(None, description="When it is tried next; null when it has ended.")
    ended_at: datetime | None = Field(None, description="When it was delivered, or failed for good.")
    status: int | None = Field(None, description="HTTP status that the last try was answered with; null without one.")
    outcome: str = Field("", description="What came of the last try.", examples=["answered 200"])


class DeliveryPage(BaseModel):
    """Notifications of a webhook, the newest first."""

    items: list[DeliveryView] = Field(description="The notifications.")
    next_after: int | None = Field(None, description="Pass it as `after` for older ones; null on the last page.")
