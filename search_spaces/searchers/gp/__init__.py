"""GP: Bayesian optimization with a Gaussian process over hyperparameters and rungs.

Owns the spec. `search` proposes, `process` is the model and `encoding` turns samples into vectors; they need numpy and
scipy, and are imported when a search begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.problems import Problem
from search_spaces.searchers.base import SearchProblem, startup_warnings
from search_spaces.searchers.drawn import AvoidDivergence, ChoicesOfNumbers, DrawnSearcherSpec, Model
from search_spaces.spec import Spec


class GP(DrawnSearcherSpec):
    """Bayesian optimization: a Gaussian process of the values at all rungs, also of trials that still run."""

    kind: Literal["gp"] = "gp"
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(
        10, description="Number of trials with a value from which on the searcher uses its model; see `startup`."
    )
    choices_of_numbers: ChoicesOfNumbers = "ordered"
    avoid_divergence: AvoidDivergence = True

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        yield from super().warnings(search_space)
        yield from startup_warnings(search_space, self.num_samples, self.startup_trials)

    def model(self, problem: SearchProblem) -> Model:
        from search_spaces.searchers.gp.search import GPSearch

        ordered = self.choices_of_numbers == "ordered"
        return GPSearch(problem, self.startup_trials, ordered, self.avoid_divergence)
