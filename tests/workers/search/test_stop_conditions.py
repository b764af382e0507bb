"""The reasons of a search that ended: what the trials did, and how much of a budget was used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces.experiment import Objective
from search_spaces.protocol import Phase, TrialState
from workers.attempt import outcome_of
from workers.search.stop_conditions import Outcome, exhausted, with_failures
from workers.state.events import TrialEnded, TrialSuggested
from workers.state.trial_table import TrialTable
from workers.tracking.retry import DeliveryAbandonedError


def table_of(*states: TrialState) -> TrialTable:
    table = TrialTable(Objective())
    for number, state in enumerate(states):
        table.apply(TrialSuggested(at=0.0, trial=number, sample={}, parameters={}))
        table.apply(TrialEnded(at=1.0, trial=number, state=state, reason="x"))
    return table


@pytest.mark.parametrize(
    ("states", "how"),
    [
        ([TrialState.DIVERGED] * 2, "2 diverged"),
        ([TrialState.CANCELED, TrialState.DIVERGED, TrialState.CANCELED], "1 diverged, 2 canceled"),
        ([TrialState.CANCELED], "1 canceled"),
    ],
)
def test_a_search_without_a_value_counts_diverged_and_canceled_trials(states: list[TrialState], how: str) -> None:
    outcome = exhausted(table_of(*states), len(states))
    assert (outcome.phase, outcome.reason) == ("completed", f"no trial has a finite value: {how}")


def test_failed_trials_without_a_value_fail_the_search() -> None:
    outcome = exhausted(table_of(TrialState.ERROR, TrialState.CANCELED), 2)
    assert outcome.phase == "failed"
    assert outcome.reason == "no trial has a value; 1 of 2 trials failed; the first: x"
    assert with_failures(outcome, table_of(TrialState.ERROR, TrialState.CANCELED)) == outcome


@pytest.mark.parametrize("before", ["", "canceled on request"])
def test_failed_trials_are_part_of_every_reason(before: str) -> None:
    table = table_of(TrialState.ERROR, TrialState.COMPLETED, TrialState.ERROR)
    reason = with_failures(Outcome(reason=before), table).reason
    assert reason == "; ".join(filter(None, (before, "2 of 3 trials failed; the first: x")))
    assert with_failures(Outcome(reason=before), table_of(TrialState.COMPLETED)).reason == before


def test_the_error_of_the_first_failed_trial_is_named_once_wherever_it_is_in_the_reason() -> None:
    table = table_of(TrialState.CANCELED)
    table.apply(TrialSuggested(at=0.0, trial=1, sample={}, parameters={}))
    table.apply(TrialEnded(at=1.0, trial=1, state=TrialState.ERROR, reason="node b cannot load the data set"))
    outcome = Outcome(reason="no node can run a trial: node a cannot load it; node b cannot load the data set")
    assert with_failures(outcome, table) == outcome


def test_an_outage_of_mlflow_pauses_with_the_error_unless_a_stop_was_requested() -> None:
    outage = DeliveryAbandonedError("MLflow did not answer for 24 h")
    assert outcome_of(outage, Outcome(), None) == Outcome(Phase.PAUSED, "MLflow did not answer for 24 h", error=True)
    canceled = Outcome(Phase.CANCELED, "canceled on request")
    assert outcome_of(outage, Outcome(), canceled) == replace(
        canceled, reason="canceled on request; MLflow did not answer for 24 h"
    )
