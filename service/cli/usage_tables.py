"""Usage tables: what the commands show of usage and budgets. It must not know how tables are drawn."""

from __future__ import annotations

from collections.abc import Iterable

from search_spaces.phrases import rounded
from service.contract.usage import BudgetView, UsageEntry, UsagePage
from service.contract.usage_by import UsageBy
from service.presentation.text import Table

#: The columns beside the team.
COLUMNS: dict[UsageBy, tuple[str, ...]] = {
    UsageBy.TEAM: (),
    UsageBy.PERSON: ("person",),
    UsageBy.EXPERIMENT: ("person", "experiment_id", "name"),
    UsageBy.POOL: ("pool",),
}
HOURS = ("slot_hours", "gpu_hours", "cpu_hours")


def usage(page: UsagePage) -> Table:
    """One row for each sum, the largest first."""
    columns = ("team", *COLUMNS[page.by])
    items = sorted(page.items, key=lambda one: (-one.gpu_hours, -one.slot_hours))
    rows = tuple((*(getattr(one, name) or "" for name in columns), *_hours(one)) for one in items)
    headings = tuple(name.replace("_", " ") for name in (*columns, *HOURS))
    numeric = frozenset(range(len(columns), len(headings)))
    return Table(headings, rows, numeric=numeric)


def budgets(items: Iterable[BudgetView]) -> Table:
    """One row for each budget."""
    rows = tuple(
        (
            one.team,
            one.month,
            _used(one.used_gpu_hours, one.gpu_hours),
            _used(one.used_slot_hours, one.slot_hours),
            str(one.action),
            str(one.state),
        )
        for one in items
    )
    return Table(("team", "month", "GPU hours", "slot hours", "when spent", "state"), rows, numeric=frozenset({2, 3}))


def _used(used: float, limit: float | None) -> str:
    return f"{used:.3f}" if limit is None else f"{used:.3f} of {rounded(limit, 6)}"


def _hours(one: UsageEntry) -> tuple[str, ...]:
    return tuple(f"{getattr(one, name):.3f}" for name in HOURS)
