"""Progress: what the parent run says of a search, from the events of its journal."""

from __future__ import annotations

import pytest

from search_spaces.objective import Objective
from search_spaces.protocol import ErrorKind, TrialState
from workers.state.events import Event, SlotReleased, TrialEnded, TrialSuggested
from workers.tracking.progress import Progress


@pytest.mark.parametrize("at_once", [False, True], ids=["event by event", "after a restart"])
def test_the_step_never_falls_although_trials_that_failed_are_tried_again(at_once: bool) -> None:
    events: list[Event] = []
    for number in range(2):
        events.append(TrialSuggested(trial=number, at=1.0, sample={}, parameters={}))
        events.append(TrialEnded(trial=number, at=2.0, state=TrialState.ERROR, reason="x", kind=ErrorKind.CODE))
    again: list[Event] = [SlotReleased(trial=0, at=3.0)]
    progress = Progress(Objective())
    for block in [events + again] if at_once else [[event] for event in events + again]:
        progress.apply(block)
    standing = progress.standing({})
    assert (standing.step, standing.metrics["trials_error"]) == (2, 1)
