"""What every search algorithm promises, wherever it looks."""

from __future__ import annotations

import math
from typing import Any

import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.sampling import Sample, combinations, draw_from, resolve
from search_spaces.searchers.base import Finding, SearchAlgorithm, SearcherSpec, SearchProblem, TrialResult

#: Conditional and finite, so that an exhaustive searcher can walk through it.
FINITE: dict[str, Any] = {
    "optimizer": {"choice": [{"kind": "adam"}, {"kind": "sgd", "momentum": {"choice": [0.0, 0.5, 0.9]}}]},
    "batch_size": {"choice": [16, 32, 64, 128, 256, 512]},
}
INFINITE = FINITE | {"label_smoothing": {"uniform": [0.0, 0.3]}}
TRIALS = 24


def result(number: int) -> TrialResult:
    """Trials that end in every way there is, with values that depend on their number."""
    finding = list(Finding)[number % len(Finding)]
    value = (number * 7 % 11) / 11
    if finding is Finding.COMPLETED:
        return TrialResult(number, finding, (value / 2, value), value)
    if finding is Finding.EARLY_STOPPED:
        return TrialResult(number, finding, (value,), value)
    return TrialResult(number, finding, (math.nan,) if finding is Finding.DIVERGED else (), None)


def tell(algorithm: SearchAlgorithm, ended: TrialResult) -> None:
    for epoch, value in enumerate(ended.curve, start=1):
        algorithm.report(ended.number, epoch, value)
    algorithm.observe(ended)


def run(algorithm: SearchAlgorithm, first: int, last: int) -> list[Sample]:
    """The samples of trials that run one after the other."""
    samples: list[Sample] = []
    for number in range(first, last):
        sample = algorithm.propose(number)
        if sample is None:
            break
        samples.append(sample)
        tell(algorithm, result(number))
    return samples


class SearchAlgorithmContract:
    """An implementation gives the fixture `searcher`: its spec."""

    @staticmethod
    def problem(searcher: SearcherSpec, seed: int = 0, finite: bool = False) -> SearchProblem:
        space = FINITE if searcher.exhaustive or finite else INFINITE
        return SearchProblem(SearchSpace.model_validate(space), 1, seed, rungs=(1,))

    def test_a_sample_has_a_value_for_each_domain_that_applies(self, searcher: SearcherSpec) -> None:
        problem = self.problem(searcher)
        samples = run(searcher.algorithm(problem), 0, TRIALS)
        assert len(samples) == TRIALS
        for sample in samples:
            drawn: list[str] = []

            def draw(path: str, domain: Any, sample: Sample = sample, drawn: list[str] = drawn) -> float:
                drawn.append(path)
                return draw_from(sample)(path, domain)

            SearchSpace.model_validate(resolve(problem.search_space, draw))
            assert sorted(drawn) == sorted(sample)

    @pytest.mark.parametrize("finite", [False, True])
    def test_an_algorithm_that_replays_any_part_of_the_search_proposes_the_rest_as_before(
        self, searcher: SearcherSpec, finite: bool
    ) -> None:
        expected = run(searcher.algorithm(self.problem(searcher, finite=finite)), 0, TRIALS)
        for crash in range(finite, TRIALS, 7):
            after = searcher.algorithm(self.problem(searcher, finite=finite))
            for number, sample in enumerate(expected[:crash]):
                after.replay(number, sample)
            for number in range(crash):
                tell(after, result(number))
            assert run(after, crash, TRIALS) == expected[crash:]

    def test_the_seed_decides(self, searcher: SearcherSpec) -> None:
        first, again, other = (run(searcher.algorithm(self.problem(searcher, seed)), 0, TRIALS) for seed in (0, 0, 1))
        assert first == again
        assert (first == other) == searcher.exhaustive

    def test_each_configuration_of_a_finite_space_is_proposed_once(self, searcher: SearcherSpec) -> None:
        problem = self.problem(searcher, finite=True)
        every = list(combinations(SearchSpace.model_validate(FINITE)))
        algorithm = searcher.algorithm(problem)
        samples = run(algorithm, 0, len(every) + 5)
        assert sorted(map(sorted, map(dict.items, map(dict, samples)))) == sorted(map(sorted, map(dict.items, every)))
        assert algorithm.propose(len(every)) is None, "it stays exhausted"
        if searcher.exhaustive:
            assert samples == every
            assert searcher.trial_count(problem.search_space) == len(every)

    def test_a_configuration_that_an_earlier_attempt_tried_is_not_proposed(self, searcher: SearcherSpec) -> None:
        every = list(combinations(SearchSpace.model_validate(FINITE)))
        algorithm = searcher.algorithm(self.problem(searcher, finite=True))
        for number, sample in enumerate(every[:-1]):
            algorithm.replay(number, sample)
        assert algorithm.propose(len(every) - 1) == every[-1]
        assert algorithm.propose(len(every)) is None

    def test_a_trial_that_it_never_proposed_is_ignored(self, searcher: SearcherSpec) -> None:
        algorithm = searcher.algorithm(self.problem(searcher))
        tell(algorithm, result(0))
        assert algorithm.propose(0) is not None
