"""Idle: a process that waits for a next trial, and the slot that it holds meanwhile.

Owns a habit of Ray Tune's: of the processes whose trials have ended it keeps one, with its resources, for a trial
that may come, and lets go of it only at the end of the search. Where none is to come, others wait for that slot.
It uses private parts of Ray's, which is pinned to one minor version. It must not know why none is to come.
"""

from __future__ import annotations

import time
from typing import Any

STOP_S = 5.0  # for a process to end by itself, where nothing else would notice that it has


def release_idle_actors(controller: Any) -> None:
    """Have Ray take back what idle processes hold; `controller` is what Tune passes to a scheduler.

    Not from within a callback that an event of a trial has brought about.
    """
    tune = controller._tune_controller
    if tune._pending_trials or not tune._actor_cache.num_cached_objects:
        return  # a trial that waits will have it, or there is none
    tune._cleanup_cached_actors(force_all=True)
    # While no trial runs, Tune waits for the searcher alone and would not see that the process has ended.
    deadline = time.monotonic() + STOP_S
    actors = tune._actor_manager
    while not tune._running_trials and actors.num_live_actors:
        if time.monotonic() >= deadline:  # it may be loading data for minutes
            actors.remove_actor(actors.live_actors[0], kill=True)
        actors.next(timeout=1)
