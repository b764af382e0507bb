"""Silent trials: those that hold a slot and have finished no epoch for far longer than an epoch takes.

Owns how long that is, and the sentence for a person. Nothing is done about such a trial: one that hangs cannot be told
from one whose epoch is long. It must not know how trials are run.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.phrases import counted

AT_LEAST_S = 600.0  # a trial may load its data first
TIMES_LONGEST = 10.0  # epochs of one search differ with the size of the network


def sentence(silent_s: Mapping[int, float], longest_epoch_s: float | None) -> str:
    """Which trials are silent; empty for none.

    `silent_s` has the seconds since the newest event of each trial that holds a slot, `longest_epoch_s` the longest
    epoch of the search so far, None if there is none.
    """
    limit = max(AT_LEAST_S, TIMES_LONGEST * (longest_epoch_s or 0.0))
    silent = sorted(trial for trial, seconds in silent_s.items() if seconds > limit)
    if not silent:
        return ""
    first = silent[0]
    others = f" (and {counted(len(silent) - 1, 'other trial')})" if len(silent) > 1 else ""
    known = (
        "no epoch of the search has ended yet" if longest_epoch_s is None else f"epochs take {longest_epoch_s:.1f} s"
    )
    return (
        f"trial {first}{others} has finished no epoch for {silent_s[first] / 60:.0f} min, where {known}: "
        f"see its log, or cancel it (`rung cancel ID --trial {first}`)"
    )
