"""Targets: what the default searcher is to reach in a table of the benchmark, and by how much it misses.

The regret is one of LCBench's development tasks: other tasks have other scales.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

DEFAULT = "default"
#: Mean regret of the default at so many full trainings.
REGRET_BUDGET, REGRET = 20.0, 0.155
#: Share of the trainings that the reference needs for the same regret.
NEEDED_SHARE = 0.5
#: At so few trainings the default is not to be behind MOBSTER.
MOBSTER, SMALL_BUDGET = "syne-mobster", 10.0


def lines(
    result: Mapping[str, Any],
    tasks: Collection[str],
    development: Collection[str],
    reference: str,
    reference_budget: float,
) -> Iterator[str]:
    """One sentence for each target that the methods and tasks of a table allow to check."""
    regrets, ranks = result["mean_regret"], result["mean_rank"]
    if DEFAULT not in regrets:
        return
    own = regrets[DEFAULT]
    if set(tasks) <= set(development) and REGRET_BUDGET in own:
        yield _line(f"regret of at most {REGRET:g} at {REGRET_BUDGET:g}", own[REGRET_BUDGET], REGRET)
    for budget in own if len(ranks) > 1 else ():
        others = {method: by[budget] for method, by in ranks.items() if method != DEFAULT}
        best = min(others, key=lambda method: others[method])
        yield _line(f"first in mean rank at {budget:g} ({best} is next)", ranks[DEFAULT][budget], others[best])
    needed = result["needed"][DEFAULT]
    if reference in regrets:
        most = NEEDED_SHARE * reference_budget
        what = f"trainings to the regret of {reference} at {reference_budget:g}, at most {most:g}"
        yield f"missed: {what}: never reached" if needed is None else _line(what, needed, most)
    if MOBSTER in regrets and SMALL_BUDGET in own:
        yield _line(f"not behind {MOBSTER} at {SMALL_BUDGET:g}", own[SMALL_BUDGET], regrets[MOBSTER][SMALL_BUDGET])


def _line(what: str, found: float, most: float) -> str:
    if found <= most:
        return f"reached: {what}: {found:.3g}"
    return f"missed by {found - most:.3g}: {what}: {found:.3g}"
