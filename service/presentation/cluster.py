"""Cluster: what is shown of the queue, of nodes and of how their slots are shared."""

from __future__ import annotations

from service.contract.queue import Queue
from service.contract.schemas import ClusterStatus
from service.contract.states import State
from service.presentation.text import Fact, Table, duration, one_line


def waiting(queue: Queue) -> Table:
    """One row for each experiment that waits. Pools, teams and owners are shown only where they say something."""
    has_teams, has_owners = len({item.team for item in queue.items}) > 1, any(item.owner for item in queue.items)
    has_pools = len({item.pool for item in queue.items}) > 1
    rows = tuple(
        (
            str(item.position),
            item.experiment_id,
            item.name,
            str(item.priority),
            str(item.waits_for).replace("_", " "),
            "" if item.estimate.seconds is None else f"{duration(item.estimate.seconds)}",
            *((item.pool,) if has_pools else ()),
            *((item.team,) if has_teams else ()),
            *((item.owner or "",) if has_owners else ()),
        )
        for item in queue.items
    )
    shown = (("pool", has_pools), ("team", has_teams), ("owner", has_owners))
    more = (heading for heading, is_shown in shown if is_shown)
    headings = ("place", "id", "name", "priority", "waits for", "starts in", *more)
    return Table(headings, rows, numeric=frozenset({0, 3, 5}))


def queue_facts(queue: Queue) -> list[Fact]:
    """Each reason once, and what the estimates rest on."""
    reasons = dict.fromkeys((str(item.waits_for).replace("_", " "), item.reason) for item in queue.items if item.reason)
    facts = [Fact(label, one_line(reason)) for label, reason in reasons]
    bases = dict.fromkeys(item.estimate.basis for item in queue.items if item.estimate.seconds is not None)
    return [*facts, *(Fact("starts in", f"estimated: {basis}") for basis in bases)]


def nodes(status: ClusterStatus) -> Table:
    """One row for each node; the types of GPUs are shown where any is known, and pools where there are several."""
    has_types, has_pools = any(one.gpu_type for one in status.nodes), len({one.pool for one in status.nodes}) > 1
    rows = tuple(
        (
            one.name,
            f"{one.cpus:g}",
            f"{one.gpus:g}",
            *((one.gpu_type,) if has_types else ()),
            *((one.pool,) if has_pools else ()),
        )
        for one in status.nodes
    )
    more = *(("GPU type",) if has_types else ()), *(("pool",) if has_pools else ())
    return Table(("node", "CPUs", "GPUs", *more), rows, numeric=frozenset({1, 2}))


def shares(status: ClusterStatus) -> Table:
    """One row for each experiment that has slots or a driver; pools are shown where there are several."""
    has_pools = len({*(one.pool for one in status.nodes), *(one.pool for one in status.shares)}) > 1
    rows = tuple(
        (
            one.experiment_id,
            one.name,
            str(one.state),
            str(one.priority),
            str(one.slots),
            f"{one.slots * one.cpus_per_trial:g}",
            f"{one.slots * one.gpus_per_trial:g}",
            *((one.pool,) if has_pools else ()),
        )
        for one in status.shares
        if one.state != State.QUEUED
    )
    headings = ("id", "name", "state", "priority", "slots", "CPUs", "GPUs", *(("pool",) if has_pools else ()))
    return Table(headings, rows, numeric=frozenset({3, 4, 5, 6}), states=frozenset({2}))
