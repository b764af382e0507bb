"""Checkpoint policy: which checkpoints of ended trials are kept, once for the service and the workers.

It must not know when the others are deleted.
"""

from __future__ import annotations

from typing import Literal

from search_spaces.layout import BEST, LAST

CheckpointPolicy = Literal["best", "last", "none"]


def kept_checkpoints(policy: CheckpointPolicy, *, is_best: bool, registered: bool) -> frozenset[str]:
    """The names of the checkpoints of an ended trial that `policy` keeps.

    "best" keeps the best epoch of the best trial (`is_best`); "last" also the last epoch of every trial; "none" keeps
    nothing once the winner's model is `registered`, and until then what "best" keeps.
    """
    kept = {LAST} if policy == "last" else set()
    if is_best and not (policy == "none" and registered):
        kept.add(BEST)
    return frozenset(kept)
