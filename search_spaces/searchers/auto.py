"""Auto: the searcher that was better on spaces of this form in benchmarks (docs/decisions/0023)."""

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
from search_spaces.searchers.tpe import TPE
from search_spaces.spec import Spec


class Auto(DrawnSearcherSpec):
    """The searcher `tpe` where a domain is within an alternative of a choice, such as the rate of one of several
    optimizers; otherwise `gp`."""

    kind: Literal["auto"] = "auto"
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(
        10, description="Number of trials with a value from which on the searcher uses its model; see `startup`."
    )
    choices_of_numbers: ChoicesOfNumbers = "ordered"
    avoid_divergence: AvoidDivergence = True

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        yield from super().warnings(search_space)
        yield from startup_warnings(search_space, self.num_samples, self.startup_trials)

    def model(self, problem: SearchProblem) -> Model:
        chosen = TPE if any(conditions(problem.search_space).values()) else GP
        return chosen(**self.model_dump(exclude={"kind"})).model(problem)
