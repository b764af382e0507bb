"""The state machine obeys its table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from service.contract.errors import ConflictError
from service.contract.states import ACTIVE, DRIVEN, ENDED, INACTIVE, STOP_ASKED, TRANSITIONS, State
from service.domain import experiments
from service.store.models import Base, Experiment

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Of an empty database."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def an_experiment(state: State) -> Experiment:
    return Experiment(
        id="k3v9q2mz", state=state, reason="", phase="searching", slots=3, attempt=1, failures=0, revision=4
    )


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_every_transition_is_in_the_table_or_refused(session: Session, before: State, after: State) -> None:
    experiment = an_experiment(before)
    if after not in TRANSITIONS[before]:
        with pytest.raises(ConflictError, match=f"is {before} and cannot become {after}"):
            experiments.move(session, experiment, after, NOW)
        assert (experiment.state, experiment.revision) == (before, 4)
        return
    experiments.move(session, experiment, after, NOW, "because")
    assert (experiment.state, experiment.reason, experiment.revision) == (after, "because", 5)
    assert (experiment.ended_at == NOW) == (after in ENDED)
    assert (experiment.slots == 0) == (after not in DRIVEN)
    assert (experiment.stop_asked_at == NOW) == (after in STOP_ASKED)


def test_the_table_has_every_state_and_every_state_can_end() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {State.COMPLETED, State.CANCELED, State.ERROR} == ENDED
    assert TRANSITIONS[State.DELETING] == frozenset()
    assert {*ACTIVE, *INACTIVE, State.DELETING} == set(State)
    for state in ACTIVE | INACTIVE:
        reachable, frontier = {state}, {state}
        while frontier:
            frontier = {after for one in frontier for after in TRANSITIONS[one]} - reachable
            reachable |= frontier
        assert reachable & ENDED, f"{state} never ends"
