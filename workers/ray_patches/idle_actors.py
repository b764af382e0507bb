"""Idle actors: processes that wait for a next trial, and the slots that they hold meanwhile.

Owns the release of such a process. Ray Tune keeps one of the processes whose trials have ended, with its resources,
for a trial that may follow; if no trial follows, the slot stays blocked until the search ends. It uses private parts of
Ray, which is pinned to one minor version. It must not know why no trial follows.
"""

from __future__ import annotations

import time
from typing import Any

STOP_S = 5.0  # for a process to end by itself before it is killed


def release_idle_actors(controller: Any) -> None:
    """End the idle processes, so that Ray gets their slots back; `controller` is what Tune passes to a scheduler.

    Must not be called from a callback for an event of a trial.
    """
    tune = controller._tune_controller
    if tune._pending_trials or not tune._actor_cache.num_cached_objects:
        return  # a waiting trial will use it, or there is none
    tune._cleanup_cached_actors(force_all=True)
    # While no trial runs, Tune waits only for the searcher and would not see that the process has ended.
    deadline = time.monotonic() + STOP_S
    actors = tune._actor_manager
    while not tune._running_trials and actors.num_live_actors:
        overdue = time.monotonic() >= deadline  # it may be loading data for minutes
        for actor in actors.live_actors:
            if overdue or actor not in tune._started_actors:  # one that still imports does not end when asked
                actors.remove_actor(actor, kill=True)
        actors.next(timeout=1)
