"""Pool tables: what the commands show of pools and grants. It must not know how tables are drawn."""

from __future__ import annotations

from collections.abc import Iterable

from service.contract.pools import GrantView, PoolView
from service.presentation.text import Table

NO_LABELS = "none: it has the nodes that no other pool has"
STOPS = {
    "none": "experiments start",
    "hold": "nothing new starts",
    "drain": "nothing new starts, and running experiments yield all slots",
}


def pools(items: Iterable[PoolView]) -> Table:
    """One row for each pool."""
    rows = tuple((one.pool, _labels(one) or "-", one.stop, _capacity(one), _number(one.quotas)) for one in items)
    return Table(("pool", "labels", "stop", "nodes have", "quotas"), rows, numeric=frozenset({4}))


def describe_pool(view: PoolView) -> list[str]:
    """A pool, a line for each setting."""
    lines = [f"pool {view.pool}", f"  labels           {_labels(view) or NO_LABELS}"]
    lines.append(f"  stop             {view.stop}: {STOPS[view.stop]}")
    lines.append(f"  min_run_s        {view.min_run_s:g}: an experiment that has started keeps a slot so long")
    lines.append(
        f"  preempt_grace_s  {view.preempt_grace_s:g}: trials may end their epoch so long after their slot is lost"
    )
    if view.min_drivers:
        lines.append(f"  min_drivers      {view.min_drivers}: so many drivers can always run, whatever other pools do")
    has = f" with {_capacity(view)}" if view.capacity is not None else ""
    lines.append(f"  nodes            {'unknown' if view.nodes is None else view.nodes}{has}")
    if view.quotas is not None:
        lines.append(f"  quotas           {view.quotas:g} together")
    return [*lines, *(f"  hint             {hint}" for hint in view.hints)]


def grants(items: Iterable[GrantView]) -> Table:
    """One row for each team; `-` where there is no limit. Of what is limited, what is used and the limit."""
    rows = tuple(
        (
            one.team,
            _number(one.weight),
            _number(one.quota),
            _number(one.limit),
            _number(one.used),
            _part(one.running, one.max_running),
            _part(one.queued, one.max_queued),
            _number(one.max_priority),
        )
        for one in items
    )
    headings = ("team", "weight", "quota", "limit", "used", "running", "queued", "max priority")
    return Table(headings, rows, numeric=frozenset(range(1, len(headings))))


def _labels(view: PoolView) -> str:
    return ", ".join(f"{key}={value}" for key, value in view.labels.items())


def _capacity(view: PoolView) -> str:
    if view.nodes == 0:
        return "nothing"
    return "unknown" if view.capacity is None else f"{view.capacity:g} {view.unit}"


def _part(count: int, limit: int | None) -> str:
    return str(count) if limit is None else f"{count} of {limit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
