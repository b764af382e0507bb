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
    DELETING = "DELETING"  # its files, runs and rows are being removed; then there is no such experiment


TRANSITIONS: dict[State, frozenset[State]] = {
    # An experiment whose driver was lost queues again; it keeps its place, which its age gives it.
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELED, State.ERROR}),
    # To PAUSED without having been asked: where another driver would be of no use, as on a full disk.
    State.RUNNING: frozenset({State.QUEUED, State.STOPPING, State.PAUSING, State.PAUSED, State.COMPLETED, State.ERROR}),
    # A cancel or pause that comes too late finds the search complete.
    State.STOPPING: frozenset({State.CANCELED, State.COMPLETED}),
    State.PAUSING: frozenset({State.PAUSED, State.STOPPING, State.COMPLETED, State.ERROR}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELED, State.DELETING}),
    # More work was asked for.
    State.COMPLETED: frozenset({State.QUEUED, State.DELETING}),
    State.CANCELED: frozenset({State.DELETING}),
    # A person has mended what was wrong.
    State.ERROR: frozenset({State.QUEUED, State.DELETING}),
    State.DELETING: frozenset(),
}

#: States in which a search has come to its end, though a person may ask for more.
ENDED = frozenset({State.COMPLETED, State.CANCELED, State.ERROR})
#: States that last until a person acts; the others pass by themselves.
INACTIVE = frozenset({State.PAUSED, *ENDED})
#: States in which a driver is wanted or there.
DRIVEN = frozenset({State.RUNNING, State.STOPPING, State.PAUSING})
#: States that hold slots or wait for them.
ACTIVE = frozenset({State.QUEUED, *DRIVEN})
