"""Controls: the settings of an experiment that may change while it runs, waits, or after it has ended.

The spec stays as it was accepted. Controls start with its values and change by PATCH. The service stores them and sends
them to the driver at its launch and with each answer to its heartbeat.
"""

from __future__ import annotations

from functools import reduce
from operator import attrgetter, getitem
from typing import Annotated, Any

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.experiment import ExperimentSpec, MaxRestarts, Priority
from search_spaces.objective import Goal
from search_spaces.resources import Budget
from search_spaces.searchers.base import NumSamples
from search_spaces.spec import Spec

#: Where the spec has each control.
SPEC_PATHS = {
    "priority": "priority",
    "num_samples": "searcher.num_samples",
    "max_concurrent_trials": "resources.max_concurrent_trials",
    "max_restarts": "max_restarts",
    "goal": "objective.goal",
    "budget": "budget",
}
#: Those that have the value of the spec. The number of trials does not: the searcher counts them.
_SAME = {name: path for name, path in SPEC_PATHS.items() if name != "num_samples"}


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
        return cls(num_samples=spec.num_samples, **{name: attrgetter(path)(spec) for name, path in _SAME.items()})

    def write_into(self, document: dict[str, Any]) -> None:
        """Set the fields of a complete spec to these values, except the number of trials."""
        for name, value in self.model_dump(mode="json", include=set(_SAME)).items():
            *outer, last = _SAME[name].split(".")
            reduce(getitem, outer, document)[last] = value
