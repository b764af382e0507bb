"""The model of one rung: which trials it is of."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.searchers import rung_search
from search_spaces.searchers.base import Finding, SearchAlgorithm, SearchProblem, TrialResult
from search_spaces.searchers.optuna_search import OptunaStudy
from search_spaces.searchers.tpe import TPE

SPACE = SearchSpace.model_validate({"label_smoothing": {"uniform": [0.0, 0.9]}})


@pytest.mark.parametrize("sign", [1, -1])
def test_of_a_long_search_the_newest_and_the_best_trials_are_modeled(
    monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    """And one that was interrupted proposes what an uninterrupted one does."""
    modeled: list[set[int]] = []

    class Noted(OptunaStudy):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            modeled.append(set())

        def complete(self, number: int, value: float) -> None:
            before = self.told
            super().complete(number, value)
            if self.told > before:
                modeled[-1].add(number)

    monkeypatch.setattr(rung_search, "OptunaStudy", Noted)
    monkeypatch.setattr(rung_search, "WINDOW", 20)
    monkeypatch.setattr(rung_search, "BEST", 3)
    problem, searcher = SearchProblem(SPACE, sign, 0, rungs=(1,)), TPE(startup_trials=2, avoid_divergence=False)
    whole, again = searcher.algorithm(problem), searcher.algorithm(problem)
    generator = random.Random(0)
    values = [generator.random() for _ in range(70)]
    samples = [whole.propose(0)]

    def end(algorithm: SearchAlgorithm, number: int) -> None:
        algorithm.report(number, 1, values[number])
        algorithm.observe(TrialResult(number, Finding.EARLY_STOPPED, (values[number],), values[number]))

    for number in range(69):
        samples.append(whole.propose(number + 1))  # beside one that runs
        end(whole, number)
    for number, sample in enumerate(samples):
        assert sample is not None
        again.replay(number, sample)
    for number in range(69):
        end(again, number)
    assert again.propose(70) == whole.propose(70)
    best = sorted(range(40), key=lambda number: -sign * values[number])[:3]
    assert modeled[-1] == {*best, *range(40, 69)}


@pytest.mark.parametrize(("learn_from", "differ"), [("all_trials", True), ("rungs", False)])
def test_trials_that_were_stopped_at_an_earlier_rung_count_as_bad_or_not_at_all(
    learn_from: Literal["all_trials", "rungs"], differ: bool
) -> None:
    def large(finding: Finding, *bad: float) -> list[bool]:
        """Of 20 proposals, which are above 0.45. All trials above it and half of the others had the curve `bad`."""
        problem = SearchProblem(SPACE, 1, 0, rungs=(1, 3))
        searcher = TPE(startup_trials=10, learn_from=learn_from, avoid_divergence=False)
        algorithm = searcher.algorithm(problem)
        proposed = []
        for number in range(60):
            sample = algorithm.propose(number)
            assert sample is not None
            proposed.append(sample["label_smoothing"] > 0.45)
            goes_on = not proposed[-1] and number % 2
            curve = (0.5, 0.6, 0.7 + 0.1 * (number % 5)) if goes_on else bad
            for epoch, value in enumerate(curve, start=1):
                algorithm.report(number, epoch, value)
            algorithm.observe(TrialResult(number, Finding.EARLY_STOPPED if goes_on else finding, curve, max(curve)))
        return proposed[-20:]

    stopped, failed = large(Finding.EARLY_STOPPED, 0.1), large(Finding.UNKNOWN, 0.1)
    assert (stopped != failed) is differ
    assert (sum(stopped) <= 4) is differ
    out_of_patience = large(Finding.EARLY_STOPPED, 0.1, 0.1)
    assert out_of_patience == large(Finding.UNKNOWN, 0.1, 0.1)
