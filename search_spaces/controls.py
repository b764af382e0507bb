"""Controls: the settings of an experiment that may change while it runs, waits, or after it has ended.

The spec stays as it was accepted. Controls start with its values and change by PATCH. The service stores them and sends
them to the driver at its launch and with each answer to its heartbeat.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.experiment import Budget, ExperimentSpec, Goal, MaxRestarts, Priority
from search_spaces.searchers.base import NumSamples
from search_spaces.spec import Spec


class Controls(Spec):
    """Every field has the meaning, the unit and the default of its namesake in the spec."""

    priority: Priority = 0
    num_samples: NumSamples
    max_concurrent_trials: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Largest number of trials that run at the same time; default: no limit except the cluster "
        "and the queue.",
    )
    max_restarts: MaxRestarts = 3
    goal: Goal = None
    budget: Budget = Field(Budget(), description="Limits at which the experiment ends.")

    @classmethod
    def of(cls, spec: ExperimentSpec) -> Controls:
        """The controls that a spec asks for."""
        return cls(
            priority=spec.priority,
            num_samples=spec.num_samples,
            max_concurrent_trials=spec.resources.max_concurrent_trials,
            max_restarts=spec.max_restarts,
            goal=spec.objective.goal,
            budget=spec.budget,
        )
