"""The reasons of a search that ended: what the trials did, and how much of a budget was used."""

from __future__ import annotations

import pytest

from search_spaces.experiment import Objective
from search_spaces.protocol import TrialState
from workers.attempt import outcome_of
from workers.search.stop_conditions import Outcome, exhausted
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
    assert exhausted(table_of(TrialState.ERROR, TrialState.CANCELED), 2).phase == "failed"


def test_the_reason_of_a_long_outage_of_mlflow_is_one_sentence_without_the_name_of_a_class() -> None:
    outage = DeliveryAbandonedError("MLflow was unavailable for 24 h")
    assert outcome_of(outage, Outcome(), None).reason == "MLflow was unavailable for 24 h"
    assert outcome_of(outage, Outcome(), Outcome("paused", "paused on request")).reason == (
        "paused on request; MLflow was unavailable for 24 h"
    )
