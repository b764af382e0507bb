"""Webhook views: from rows of webhooks and deliveries to the bodies of responses. Pure functions."""

from __future__ import annotations

from service.contract.webhooks import DeliveryView, WebhookView
from service.store.webhooks import Delivery, Webhook


def webhook(row: Webhook, pending: int = 0) -> WebhookView:
    fields = ("id", "name", "origin", "format", "events", "created_at", "disabled_at", "disabled_reason")
    given = {name: getattr(row, name) for name in fields}
    return WebhookView.model_validate({**given, "team": row.team_id, "pending": pending})


def delivery(row: Delivery) -> DeliveryView:
    fields = ("event", "data", "created_at", "state", "tries", "next_at", "ended_at", "status", "outcome")
    return DeliveryView.model_validate({name: getattr(row, name) for name in fields} | {"id": row.message_id})
