"""Drawn: what searchers have in common that draw each sample, unlike a grid.

Owns their common fields, and that no configuration is proposed twice. A searcher adds a model, which draws. It must not
know any model by name.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Protocol

from pydantic import Field

from search_spaces.sampling import Sample, domains
from search_spaces.searchers.base import NumSamples, SearchAlgorithm, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.untried import Untried
from search_spaces.spec import Spec

#: Proposals of a model that may be equal to earlier trials before one is drawn at random: each takes its full time.
ATTEMPTS = 5

ChoicesOfNumbers = Annotated[
    Literal["ordered", "unordered"],
    Field(
        description="Whether the model knows that the numbers of a choice have an order, so that neighbors are "
        "similar. ordered: it does, for three numbers or more; experiments of version 0.1 continue with unordered."
    ),
]


class Model(Protocol):
    """Draws samples, and learns from the trials as a `SearchAlgorithm` does."""

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        """A sample for trial `number`, another one for each `attempt` (from 0). It counts once it is replayed."""

    def replay(self, number: int, sample: Sample) -> None:
        """As `SearchAlgorithm.replay`."""

    def report(self, number: int, epoch: int, value: float) -> None:
        """As `SearchAlgorithm.report`."""

    def observe(self, result: TrialResult) -> None:
        """As `SearchAlgorithm.observe`."""


class DrawnSearcherSpec(SearcherSpec):
    """The base of all searchers that draw samples."""

    num_samples: NumSamples = 20
    repeat_configurations: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Whether a configuration may be tried more than once, with another seed each time. If not, the "
        "search ends when each configuration of a finite search space was tried. A search space without domains is "
        "always repeated. Experiments of version 0.1 continue with true.",
    )

    def trial_count(self, search_space: Spec) -> int:
        return self.num_samples

    @abstractmethod
    def model(self, problem: SearchProblem) -> Model:
        """A new model that knows no trials."""

    def algorithm(self, problem: SearchProblem) -> SearchAlgorithm:
        searched = any(True for _ in domains(problem.search_space))
        untried = Untried(problem.search_space) if searched and not self.repeat_configurations else None
        return DrawnSearch(problem, self.model(problem), untried)


class DrawnSearch:
    """The samples of a model, each drawn again while it is equal to that of an earlier trial, if there is `untried`."""

    def __init__(self, problem: SearchProblem, model: Model, untried: Untried | None) -> None:
        self._problem = problem
        self._model = model
        self._untried = untried

    def propose(self, number: int) -> dict[str, float] | None:
        sample = self._draw(number)
        if sample is not None:
            self.replay(number, sample)
        return sample

    def replay(self, number: int, sample: Sample) -> None:
        self._model.replay(number, sample)
        if self._untried is not None:
            self._untried.add(sample)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._model.report(number, epoch, value)

    def observe(self, result: TrialResult) -> None:
        self._model.observe(result)

    def _draw(self, number: int) -> dict[str, float] | None:
        if self._untried is None:
            return self._model.draw(number, 0)
        for attempt in range(ATTEMPTS):
            if (sample := self._model.draw(number, attempt)) in self._untried:
                return sample
        return self._untried.draw(f"{self._problem.seed}/untried/{number}")
