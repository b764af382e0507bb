"""Accounting: the tables of what was used. Owns columns. It must not know how usage is measured.

Rows outlive the experiments that they are about: what was used stays used.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.accounts import TEAM_CHARACTERS
from service.store.base import Base

#: Hours of a budget: those of 100,000 GPUs in a month are fewer.
MAX_HOURS = 100_000_000


class Usage(Base):
    """What one experiment used in one hour, which begins at `hour`: slots, GPUs and CPUs, times seconds.

    `user_id` is the person who submitted it; null for a program, and without accounts.
    """

    __tablename__ = "usage"
    __table_args__ = (Index(None, "team_id", "hour"),)

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    experiment_id: Mapped[str] = mapped_column(String(16), primary_key=True, index=True)
    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"))
    pool: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    slot_seconds: Mapped[float]
    gpu_seconds: Mapped[float]
    cpu_seconds: Mapped[float]


class UsageOfMonth(Base):
    """The sum of `Usage` of a team in the month of the calendar (UTC) that begins at `month`."""

    __tablename__ = "usage_months"

    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"), primary_key=True)
    month: Mapped[datetime] = mapped_column(primary_key=True)
    slot_seconds: Mapped[float]
    gpu_seconds: Mapped[float]
    cpu_seconds: Mapped[float]


class Borrowed(Base):
    """What a team has borrowed of a pool beyond its part lately (`scheduling.borrowing`), negative if it was behind: in
    seconds times the unit of quotas."""

    __tablename__ = "usage_decayed"

    pool: Mapped[str] = mapped_column(String(64), primary_key=True)
    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"), primary_key=True)
    amount: Mapped[float]


class Budget(Base):
    """What a team may use in each month of the calendar (UTC); null is no limit.

    `action`: a `contract.budgets.Action`. `announced`: the month and the level of which the team was notified last.
    """

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint(f"gpu_hours IS NULL OR gpu_hours BETWEEN 0 AND {MAX_HOURS}", name="gpu_hours"),
        CheckConstraint(f"slot_hours IS NULL OR slot_hours BETWEEN 0 AND {MAX_HOURS}", name="slot_hours"),
        CheckConstraint("action IN ('warn', 'hold')", name="action"),
    )

    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"), primary_key=True)
    gpu_hours: Mapped[float | None]
    slot_hours: Mapped[float | None]
    action: Mapped[str] = mapped_column(String(8))
    announced: Mapped[str] = mapped_column(String(16), default="", server_default="")
