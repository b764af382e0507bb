"""Finalist ties: that finalists have the same mean over their fresh seeds, so that the winner is not better than they
are.

A pure function of a replication. It must not know who shows the sentence.
"""

from __future__ import annotations

import math

from search_spaces.insight import Replication
from search_spaces.phrases import counted

ROUNDING = 1e-12  # as a share of the mean: sums of the same values in another order differ by less


def is_equal(mean: float, other: float) -> bool:
    """Whether two means differ by no more than rounding."""
    return math.isclose(mean, other, rel_tol=ROUNDING)


def tie(found: Replication | None) -> str:
    """One sentence that names those that tie with the chosen one, and how it was chosen; empty for no tie.

    Rounding has chosen in insights of earlier versions.
    """
    chosen = next((one for one in found.finalists if one.trial == found.chosen), None) if found else None
    if found is None or chosen is None:
        return ""
    equal = sorted(one.trial for one in found.finalists if is_equal(one.mean, chosen.mean))
    if len(equal) == 1:
        return ""
    *others, last = map(str, equal)
    how = "because its number is the lowest" if found.chosen == equal[0] else "by a difference that is only of rounding"
    seeds = counted(len(chosen.values), "fresh seed")
    return (
        f"a tie: trials {', '.join(others)} and {last} have the same mean over {seeds}, {chosen.mean:.4f}, and trial "
        f"{found.chosen} was chosen {how}"
    )
