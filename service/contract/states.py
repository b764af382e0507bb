"""States: what an experiment and its attempts may be, and what an experiment may become, as a table.

`service.domain.experiments.move` is the only writer of an experiment's state. Drivers report states of trials, so those
are in `search_spaces.protocol`. This module must not import the store, because the SDK and the command line use the
states too.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of an experiment."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    PAUSING = "PAUSING"
    PREEMPTING = "PREEMPTING"  # its slots are others'; its driver ends, and the experiment returns to the queue
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    ERROR = "ERROR"
    DELETING = "DELETING"  # the service is removing its files, runs and rows; the experiment then no longer exists


TRANSITIONS: dict[State, frozenset[State]] = {
    # An experiment whose driver was lost returns to the queue, in the position that its age gives it.
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELED, State.ERROR}),
    # To PAUSED without a request where another driver would fail in the same way, for example on a full disk.
    State.RUNNING: frozenset(
        {
            *(State.QUEUED, State.STOPPING, State.PAUSING, State.PREEMPTING),
            *(State.PAUSED, State.COMPLETED, State.ERROR),
        }
    ),
    # The search may complete before the driver learns of a cancel or a pause.
    State.STOPPING: frozenset({State.CANCELED, State.COMPLETED}),
    State.PAUSING: frozenset({State.PAUSED, State.STOPPING, State.COMPLETED, State.ERROR}),
    # The search may end, or a person act, before the driver has ended.
    State.PREEMPTING: frozenset(
        {State.QUEUED, State.STOPPING, State.PAUSING, State.PAUSED, State.COMPLETED, State.ERROR}
    ),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELED, State.DELETING}),
    # To QUEUED when a person asks for more work.
    State.COMPLETED: frozenset({State.QUEUED, State.DELETING}),
    State.CANCELED: frozenset({State.DELETING}),
    # To QUEUED when a person has repaired the cause.
    State.ERROR: frozenset({State.QUEUED, State.DELETING}),
    State.DELETING: frozenset(),
}

#: The search has ended, though a person may ask for more work.
ENDED = frozenset({State.COMPLETED, State.CANCELED, State.ERROR})
#: Nothing happens until a person acts. Every other state changes without a request.
INACTIVE = frozenset({State.PAUSED, *ENDED})
#: A driver runs, or should run.
DRIVEN = frozenset({State.RUNNING, State.STOPPING, State.PAUSING, State.PREEMPTING})
#: The driver was asked to end.
STOP_ASKED = frozenset({State.STOPPING, State.PAUSING, State.PREEMPTING})
#: The experiment holds slots or waits for them.
ACTIVE = frozenset({State.QUEUED, *DRIVEN})


class AttemptState(StrEnum):
    """The state of an attempt, that is, of one driver."""

    STARTING = "STARTING"  # being handed to Ray; no heartbeat yet
    RUNNING = "RUNNING"
    ENDED = "ENDED"  # sent its final heartbeat
    LOST = "LOST"  # stopped sending heartbeats, or Ray reports that it ended without a final one


class LossCause(StrEnum):
    """Why an attempt is lost."""

    NOT_SUBMITTED = "not_submitted"  # Ray or the storage did not take or start its driver; counts as no failure
    UNKNOWN_TO_RAY = "unknown_to_ray"  # Ray was probably restarted
    ENDED = "ended"  # its process ended without a final heartbeat
    NOT_STOPPED = "not_stopped"  # it did not stop when it was asked to
    SILENT = "silent"


#: The driver may still send heartbeats.
OPEN = frozenset({AttemptState.STARTING, AttemptState.RUNNING})
