"""Grid search: every combination of finite domains, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from search_spaces.domains import Interval
from search_spaces.problems import Problem
from search_spaces.sampling import Sample, as_written, combinations, count_combinations, domains
from search_spaces.searchers.base import (
    MAX_TRIALS,
    NumSamples,
    SearchAlgorithm,
    SearcherSpec,
    SearchProblem,
    TrialResult,
)
from search_spaces.spec import Spec

#: Of a number of combinations: to be formatted, it must be a float, and some grids have more than any float.
LARGEST_SHOWN = 1e300


class Grid(SearcherSpec):
    """Every combination of finite domains once, in the order of the spec. Continuous domains are errors."""

    exhaustive: ClassVar[bool] = True
    kind: Literal["grid"] = "grid"
    num_samples: NumSamples | None = Field(
        None, description="Largest number of combinations to try; default: all combinations."
    )

    def learns(self, search_space: Spec) -> bool:
        return False

    def trial_count(self, search_space: Spec) -> int:
        every = count_combinations(search_space)
        return min(self.num_samples or every, every)

    def problems(self, search_space: Spec) -> Iterator[Problem]:
        continuous = False
        for path, domain in domains(search_space):
            if isinstance(domain, Interval) and domain.step is None:
                continuous = True
                rule = "must be finite for a grid: list values in a choice, or use quniform"
                yield Problem(f"search_space.{as_written(search_space, path)}", rule, domain.model_dump(mode="json"))
        if not continuous and self.num_samples is None and (every := count_combinations(search_space)) > MAX_TRIALS:
            rule = f"must be given, at most {MAX_TRIALS}, because the grid has {_shown(every)} combinations"
            yield Problem("searcher.num_samples", rule)

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        if self.num_samples is not None and self.num_samples < (every := count_combinations(search_space)):
            rule = (
                f"should be the {_shown(every)} combinations of the grid, or the searcher random: the first "
                "combinations differ only in the last domains of the spec"
            )
            yield Problem("searcher.num_samples", rule, self.num_samples)

    def algorithm(self, problem: SearchProblem) -> SearchAlgorithm:
        return GridSearch(problem.search_space)


class GridSearch:
    """The combinations that no trial had yet, in the order of the spec."""

    def __init__(self, search_space: Spec) -> None:
        self._left: Iterator[dict[str, float]] = combinations(search_space)
        self._tried: set[frozenset[tuple[str, float]]] = set()

    def propose(self, number: int) -> dict[str, float] | None:
        return next((sample for sample in self._left if frozenset(sample.items()) not in self._tried), None)

    def replay(self, number: int, sample: Sample) -> None:
        self._tried.add(frozenset(sample.items()))

    def report(self, number: int, epoch: int, value: float) -> None:
        """A grid does not learn."""

    def observe(self, result: TrialResult) -> None:
        """A grid learns nothing from its trials."""


def _shown(every: int) -> str:
    return f"{every:.6g}" if every < LARGEST_SHOWN else f"more than {LARGEST_SHOWN:g}"
