"""Notifications: what teams want to be notified of, written in the transaction of what has happened.

So there is never a change without its notification, nor the other way round, whatever happens to the service. A
notification has facts about ids only: who gets it may not be allowed to read more, and asks the service for the rest.
It must not know how it is sent.
"""

from __future__ import annotations

import logging
import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.contract.budgets import BudgetState
from service.contract.webhook_events import Event
from service.store.models import Experiment
from service.store.webhooks import Delivery, Webhook

#: A webhook whose target is slower than its team gets no further notifications meanwhile.
MAX_PENDING = 1000

log = logging.getLogger(__name__)


def publish(session: Session, event: Event, experiment: Experiment, now: datetime) -> None:
    """Have the team of an experiment notified of what has just happened to it."""
    data = {
        "experiment_id": experiment.id,
        "name": experiment.name,
        "state": str(experiment.state),
        "team": experiment.team_id,
    }
    _add(session, event, experiment.team_id, data, now)


def publish_budget(session: Session, team: str, state: BudgetState, now: datetime) -> None:
    """Have a team notified that its budget of this month is nearly spent, or spent."""
    _add(session, Event.BUDGET, team, {"state": str(state), "team": team}, now)


def request(session: Session, webhook: Webhook, event: str, data: dict[str, Any], now: datetime) -> Delivery:
    """A notification for one webhook."""
    delivery = Delivery(
        webhook_id=webhook.id,
        message_id=f"msg_{secrets.token_hex(12)}",
        event=event,
        data=data,
        created_at=now,
        state="pending",
        tries=0,
        next_at=now,
        outcome="",
    )
    session.add(delivery)
    return delivery


def is_full(session: Session, webhook: Webhook) -> bool:
    """Whether as many notifications wait for a webhook as may."""
    pending = select(func.count()).where(Delivery.webhook_id == webhook.id, Delivery.next_at.is_not(None))
    return session.scalars(pending).one() >= MAX_PENDING


def _add(session: Session, event: Event, team: str, data: dict[str, Any], now: datetime) -> None:
    """For each webhook of the team that is for this event and is not disabled."""
    query = select(Webhook).where(Webhook.team_id == team, Webhook.disabled_at.is_(None))
    locked = query.order_by(Webhook.id).with_for_update(read=True, key_share=True)  # none is deleted meanwhile
    for webhook in session.scalars(locked):
        if event not in webhook.events:
            continue
        if is_full(session, webhook):
            log.warning("webhook %s has %d notifications that wait: %s is left out", webhook.id, MAX_PENDING, event)
            continue
        request(session, webhook, event, data, now)
