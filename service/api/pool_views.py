"""Pool views: from pools and grants to the bodies of responses.

Only administrators see what concerns several teams: sums of quotas, and hints that follow from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy.orm import Session

from service.api.callers import Caller
from service.contract.pools import GrantView, PoolView
from service.domain.cluster import Cluster
from service.identity.permissions import Permission, allows
from service.scheduling import grants, loads, pools
from service.scheduling.cost import Costs
from service.scheduling.grants import Terms
from service.scheduling.loads import Load
from service.scheduling.placement import UNITS
from service.store.models import StoredPool


def pool(session: Session, caller: Caller, row: StoredPool, cluster: Cluster | None) -> PoolView:
    """`cluster` is all of it, None while it is not known."""
    cluster = part(session, row.name, cluster)
    costs = _costs(cluster)
    return PoolView(
        pool=row.name,
        labels=row.labels,
        nodes=None if cluster is None else len(cluster.nodes),
        stop=row.stop,
        min_run_s=row.min_run_s,
        preempt_grace_s=row.preempt_grace_s,
        min_drivers=row.min_drivers,
        unit=costs and costs.unit,
        capacity=costs and costs.capacity / UNITS,
        quotas=grants.total_quota(session, row.name) if _manages(caller) else None,
        hints=hints(session, caller, row.name, cluster),
    )


def team_grants(
    session: Session, pool: str, terms: Mapping[str, Terms], cluster: Cluster | None, hints: Sequence[str] = ()
) -> list[GrantView]:
    """The grants of these teams, and what each uses now. `cluster` is what the pool has of it."""
    load, no_load = loads.of_teams(session, pool, cluster or Cluster()), Load()
    found = []
    for team, values in terms.items():
        now = load.get(team, no_load)
        used = None if _costs(cluster) is None else now.used
        fields = {"used": used, "running": now.running, "queued": now.queued, "hints": hints}
        found.append(GrantView(pool=pool, team=team, **asdict(values), **fields))
    return found


def hints(session: Session, caller: Caller, pool: str, cluster: Cluster | None) -> list[str]:
    """What an administrator should know of the grants of a pool, which has `cluster`."""
    costs = _costs(cluster)
    if costs is None or not _manages(caller):
        return []
    quotas, capacity = grants.total_quota(session, pool), costs.capacity / UNITS
    if quotas <= capacity:
        return []
    sums = f"the quotas of all teams are {quotas:g} {costs.unit} together, but the nodes have {capacity:g}"
    return [f"{sums}: while all want their quotas, each gets the same part of its own"]


def part(session: Session, pool: str, cluster: Cluster | None) -> Cluster | None:
    """What a pool has of the cluster."""
    return None if cluster is None else pools.part(cluster, pool, pools.nodes(session))


def _costs(cluster: Cluster | None) -> Costs | None:
    """None while no node is known."""
    return Costs(cluster) if cluster and cluster.kinds else None


def _manages(caller: Caller) -> bool:
    return allows(caller.principal, Permission.POOL_MANAGE, None)
