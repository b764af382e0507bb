"""The quasi-random startup: how evenly it fills a space, and which searchers use it until when."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.searchers.base import SearchProblem
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.searchers.gp import GP
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE

SPACE = {
    "label_smoothing": {"uniform": [0.0, 0.8]},
    "optimizer": {"choice": [{"kind": "adam"}, {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}]},
    "batch_size": {"choice": [16, 32, 64, 128]},
}


def samples(searcher: DrawnSearcherSpec, count: int, space: dict[str, Any] = SPACE, seed: int = 0) -> list[Any]:
    """Those of trials that have no results yet."""
    algorithm = searcher.algorithm(SearchProblem(SearchSpace.model_validate(space), 1, seed, rungs=(1,)))
    return [algorithm.propose(number) for number in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_each_sixteenth_of_a_domain_has_one_of_sixteen_samples(seed: int) -> None:
    drawn = samples(Random(startup="sobol"), 16, seed=seed)
    assert sorted(int(sample["label_smoothing"] / 0.05) for sample in drawn) == list(range(16))
    assert set(Counter(sample["batch_size"] for sample in drawn).values()) == {4}
    assert Counter(sample["optimizer"] for sample in drawn) == {0: 8, 1: 8}
    assert {len(sample) for sample in drawn} == {3, 4}, "a rate that does not apply is left out"
    at_random = samples(Random(startup="random"), 16, seed=seed)
    assert len({int(sample["label_smoothing"] / 0.05) for sample in at_random}) < 16


def test_models_begin_with_the_same_samples() -> None:
    expected = samples(Random(startup="sobol"), 20)
    for searcher in (TPE(startup="sobol"), GP(startup="sobol"), TPE(startup="sobol", learn_from="ended_trials")):
        assert samples(searcher, 20) == expected
    assert samples(TPE(startup="random"), 20) != expected


@pytest.mark.parametrize("kind", [TPE, GP])
def test_the_startup_ends_when_the_model_knows_enough(kind: type[TPE | GP]) -> None:
    expected = samples(Random(startup="sobol"), 7)
    algorithm = kind(startup="sobol", startup_trials=5).algorithm(
        SearchProblem(SearchSpace.model_validate(SPACE), 1, 0, rungs=(1,))
    )
    for number in range(5):
        assert algorithm.propose(number) == expected[number]
        algorithm.report(number, 1, number / 5)
    assert [algorithm.propose(number) != expected[number] for number in (5, 6)] == [True, True]


def test_a_space_of_very_many_domains_is_drawn_from() -> None:
    rates = [{"kind": "adam", "lr": {"loguniform": [index / 1e5, 1.0]}} for index in range(1, 1001)]
    drawn = samples(
        Random(startup="sobol"), 20, {"optimizer": {"choice": rates}, "label_smoothing": SPACE["label_smoothing"]}
    )
    assert len({sample["optimizer"] for sample in drawn}) == 20
    assert len({sample["label_smoothing"] for sample in drawn}) == 20
