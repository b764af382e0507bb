"""Audit: what people asked to be changed, one row for each request.

A row is written in the transaction of the change, so that there is neither one without the other. The row of a request
that was refused or changed nothing has a transaction of its own. Rows are never changed (a trigger of the database
refuses it), and refer to nothing, so that they outlive what they describe. It must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from service.identity.principals import Principal
from service.store.accounts import AuditRow

#: As long as the columns that hold them.
OBJECT_CHARACTERS, ADDRESS_CHARACTERS, NAME_CHARACTERS = 128, 64, 128
#: What a caller is whose token is not known: in attempts to sign in.
NOBODY = "nobody"


class Outcome(StrEnum):
    """What came of a request. UNCHANGED: everything was so already, for example because it was repeated."""

    DONE = "done"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass
class Act:
    """A request that may change something: who sent it from where, and what it is about.

    `team` is known once the object was found. `change` may have the values `before` and `after`. `is_recorded` becomes
    true when its row is committed.
    """

    action: str
    object: str
    address: str = ""
    request_id: str = ""
    principal: Principal | None = None
    login: str = ""
    team: str | None = None
    change: dict[str, Any] | None = None
    is_recorded: bool = field(default=False, init=False)
    #: Only asks what would be.
    changes_nothing: bool = field(default=False, init=False)

    @property
    def outcome(self) -> Outcome:
        """Of an act that was carried out."""
        change = self.change or {}
        is_same = "before" in change and change["before"] == change.get("after")
        return Outcome.UNCHANGED if is_same else Outcome.DONE


def record(session: Session, act: Act, now: datetime, outcome: Outcome | None = None) -> None:
    """Add the row of an act to the transaction of the session; its outcome follows from its change if none is given."""
    principal = act.principal
    token = None if principal is None else principal.token
    session.add(
        AuditRow(
            at=now,
            principal_kind=NOBODY if principal is None else principal.kind,
            principal_id="" if principal is None else principal.id,
            principal=(act.login if principal is None else principal.login)[:NAME_CHARACTERS],
            token_id=None if token is None else token.id,
            address=act.address[:ADDRESS_CHARACTERS],
            request_id=act.request_id,
            action=act.action,
            team_id=act.team,
            object=act.object[:OBJECT_CHARACTERS],
            outcome=outcome or act.outcome,
            change=act.change,
        )
    )

    def committed(_session: Session) -> None:
        act.is_recorded = True

    event.listen(session, "after_commit", committed, once=True)


def page(
    session: Session, teams: Collection[str] | None, object_name: str | None, before: int | None, limit: int
) -> list[AuditRow]:
    """Rows about these teams (None: about all, and about none), newest first, from before the row with this id."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if teams is not None:
        query = query.where(AuditRow.team_id.in_(teams))
    if object_name is not None:
        query = query.where(AuditRow.object == object_name)
    if before is not None:
        query = query.where(AuditRow.id < before)
    return list(session.scalars(query))
