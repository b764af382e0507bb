"""Every searcher of the registry keeps the contract; a new searcher is tested without a change here."""

from __future__ import annotations

import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import Finding, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.spec import members
from tests.support.contracts.search_algorithm import SearchAlgorithmContract

SPACE = SearchSpace.model_validate({"label_smoothing": {"uniform": [0.0, 0.9]}})


@pytest.fixture(params=members(Searcher), ids=lambda member: member.__name__)
def searcher(request: pytest.FixtureRequest) -> SearcherSpec:
    spec: SearcherSpec = request.param()
    return spec


class TestEverySearcher(SearchAlgorithmContract):
    pass


def test_a_searcher_without_an_algorithm_cannot_be_made() -> None:
    class Forgotten(SearcherSpec):
        kind: str = "forgotten"

    with pytest.raises(TypeError, match=r"abstract methods '?algorithm"):
        Forgotten()  # type: ignore[abstract]


def test_tpe_learns_and_random_search_does_not() -> None:
    """After many trials of which small values were best, the next samples tell who has learned."""
    for spec, learns in ((TPE(startup_trials=5), True), (Random(), False)):
        algorithm = spec.algorithm(SearchProblem(SPACE, 1, 0))
        drawn = []
        for number in range(40):
            sample = algorithm.propose(number)
            assert sample is not None
            drawn.append(sample["label_smoothing"])
            value = 1 - sample["label_smoothing"]
            algorithm.observe(TrialResult(number, Finding.COMPLETED, (value,), value))
        assert (sum(drawn[-15:]) / 15 < 0.25) == learns


def test_a_smaller_objective_is_better_where_the_sign_says_so() -> None:
    algorithm = TPE(startup_trials=5).algorithm(SearchProblem(SPACE, -1, 0))
    drawn = []
    for number in range(40):
        sample = algorithm.propose(number)
        assert sample is not None
        drawn.append(sample["label_smoothing"])
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (drawn[-1],), drawn[-1]))
    assert sum(drawn[-15:]) / 15 < 0.25
