"""Webhook tables: what the commands show of webhooks and their notifications. It must not know how they are drawn."""

from __future__ import annotations

from collections.abc import Iterable

from service.cli.identity_tables import moment
from service.cli.printable import one_line
from service.contract.webhook_events import Event
from service.contract.webhooks import DeliveryView, WebhookView
from service.presentation.text import Table


def webhooks(items: Iterable[WebhookView]) -> Table:
    """One row for each webhook."""
    rows = tuple(
        (one.id, one.team, one.name, one.origin, _events(one), "disabled" if one.disabled_at else "") for one in items
    )
    return Table(("id", "team", "name", "target", "events", "state"), rows)


def describe(webhook: WebhookView) -> list[str]:
    """A webhook, a line for each fact."""
    name = f" ({one_line(webhook.name)})" if webhook.name else ""
    lines = [
        f"webhook {webhook.id}{name} of team {webhook.team}",
        f"  target    {one_line(webhook.origin)} ({webhook.format})",
        f"  events    {_events(webhook)}",
        f"  pending   {webhook.pending}",
    ]
    if webhook.disabled_at is not None:
        reason = one_line(webhook.disabled_reason or "")
        lines.append(f"  disabled  {moment(webhook.disabled_at)}: {reason}")
        lines.append(f"  `rung webhook enable {webhook.id}` uses it again")
    return lines


def deliveries(items: Iterable[DeliveryView]) -> Table:
    """One row for each notification."""
    rows = tuple(
        (
            moment(one.created_at) if one.created_at else "",
            one.event,
            str(one.data.get("experiment_id", "")),
            one.state,
            str(one.tries),
            one.outcome + (f"; next try {moment(one.next_at)}" if one.next_at and one.tries else ""),
        )
        for one in items
    )
    return Table(("at", "event", "experiment", "state", "tries", "outcome"), rows)


def _events(webhook: WebhookView) -> str:
    return "all" if set(webhook.events) >= set(Event) else ", ".join(webhook.events)
