"""States: what an experiment may be, and what it may become, as a table.

Moving is for `experiments`. It must not import the store: the SDK and the command line know states too.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    ERROR = "ERROR"


NEXT: dict[State, frozenset[State]] = {
    # An experiment whose driver was lost queues again; it keeps its place, which its age gives it.
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELED, State.ERROR}),
    State.RUNNING: frozenset({State.QUEUED, State.STOPPING, State.PAUSING, State.COMPLETED, State.ERROR}),
    # A cancel or pause that comes too late finds the search complete.
    State.STOPPING: frozenset({State.CANCELED, State.COMPLETED}),
    State.PAUSING: frozenset({State.PAUSED, State.STOPPING, State.COMPLETED, State.ERROR}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELED}),
    State.COMPLETED: frozenset(),
    State.CANCELED: frozenset(),
    State.ERROR: frozenset(),
}

#: States that an experiment never leaves.
ENDED = frozenset(state for state, after in NEXT.items() if not after)
#: States in which a driver is wanted or there.
DRIVEN = frozenset({State.RUNNING, State.STOPPING, State.PAUSING})
