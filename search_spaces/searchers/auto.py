"""Auto: the searcher that was better on spaces of this form in benchmarks (docs/decisions/0023, 0060)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.problems import Problem
from search_spaces.sampling import conditions
from search_spaces.searchers.base import SearchProblem, startup_warnings
from search_spaces.searchers.drawn import AvoidDivergence, ChoicesOfNumbers, DrawnSearcherSpec, Model
from search_spaces.searchers.gp import GP
from search_spaces.searchers.interleaved import Interleaved
from search_spaces.searchers.tpe import TPE
from search_spaces.spec import Spec

#: Trials with a value before the model is used, at least; and for each domain where some depend on choices.
STARTUP_TRIALS, STARTUP_TRIALS_PER_DOMAIN = 10, 4


class Auto(DrawnSearcherSpec):
    """The searcher `gp`. Where a domain is within an alternative of a choice, such as the rate of one of several
    optimizers, its model begins later, and every second configuration is drawn as in a random search."""

    kind: Literal["auto"] = "auto"
    startup_trials: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Number of trials with a value from which on the searcher uses its model; see `startup`. Default: "
        "10; with `dependent: gp`, where a domain is within an alternative of a choice, four for each domain if that "
        "is more.",
    )
    dependent: Literal["gp", "tpe"] = Field(
        "gp",
        description="The searcher where a domain is within an alternative of a choice. gp: `gp`, but every second "
        "configuration is drawn as in a random search. tpe: `tpe`; experiments that were stored before continue with "
        "it.",
    )
    choices_of_numbers: ChoicesOfNumbers = "ordered"
    avoid_divergence: AvoidDivergence = True

    def learns(self, search_space: Spec) -> bool:
        return self.num_samples > self._startup_trials(search_space)

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        yield from super().warnings(search_space)
        startup_trials = self.startup_trials or STARTUP_TRIALS
        if startup_trials >= self.num_samples and (self.startup_trials is not None or not _depends(search_space)):
            yield from startup_warnings(search_space, self.num_samples, startup_trials)

    def model(self, problem: SearchProblem) -> Model:
        space = problem.search_space
        fields = self.model_dump(exclude={"kind", "dependent"}) | {"startup_trials": self._startup_trials(space)}
        if _depends(space) and self.dependent == "tpe":
            return TPE(**fields).model(problem)
        model = GP(**fields).model(problem)
        return Interleaved(problem, model) if _depends(space) else model

    def _startup_trials(self, search_space: Spec) -> int:
        if self.startup_trials is not None:
            return self.startup_trials
        found = conditions(search_space) if self.dependent == "gp" else {}
        return max(STARTUP_TRIALS, STARTUP_TRIALS_PER_DOMAIN * len(found) if any(found.values()) else 0)


def _depends(search_space: Spec) -> bool:
    """Whether a domain is within an alternative of a choice."""
    return any(conditions(search_space).values())
