"""The model of one rung: which trials of a long search it is of."""

from __future__ import annotations

import random

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
