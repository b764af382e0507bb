"""Webhooks: how they are made, found and changed. What is sent to them is in `notifications` and `deliveries`.

It must not know HTTP, nor whether the caller may do this.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_spaces.problems import Problem, SpecError, shorten
from service.contract.errors import ConflictError, NotFoundError
from service.contract.webhook_events import TEST, Event
from service.contract.webhooks import Format
from service.domain import notifications
from service.identity.secret_box import SecretBox, SecretUnreadableError
from service.identity.tokens import new_id
from service.store.accounts import Team
from service.store.webhooks import Delivery, Webhook
from service.webhook_targets import AllowedTargets, TargetRefusedError

#: Of a team: each takes a part of the time in which notifications of all teams are sent.
MAX_WEBHOOKS = 20
#: For so long the secret before the newest one signs too.
FORMER_SECRET = timedelta(days=1)
SECRET_PREFIX, SECRET_BYTES = "whsec_", 32


@dataclass(frozen=True)
class NewWebhook:
    """What a webhook is to be."""

    url: str
    events: Sequence[Event]
    format: Format = "standard"
    name: str = ""


def create(
    session: Session, team: Team, new: NewWebhook, allowed: AllowedTargets, box: SecretBox, now: datetime
) -> tuple[Webhook, str]:
    """The row, and its secret, which is not shown again.

    Raises SpecError for a URL that nothing may be sent to, ConflictError where the team has too many webhooks or the
    service has no key.
    """
    try:
        target = allowed.parse_url(new.url)
    except TargetRefusedError as error:
        raise SpecError([Problem("url", str(error))]) from None  # without the URL, which may have a secret
    count = select(func.count()).where(Webhook.team_id == team.id)
    if session.scalars(count).one() >= MAX_WEBHOOKS:
        raise ConflictError(f"the team {team.id!r} has {MAX_WEBHOOKS} webhooks, the most that there may be")
    secret = _new_secret()
    row = Webhook(
        id=new_id(),
        team_id=team.id,
        name=new.name,
        origin=target.origin,
        url_encrypted=box.seal(new.url),
        format=new.format,
        events=[str(event) for event in new.events],
        secret_encrypted=box.seal(secret),
        failures=0,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row, secret


def find(session: Session, webhook_id: str, teams: Collection[str] | None, *, lock: bool = False) -> Webhook:
    """A webhook of one of these teams (None: of any). Raises NotFoundError, also for one of another team."""
    query = select(Webhook).where(Webhook.id == webhook_id[:17].replace("\0", ""))
    query = query if teams is None else query.where(Webhook.team_id.in_(teams))
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        shown = shorten(webhook_id)
        problem = Problem("webhook_id", "must be the id of a webhook", shown)
        raise NotFoundError(f"there is no webhook {shown!r}", [problem])
    return row


def list_all(session: Session, teams: Collection[str] | None) -> list[Webhook]:
    """Those of these teams (None: all), the oldest first."""
    query = select(Webhook).order_by(Webhook.created_at, Webhook.id)
    return list(session.scalars(query if teams is None else query.where(Webhook.team_id.in_(teams))))


def count_pending(session: Session, rows: Sequence[Webhook]) -> dict[str, int]:
    """How many notifications of each wait."""
    counts = {row.id: 0 for row in rows}
    query = (
        select(Delivery.webhook_id, func.count())
        .where(Delivery.webhook_id.in_(counts), Delivery.next_at.is_not(None))
        .group_by(Delivery.webhook_id)
    )
    return counts | {webhook_id: int(count) for webhook_id, count in session.execute(query)}


def rotate(webhook: Webhook, box: SecretBox, now: datetime) -> str:
    """A new secret. The one before signs too for a day. All is encrypted with the newest key of the service.

    Raises ConflictError where the service has no key, or another one than the webhook was encrypted with.
    """
    try:
        url, former = box.open(webhook.url_encrypted), box.open(webhook.secret_encrypted)
    except SecretUnreadableError as error:
        raise ConflictError(
            f"webhook {webhook.id} cannot be decrypted: {error}; delete it and create a new one"
        ) from None
    secret = _new_secret()
    webhook.url_encrypted, webhook.secret_encrypted = box.seal(url), box.seal(secret)
    webhook.former_secret_encrypted, webhook.former_until = box.seal(former), now + FORMER_SECRET
    return secret


def send_test(session: Session, webhook: Webhook, now: datetime) -> Delivery:
    """A notification that names only the team. Raises ConflictError for a webhook that is disabled, or for which many
    wait."""
    if webhook.disabled_at is not None:
        raise ConflictError(f"webhook {webhook.id} is disabled: enable it first")
    if notifications.is_full(session, webhook):
        raise ConflictError(f"{notifications.MAX_PENDING} notifications wait for webhook {webhook.id} already")
    delivery = notifications.request(session, webhook, TEST, {"team": webhook.team_id}, now)
    session.flush()
    return delivery


def enable(webhook: Webhook) -> None:
    """Use a webhook again that was disabled."""
    webhook.disabled_at, webhook.disabled_reason, webhook.failures = None, None, 0


def deliveries(session: Session, webhook: Webhook, before: int | None, limit: int) -> list[Delivery]:
    """Notifications of a webhook, the newest first, from before the one with this number."""
    query = select(Delivery).where(Delivery.webhook_id == webhook.id).order_by(Delivery.id.desc()).limit(limit)
    return list(session.scalars(query if before is None else query.where(Delivery.id < before)))


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
