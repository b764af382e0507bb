"""Team storage: how much the files of a team's experiments take, and how much they may.

Owns the limit and when an experiment is measured: nothing that runs is ended for its size, but a team that is over its
limit starts nothing new. Sizes are those of the last measurements, so that no sum walks through files. It must not know
how files are stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from search_spaces.phrases import size_text
from search_spaces.problems import Problem, SpecError
from service.contract.states import ACTIVE, DRIVEN, ENDED, State
from service.store.accounts import Team
from service.store.models import Attempt, Experiment, StorageUse

#: From this part of a limit on, people are warned.
WARN_AT = 0.8
#: How often an experiment with a driver is measured.
RUNNING_EVERY = timedelta(hours=1)
#: A driver writes plots after its last heartbeat.
SETTLED_AFTER = timedelta(minutes=5)
#: An exabyte. Databases have no larger numbers than nine of them.
MAX_BYTES = 10**18


@dataclass(frozen=True)
class Use:
    """What a team uses, in bytes, and what it may; None is no limit."""

    used_bytes: int
    limit_bytes: int | None

    @property
    def is_over(self) -> bool:
        return self.limit_bytes is not None and self.used_bytes >= self.limit_bytes


def of(session: Session, team: str) -> Use:
    """The sum over all experiments of a team that were measured."""
    sizes = select(func.sum(StorageUse.bytes)).join(Experiment, Experiment.id == StorageUse.experiment_id)
    used = session.scalar(sizes.where(Experiment.team_id == team))
    return Use(int(used or 0), session.scalar(select(Team.storage_limit_bytes).where(Team.id == team)))


def check(session: Session, team: str) -> None:
    """Raises SpecError for a team that uses all that it may."""
    if _limit(session, team) is None or not (use := of(session, team)).is_over:
        return
    rule = (
        f"must use less than {size_text(use.limit_bytes or 0)} of storage: delete experiments of the team, or ask an "
        "administrator for more"
    )
    raise SpecError([Problem("team", rule, size_text(use.used_bytes))])


def warnings(session: Session, team: str) -> list[str]:
    """What somebody who submits for a team should know of its storage."""
    if not (limit := _limit(session, team)) or (used := of(session, team).used_bytes) < WARN_AT * limit:
        return []
    stands = f"team {team} uses {size_text(used)} of {size_text(limit)} of storage"
    return [f"{stands}; when it uses all, nothing can be submitted or resumed"]


def limit(session: Session, team: Team, limit_bytes: int | None) -> int | None:
    """Set what a locked team may use; None is no limit. Returns what it was. Raises SpecError."""
    if limit_bytes is not None and not 0 <= limit_bytes <= MAX_BYTES:
        raise SpecError([Problem("limit_bytes", f"must be at least 0 and at most {MAX_BYTES}", limit_bytes)])
    before, team.storage_limit_bytes = team.storage_limit_bytes, limit_bytes
    return before


def changing(session: Session, since: datetime, *, settling: bool) -> set[str]:
    """The experiments that have begun and whose files may still change: those that have not ended, those of which a
    driver ended after `since` or a little before and, with `settling`, those whose runs in MLflow are open, for which
    all experiments are read."""
    recent = select(Attempt.experiment_id).where(Attempt.ended_at >= since - SETTLED_AFTER)
    which: list[ColumnElement[bool]] = [Experiment.state.in_({*ACTIVE, State.PAUSED}), Experiment.id.in_(recent)]
    if settling:
        which += [Experiment.ended_at >= since - SETTLED_AFTER, Experiment.mlflow_closed.is_(False)]
    return set(session.scalars(select(Experiment.id).where(or_(*which), Experiment.attempt > 0)))


def due(session: Session, now: datetime, most: int, among: Collection[str] | None = None) -> list[str]:
    """The experiments of `among` (None: of all, which are all read) whose files changed since they were measured, the
    one that was measured longest ago first.

    The checkpoints of a canceled experiment are pruned before its runs in MLflow are closed, also of one that was
    paused and measured before. One that runs is measured once in a while.
    """
    newest = (Attempt.experiment_id == Experiment.id) & (Attempt.number == Experiment.attempt)
    is_driven = Experiment.state.in_(DRIVEN)
    until = StorageUse.complete_until
    is_outdated = or_(until.is_(None), until < Attempt.ended_at, until < Experiment.ended_at)
    query = (
        select(Experiment.id)
        .join(Attempt, newest)
        .outerjoin(StorageUse, StorageUse.experiment_id == Experiment.id)
        .where(
            Experiment.state != State.DELETING,
            or_(Experiment.state.not_in(ENDED), Experiment.mlflow_closed),
            or_(
                is_driven & or_(until.is_(None), until < now - RUNNING_EVERY),
                ~is_driven & (Attempt.ended_at < now - SETTLED_AFTER) & is_outdated,
            ),
        )
        .order_by(until.nulls_first(), Experiment.id)
    )
    query = query if among is None else query.where(Experiment.id.in_(among))
    return list(session.scalars(query.limit(most)))


def record(session: Session, experiment_id: str, size: int, complete_until: datetime) -> None:
    """Note a measurement, unless the experiment was deleted meanwhile. What was written after `complete_until` may be
    missing in it."""
    locked = select(Experiment.id).where(Experiment.id == experiment_id).with_for_update(read=True, key_share=True)
    if session.scalar(locked) is not None:
        session.merge(StorageUse(experiment_id=experiment_id, bytes=size, complete_until=complete_until))


def _limit(session: Session, team: str) -> int | None:
    return session.scalar(select(Team.storage_limit_bytes).where(Team.id == team))
