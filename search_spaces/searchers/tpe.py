"""TPE: tree-structured Parzen estimators (Bergstra et al., 2011), as Optuna implements them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.problems import Problem
from search_spaces.searchers.avoiding import Avoiding
from search_spaces.searchers.base import SearchProblem, startup_warnings
from search_spaces.searchers.drawn import AvoidDivergence, ChoicesOfNumbers, Model
from search_spaces.searchers.optuna_search import OptunaSearcherSpec, Sampler
from search_spaces.searchers.rung_search import RungSearch
from search_spaces.spec import Spec


class TPE(OptunaSearcherSpec):
    """Optuna's TPE sampler (Bergstra et al., 2011). Domains are modeled together."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(
        10, description="Number of trials with a value from which on the sampler uses its model; see `startup`."
    )
    learn_from: Literal["rungs", "all_trials", "ended_trials"] = Field(
        "rungs",
        description="What the model knows of a trial. rungs: its value at the highest rung that at least "
        "`startup_trials` trials have reached, also if it still runs or was stopped there. all_trials: the same, and "
        "trials that were stopped at an earlier rung are worse; with rungs they are forgotten. ended_trials: its best "
        "value if it completed; experiments of version 0.1 continue with this.",
    )
    choices_of_numbers: ChoicesOfNumbers = "ordered"
    avoid_divergence: AvoidDivergence = True

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        yield from super().warnings(search_space)
        yield from startup_warnings(search_space, self.num_samples, self.startup_trials)

    def sampler(self) -> Sampler:
        """Trials that still run count as bad (`constant_liar`), so that trials at once differ from each other."""
        options = {"n_startup_trials": self.startup_trials, "constant_liar": True, "multivariate": True}
        return Sampler("TPESampler", options, self.choices_of_numbers == "ordered", self.startup_trials)

    def model(self, problem: SearchProblem) -> Model:
        if self.learn_from == "ended_trials":
            model = super().model(problem)
        else:
            model = RungSearch(problem, self.sampler(), forgets_stopped=self.learn_from == "rungs")
        return Avoiding(problem, model) if self.avoid_divergence else model
