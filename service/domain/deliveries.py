"""Deliveries: when a notification is tried again, and what follows from a try. It must not know how it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from service.contract.webhook_events import TEST
from service.store.webhooks import OUTCOME_CHARACTERS, Delivery, Webhook

#: Seconds between the tries of a notification: eight tries in a day.
DELAYS_S = (5, 60, 600, 3_000, 10_800, 28_800, 43_200)
MAX_TRIES = len(DELAYS_S) + 1
#: Notifications in a row that could not be delivered, after which a webhook is disabled.
MAX_FAILURES = 3
#: The status with which a receiver says that it wants nothing more.
GONE = 410
#: Tries of one team at the same time, so that a team whose targets hang does not hold up the others.
MAX_OF_TEAM = 2
#: Notifications that are read at once.
MANY = 32
#: For so long it is known what became of a notification.
KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Due:
    """A notification to be sent now, and the webhook that it is for."""

    delivery: Delivery
    webhook: Webhook


@dataclass(frozen=True)
class Result:
    """What came of a try. `status` is that of the answer, if there was one."""

    delivered: bool
    outcome: str
    status: int | None = None


def due(session: Session, now: datetime, busy: Mapping[str, str], limit: int) -> list[Due]:
    """The oldest notification that is due of each webhook that has none under way, at most `limit`.

    `busy` has the team of each webhook to which one is under way.
    """
    oldest = (
        select(Delivery.webhook_id, func.min(Delivery.id).label("id"))
        .where(Delivery.next_at <= now, Delivery.webhook_id.not_in(busy))
        .group_by(Delivery.webhook_id)
        .subquery()
    )
    query = (
        select(Delivery, Webhook)
        .join(oldest, oldest.c.id == Delivery.id)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .order_by(Delivery.next_at, Delivery.id)
    )
    found, of_team = list[Due](), Counter(busy.values())
    with session.execute(query.execution_options(yield_per=MANY)) as rows:
        for delivery, webhook in rows:
            if len(found) >= limit:
                break
            if of_team[webhook.team_id] < MAX_OF_TEAM:
                of_team[webhook.team_id] += 1
                found.append(Due(delivery, webhook))
    return found


def record(session: Session, webhook_id: str, delivery_id: int, result: Result, now: datetime) -> None:
    """Write what came of a try, and what follows. Nothing if the webhook was deleted or disabled meanwhile."""
    webhook = session.get(Webhook, webhook_id, with_for_update=True)
    delivery = None if webhook is None else session.get(Delivery, delivery_id, with_for_update=True)
    if webhook is None or delivery is None or delivery.next_at is None:
        return
    delivery.tries += 1
    delivery.status, delivery.outcome = result.status, result.outcome[:OUTCOME_CHARACTERS]
    is_test = delivery.event == TEST
    if result.delivered:
        _end(delivery, "delivered", now)
        webhook.failures = 0
    elif is_test or delivery.tries >= MAX_TRIES or result.status == GONE:
        _end(delivery, "failed", now)
        webhook.failures += not is_test
        if result.status == GONE:
            _disable(session, webhook, f"its receiver wants nothing more ({result.outcome})", now)
        elif webhook.failures >= MAX_FAILURES:
            why = f"{webhook.failures} notifications in a row could not be delivered; the last try: {result.outcome}"
            _disable(session, webhook, why, now)
    else:
        delivery.next_at = now + timedelta(seconds=DELAYS_S[delivery.tries - 1])


def forget(session: Session, now: datetime) -> None:
    """Delete what has ended long ago."""
    session.execute(delete(Delivery).where(Delivery.ended_at < now - KEPT))


def _end(delivery: Delivery, state: str, now: datetime) -> None:
    delivery.state, delivery.next_at, delivery.ended_at = state, None, now


def _disable(session: Session, webhook: Webhook, reason: str, now: datetime) -> None:
    """What waits is not sent: it would be old news when the webhook is enabled again."""
    webhook.disabled_at, webhook.disabled_reason = now, reason[:OUTCOME_CHARACTERS]
    waiting = update(Delivery).where(Delivery.webhook_id == webhook.id, Delivery.next_at.is_not(None))
    session.execute(waiting.values(state="failed", next_at=None, ended_at=now, outcome="the webhook was disabled"))
