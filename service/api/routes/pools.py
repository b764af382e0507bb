"""Routes of pools and grants: how the cluster is shared, and what each team may use of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.protocol import API_PREFIX
from service.api import access, changes, headers, pool_views
from service.api.account_fields import TeamPath
from service.api.callers import Caller, CurrentCaller, may
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.contract.errors import ConflictError, NotFoundError
from service.contract.pools import GrantList, GrantView, PoolList, PoolView, Stop
from service.identity import audit
from service.identity.permissions import Permission, teams_with
from service.scheduling import grants, pools
from service.scheduling.grants import RANGES, Terms
from service.store.models import MAX_AMOUNT

router = APIRouter(prefix=f"{API_PREFIX}/pools", tags=["system"])

PoolPath = Annotated[str, Path(max_length=64, pattern=TEXT, description="Name of the pool.", examples=[DEFAULT_POOL])]


def _range(name: str) -> dict[str, Any]:
    """For the document: the rule itself is checked with all others."""
    least, greatest = RANGES[name]
    return {"minimum": least, "maximum": greatest}


LABELS = "Labels that the nodes of the pool have in Ray, all of them: what `ray start --labels` gives them."


class PoolRequest(BaseModel):
    """A new pool."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pool: str = Field(description="Name, 1 to 63 of the characters a-z, 0-9 and `-`.", examples=["gpu"])
    labels: dict[str, str] = Field(description=LABELS, examples=[{"accelerator": "h100"}])


class PoolChange(BaseModel):
    """What to change of a pool; what is absent stays, and null is the default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    labels: dict[str, str] | None = Field(None, description=f"{LABELS} Not of the pool `default`.")
    stop: Stop | None = Field(None, description="With `hold` nothing new starts, with `drain` running ones also yield.")
    min_run_s: FiniteFloat | None = Field(
        None, ge=0, le=MAX_AMOUNT, description="Seconds for which an experiment that has started keeps its first slot."
    )
    preempt_grace_s: FiniteFloat | None = Field(
        None, ge=0, le=MAX_AMOUNT, description="Seconds that trials may take to end their epoch."
    )
    min_drivers: int | None = Field(
        None, ge=0, le=MAX_AMOUNT, description="Of the drivers that may run at once, number that is kept for the pool."
    )


class GrantChange(BaseModel):
    """What to change of a team's grant; what is absent stays, and null is the default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: FiniteFloat | None = Field(
        None, description="Part of the team of what is lent; 1 by default.", json_schema_extra=_range("weight")
    )
    quota: FiniteFloat | None = Field(
        None,
        description="What the team gets before anything is lent, in GPUs (CPUs where no node has a GPU); at most its "
        "limit; 0 by default.",
        json_schema_extra=_range("quota"),
    )
    limit: FiniteFloat | None = Field(
        None, description="What the team never exceeds, in the same unit.", json_schema_extra=_range("limit")
    )
    max_running: int | None = Field(
        None, description="Number of experiments that may have slots at once.", json_schema_extra=_range("max_running")
    )
    max_queued: int | None = Field(
        None, description="Number of experiments that may wait.", json_schema_extra=_range("max_queued")
    )
    max_priority: int | None = Field(
        None, description="Higher priorities count as this one.", json_schema_extra=_range("max_priority")
    )


@router.get(
    "",
    summary="List pools",
    dependencies=[may(Permission.CLUSTER_READ)],
    responses={200: headers.success("All pools.")},
)
def list_pools(context: CurrentContext, caller: CurrentCaller) -> PoolList:
    """Lists what is shared: the pool `default`, of the nodes that no other pool has, and the others."""
    cluster = context.cluster_cache.cluster
    with context.database.read() as session:
        return PoolList(items=[pool_views.pool(session, caller, row, cluster) for row in pools.list_all(session)])


@router.post(
    "",
    summary="Create a pool",
    dependencies=[may(Permission.POOL_MANAGE)],
    status_code=201,
    responses={201: headers.success("The pool."), **error_responses(ConflictError)},
)
def create_pool(context: CurrentContext, caller: CurrentCaller, wanted: PoolRequest) -> PoolView:
    """Creates a pool of the nodes with these labels, which leave the pool `default`: experiments of that pool yield
    them at the end of their epochs. No team may use it before it has a grant."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = pools.create(session, wanted.pool, wanted.labels)
        caller.act.object = f"pools/{row.name}"
        caller.act.change = {"after": {"labels": row.labels}}
        session.flush()
        audit.record(session, caller.act, now)
        view = pool_views.pool(session, caller, row, context.cluster_cache.cluster)
    context.wake.set()
    return view


@router.get(
    "/{pool}",
    summary="Get a pool",
    dependencies=[may(Permission.CLUSTER_READ)],
    responses={200: headers.success("The pool."), **error_responses(NotFoundError)},
)
def show_pool(context: CurrentContext, caller: CurrentCaller, pool: PoolPath) -> PoolView:
    """Returns how a pool is shared. The sum of quotas is for administrators."""
    with context.database.read() as session:
        return pool_views.pool(session, caller, pools.find(session, pool), context.cluster_cache.cluster)


@router.patch(
    "/{pool}",
    summary="Change a pool",
    dependencies=[may(Permission.POOL_MANAGE)],
    responses={200: headers.success("The pool."), **error_responses(NotFoundError)},
)
def change_pool(context: CurrentContext, caller: CurrentCaller, pool: PoolPath, wanted: PoolChange) -> PoolView:
    """Changes how a pool is shared, or stops it. It holds from the next pass of the scheduler on, about two seconds
    later."""
    now, given = datetime.now(UTC), wanted.model_dump(exclude_unset=True)
    with changes.transaction(context, caller) as session:
        row = pools.lock(session, pool)
        before = {name: getattr(row, name) for name in given}
        pools.change(session, row, given)
        session.flush()
        caller.act.change = _difference(before, {name: getattr(row, name) for name in given})
        audit.record(session, caller.act, now)
        view = pool_views.pool(session, caller, row, context.cluster_cache.cluster)
    context.wake.set()
    return view


@router.delete(
    "/{pool}",
    summary="Delete a pool",
    dependencies=[may(Permission.POOL_MANAGE)],
    status_code=204,
    responses={
        204: headers.success("There is no such pool any more."),
        **error_responses(NotFoundError, ConflictError),
    },
)
def delete_pool(context: CurrentContext, caller: CurrentCaller, pool: PoolPath) -> Response:
    """Deletes a pool and its grants; its nodes belong to the pool `default` again. No experiment that has not ended may
    be in it."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = pools.lock(session, pool)
        caller.act.change = {"before": {"labels": row.labels}}
        pools.remove(session, row)
        audit.record(session, caller.act, now)
    context.wake.set()
    return Response(status_code=204)


@router.get(
    "/{pool}/grants",
    summary="List grants",
    dependencies=[may(Permission.TEAM_READ)],
    responses={200: headers.success("The grants of your teams."), **error_responses(NotFoundError)},
)
def list_grants(context: CurrentContext, caller: CurrentCaller, pool: PoolPath) -> GrantList:
    """Lists what your teams may use of a pool, and what they use; for administrators, all teams. Archived teams are
    left out."""
    with context.database.read() as session:
        name = pools.find(session, pool).name
        terms = grants.of_teams(session, name, teams_with(caller.principal, Permission.TEAM_READ))
        cluster = pool_views.part(session, name, context.cluster_cache.cluster)
        return GrantList(items=pool_views.team_grants(session, name, terms, cluster))


@router.patch(
    "/{pool}/grants/{team}",
    summary="Change a grant",
    dependencies=[may(Permission.POOL_MANAGE)],
    responses={200: headers.success("The grant."), **error_responses(NotFoundError)},
)
def change_grant(
    context: CurrentContext, caller: CurrentCaller, pool: PoolPath, team: TeamPath, wanted: GrantChange
) -> GrantView:
    """Changes what a team may use of a pool. It holds from the next pass of the scheduler on, about two seconds later;
    nothing that waits is refused afterwards."""
    now, given = datetime.now(UTC), wanted.model_dump(exclude_unset=True)
    with changes.transaction(context, caller) as session:
        row = access.find_team(session, caller, team, lock=True)
        name = pools.find(session, pool).name
        caller.act.object = f"pools/{name}/grants/{row.id}"
        before = grants.of_team(session, name, row.id)
        grants.change(session, name, row.id, given)
        session.flush()
        after = _record_grant(session, caller, name, row.id, before, now)
        assert after is not None
        cluster = pool_views.part(session, name, context.cluster_cache.cluster)
        hints = pool_views.hints(session, caller, name, cluster)
        [view] = pool_views.team_grants(session, name, {row.id: after}, cluster, hints)
    context.wake.set()
    return view


@router.delete(
    "/{pool}/grants/{team}",
    summary="Remove a grant",
    dependencies=[may(Permission.POOL_MANAGE)],
    status_code=204,
    responses={204: headers.success("The team has the defaults."), **error_responses(NotFoundError, ConflictError)},
)
def remove_grant(context: CurrentContext, caller: CurrentCaller, pool: PoolPath, team: TeamPath) -> Response:
    """Gives a team the defaults again: in the pool `default` the weight 1, no quota and no limits; in every other one
    no right to use it, for which no experiment of the team that has not ended may be in that pool."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = access.find_team(session, caller, team, lock=True)
        name = pools.find(session, pool).name
        caller.act.object = f"pools/{name}/grants/{row.id}"
        before = grants.of_team(session, name, row.id)
        grants.remove(session, name, row.id)
        session.flush()
        _record_grant(session, caller, name, row.id, before, now)
    context.wake.set()
    return Response(status_code=204)


def _record_grant(
    session: Session, caller: Caller, pool: str, team: str, before: Terms | None, now: datetime
) -> Terms | None:
    """Write the audit log's row, which the managers of the team read. Returns the terms that hold now."""
    after = grants.of_team(session, pool, team)
    caller.act.change = _difference(*({} if terms is None else asdict(terms) for terms in (before, after)))
    audit.record(session, caller.act, now)
    return after


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What the audit log says of a change: the values that differ."""
    return {
        "before": {name: value for name, value in before.items() if name not in after or after[name] != value},
        "after": {name: value for name, value in after.items() if name not in before or before[name] != value},
    }
