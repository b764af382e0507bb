"""Outlook: whether a completed experiment has work left, and what must change where it has none.

`load_facts` reads everything that the decision needs, once; `outlook` is a pure function of it. It must not change
anything, and must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.controls import Controls
from search_spaces.objective import Objective
from search_spaces.replicates import is_replicate, replicate_number
from search_spaces.sampling import count_distinct
from search_spaces.stored import StoredSpec
from service.contract.errors import ConflictError
from service.domain import experiments
from service.store.models import Experiment, Trial


@dataclass(frozen=True)
class Facts:
    """What decides whether work is left. `evaluated_trial` is the trial that was last measured on the test set, or the
    best one where its replicates and those of others were compared, of which one was measured.

    `exhaustive`: the searcher tries a finite number of combinations. `configurations`: how many different ones the
    search space has, if that is known; infinite where trials of another search space were imported.
    """

    controls: Controls
    objective: Objective
    exhaustive: bool
    started: int
    best_trial: int | None
    best_value: float | None
    evaluated_trial: int | None
    configurations: float = math.inf

    def under(self, controls: Controls) -> Facts:
        """The same facts with other controls."""
        return replace(self, controls=controls)


@dataclass(frozen=True)
class Outlook:
    """Whether work is left; where none is, `obstacle` says why, and what to change."""

    obstacle: str = ""

    @property
    def work_left(self) -> bool:
        return not self.obstacle


def load_facts(session: Session, experiment: Experiment) -> Facts:
    """Raises ConflictError for controls, an objective or a searcher that this version cannot read."""
    spec = StoredSpec(experiment.spec)
    try:
        objective, exhaustive = spec.objective, spec.searcher.exhaustive
    except ValidationError as error:
        raise ConflictError(
            f"the objective or searcher of experiment {experiment.id} cannot be read by this version: {error}"
        ) from None
    return Facts(
        controls=experiments.controls_of(experiment),
        objective=objective,
        exhaustive=exhaustive,
        started=experiments.count_started(session, experiment),
        best_trial=experiment.best_trial,
        best_value=experiment.best_value,
        evaluated_trial=_evaluated(session, experiment),
        configurations=_configurations(experiment),
    )


def outlook(facts: Facts) -> Outlook:
    """Work is left while the best trial is not evaluated, or trials are left and the goal is not reached.

    Whether the budget allows more work is not known here: the driver measures what was spent.
    """
    if facts.best_trial is not None and facts.evaluated_trial != facts.best_trial:
        return Outlook()
    goal = facts.controls.goal
    if goal is not None and facts.best_value is not None and facts.objective.reached(facts.best_value, goal):
        further = "increase" if facts.objective.mode == "max" else "lower"
        return Outlook(f"its goal of {goal:g} is reached; {further} or remove it to continue")
    if facts.started == facts.configurations:  # more have run where an earlier version repeated some
        everything = f"all {facts.started} configurations of the search space have run"
        return Outlook(f"{everything}; `rung continue` starts a new experiment with a wider one")
    if facts.started >= facts.controls.num_samples:
        return Outlook(f"all {facts.started} trials have run; increase num_samples to continue")
    return Outlook()


def _configurations(experiment: Experiment) -> float:
    if experiment.source_id is None:
        with contextlib.suppress(ConflictError):  # the spec of another version
            return count_distinct(experiments.spec_of(experiment).search_space)
    return math.inf


def _evaluated(session: Session, experiment: Experiment) -> int | None:
    evaluated: int | None = (experiment.winner or {}).get("trial")
    best = experiment.best_trial
    if evaluated is None or best is None or not is_replicate(evaluated):
        return evaluated
    own = select(Trial.trial).where(Trial.experiment_id == experiment.id, Trial.trial == replicate_number(best, 0))
    return evaluated if session.scalar(own) is None else best  # without its own, it was found after the comparison
