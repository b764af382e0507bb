"""Webhooks: the tables of webhooks and of what is to be sent to them. It must not know rules: those are in
`service.domain`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.accounts import NAME_CHARACTERS, TEAM_CHARACTERS
from service.store.base import Base

OUTCOME_CHARACTERS = 255
WAITING = text("next_at IS NOT NULL")


class Webhook(Base):
    """Where a team is notified. The URL and the secrets are encrypted: who has the URL of a chat can write to it.

    `origin` is the part of the URL that is shown. `former_secret` signs too until `former_until`, so that receivers can
    change to the new one. `failures` counts notifications in a row that could not be delivered.
    """

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"), index=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARACTERS), default="")
    origin: Mapped[str] = mapped_column(String(512))
    url_encrypted: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    events: Mapped[list[str]]
    secret_encrypted: Mapped[str] = mapped_column(Text)
    former_secret_encrypted: Mapped[str | None] = mapped_column(Text)
    former_until: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(String(OUTCOME_CHARACTERS))


class Delivery(Base):
    """A notification, written in the transaction of what it is about. While it is pending, `next_at` is set.

    `message_id` is the same in every try, so that a receiver recognizes one that arrives twice. `data` are facts of the
    moment of the event.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "next_at"),
        Index(None, "webhook_id", "id"),
        Index(None, "ended_at"),
        Index("ix_deliveries_waiting", "webhook_id", sqlite_where=WAITING, postgresql_where=WAITING),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    message_id: Mapped[str] = mapped_column(String(32), unique=True)
    event: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16))
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    status: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(String(OUTCOME_CHARACTERS), default="")
