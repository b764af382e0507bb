"""Pools: what is shared, as an administrator sets it, and all terms by which it is shared, once per pass.

No node belongs to two pools: the labels of two pools differ in the value of a label that both have. It must not know
how slots are divided, HTTP, or whether the caller may do this.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL, POOL_NAME, POOL_NAME_RULE
from search_spaces.pool_nodes import PoolNodes
from search_spaces.problems import Problem, SpecError, shorten
from service.contract.errors import ConflictError, NotFoundError
from service.contract.states import ENDED, State
from service.domain.cluster import Cluster
from service.scheduling.shares import Grant, Stop
from service.store.accounting import Borrowed
from service.store.models import Experiment, StoredGrant, StoredPool

MIN_RUN_S = 600.0  # the start of a driver costs about 20 s of CPU time: at most 3 % of what it may then use
GRACE_S = 600.0  # most epochs end by themselves in that time, and then nothing is lost
DEFAULTS: Mapping[str, Any] = {
    "stop": Stop.NONE.value,
    "min_run_s": MIN_RUN_S,
    "preempt_grace_s": GRACE_S,
    "min_drivers": 0,
}

#: Each pass of the scheduler reads the queue of each pool.
MAX_POOLS = 32
MAX_LABELS = 8
#: What Ray takes for labels of nodes.
WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL = re.compile(rf"(?:(?=[^/]{{1,253}}/){WORD}(?:\.{WORD})*/)?{WORD}", re.ASCII)
WORD_RULE = "must have 1 to 63 letters, digits, -, _ and ., the first and the last a letter or digit"
NODE_ID = "ray.io/node-id"  # Ray gives each node this label


@dataclass(frozen=True)
class Terms:
    """How a pool is shared: its nodes, its settings, and the grants by team."""

    stop: Stop = Stop.NONE
    min_run_s: float = MIN_RUN_S
    preempt_grace_s: float = GRACE_S
    grants: Mapping[str, Grant] = field(default_factory=dict)
    nodes: PoolNodes = field(default_factory=PoolNodes)
    min_drivers: int = 0


def read(session: Session) -> dict[str, Terms]:
    """The terms of each pool, by name; the defaults where nobody has changed them."""
    rows, grants = list_all(session), defaultdict[str, dict[str, Grant]](dict)
    for grant in session.scalars(select(StoredGrant)):
        grants[grant.pool][grant.team_id] = _grant(grant)
    nodes = _nodes(rows)
    return {
        row.name: Terms(
            Stop(row.stop), row.min_run_s, row.preempt_grace_s, grants[row.name], nodes[row.name], row.min_drivers
        )
        for row in rows
    }


def list_all(session: Session) -> list[StoredPool]:
    """All pools, the one that is always there before the others by name."""
    rows = list(session.scalars(select(StoredPool).order_by(StoredPool.name != DEFAULT_POOL, StoredPool.name)))
    return rows if rows and rows[0].name == DEFAULT_POOL else [_unchanged(), *rows]


def nodes(session: Session) -> dict[str, PoolNodes]:
    """Which nodes each pool has, by its name."""
    return _nodes(list_all(session))


def nodes_of(labels: Mapping[str, Mapping[str, str]]) -> dict[str, PoolNodes]:
    """The same by the labels of the nodes of each pool; the default one has the nodes that no other one has."""
    named = {pool: PoolNodes(labels=dict(own)) for pool, own in labels.items() if pool != DEFAULT_POOL}
    return {DEFAULT_POOL: PoolNodes(others=[one.labels for one in named.values()]), **named}


def part(cluster: Cluster, pool: str, nodes: Mapping[str, PoolNodes]) -> Cluster:
    """What a pool has of the cluster: all of it, where there is no other pool."""
    if len(nodes) == 1:
        return cluster
    own, possible = (
        tuple(node for node in some if nodes[pool].has(node.labels)) for some in (cluster.nodes, cluster.possible)
    )
    return Cluster(own, pool, possible)


def find(session: Session, pool: str) -> StoredPool:
    """A pool: the default one is there also where nobody has changed it. Raises NotFoundError."""
    row = session.get(StoredPool, pool)
    if row is not None:
        return row
    if pool == DEFAULT_POOL:
        return _unchanged()
    names, shown = ", ".join(one.name for one in list_all(session)), shorten(pool)
    raise NotFoundError(f"there is no pool {shown!r}", [Problem("pool", f"must be one of {names}", shown)])


def lock(session: Session, pool: str) -> StoredPool:
    """A pool with a row, locked for the transaction. Raises NotFoundError."""
    new = find(session, pool)
    if new not in session:
        with contextlib.suppress(IntegrityError), session.begin_nested():  # somebody else may be faster
            session.add(new)
    return session.get_one(StoredPool, pool, with_for_update=True)


def create(session: Session, pool: str, labels: Mapping[str, str]) -> StoredPool:
    """A new pool of the nodes with these labels. Raises SpecError with every value that breaks a rule, ConflictError
    for a name that is taken."""
    lock(session, DEFAULT_POOL)  # one at a time: two new pools must not have a node in common
    rows = list_all(session)
    problems = [] if re.fullmatch(POOL_NAME, pool) else [Problem("pool", POOL_NAME_RULE, shorten(pool))]
    if len(rows) >= MAX_POOLS:
        problems.append(Problem("pool", f"must be one of at most {MAX_POOLS}: delete another one first", shorten(pool)))
    if problems := [*problems, *_label_problems(labels, [one for one in rows if one.name != pool])]:
        raise SpecError(problems)
    if any(one.name == pool for one in rows):
        raise ConflictError(f"there is a pool {pool!r} already")
    row = StoredPool(name=pool, labels=dict(labels), **DEFAULTS)
    session.add(row)
    return row


def change(session: Session, row: StoredPool, changes: Mapping[str, Any]) -> None:
    """Change settings of a locked pool; None stands for the default. Raises SpecError for labels that break a rule."""
    changes = dict(changes)
    if "labels" in changes:
        labels = changes.pop("labels") or {}
        if row.name == DEFAULT_POOL:
            rule = f"cannot be changed: the pool {DEFAULT_POOL} has the nodes that no other pool has"
            raise SpecError([Problem("labels", rule)])
        lock(session, DEFAULT_POOL)
        if problems := _label_problems(labels, [one for one in list_all(session) if one.name != row.name]):
            raise SpecError(problems)
        row.labels = dict(labels)
    for name, value in changes.items():
        setattr(row, name, DEFAULTS[name] if value is None else value)


def remove(session: Session, row: StoredPool) -> None:
    """Delete a locked pool with its grants. Raises ConflictError while an experiment that has not ended is in it."""
    if row.name == DEFAULT_POOL:
        raise ConflictError(f"the pool {row.name!r} cannot be deleted: it has the nodes that no other pool has")
    if (one := find_left(session, row.name)) is not None:
        raise ConflictError(
            f"the pool {row.name!r} has experiments that have not ended, such as {one}: wait for them, or cancel them"
        )
    for table in (StoredGrant, Borrowed):
        session.execute(delete(table).where(table.pool == row.name))
    session.delete(row)


def find_left(session: Session, pool: str, *which: ColumnElement[bool]) -> str | None:
    """An experiment of a pool, of `which`, that has not ended."""
    has_not_ended = Experiment.pool == pool, Experiment.state.not_in([*ENDED, State.DELETING])
    return session.scalar(select(Experiment.id).where(*has_not_ended, *which).limit(1))


def _unchanged() -> StoredPool:
    return StoredPool(name=DEFAULT_POOL, labels={}, **DEFAULTS)


def _nodes(rows: Sequence[StoredPool]) -> dict[str, PoolNodes]:
    return nodes_of({row.name: row.labels for row in rows})


def _label_problems(labels: Mapping[str, str], others: Sequence[StoredPool]) -> list[Problem]:
    if not 1 <= len(labels) <= MAX_LABELS:
        return [Problem("labels", f"must be 1 to {MAX_LABELS} labels of nodes", len(labels))]
    found = []
    for key, value in labels.items():
        if not LABEL.fullmatch(key):
            found.append(Problem("labels", f"{WORD_RULE}; before it, a domain and / are allowed", shorten(key)))
        elif key == NODE_ID:
            found.append(Problem("labels", "must stay when a node starts again", key))
        if not re.fullmatch(WORD, value, re.ASCII):
            found.append(Problem(f"labels.{shorten(key)}", WORD_RULE, shorten(value)))
    for other in others:
        if other.name != DEFAULT_POOL and not any(
            labels.get(key, value) != value for key, value in other.labels.items()
        ):
            theirs = ", ".join(f"{key}={value}" for key, value in other.labels.items())
            rule = f"must give another value to a label of the pool {other.name} ({theirs}): no node may be in both"
            found.append(Problem("labels", rule))
    return found


def _grant(row: StoredGrant) -> Grant:
    return Grant(row.weight, row.quota, row.limit, row.max_running, row.max_priority)
