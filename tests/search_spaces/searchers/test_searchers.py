"""Every searcher of the registry keeps the contract; a new searcher is tested without a change here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import Finding, SearchAlgorithm, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.searchers.gp import GP
from search_spaces.searchers.grid import Grid
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.spec import members
from search_spaces.stored import read_spec
from tests.support.contracts.search_algorithm import SearchAlgorithmContract, run, tell

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


def test_models_learn_and_random_search_does_not() -> None:
    """After many trials of which small values were best, the next samples tell who has learned."""
    for spec, learns in ((TPE(startup_trials=5), True), (GP(startup_trials=5), True), (Random(), False)):
        algorithm = spec.algorithm(SearchProblem(SPACE, 1, 0))
        drawn = []
        for number in range(40):
            sample = algorithm.propose(number)
            assert sample is not None
            drawn.append(sample["label_smoothing"])
            value = 1 - sample["label_smoothing"]
            algorithm.observe(TrialResult(number, Finding.COMPLETED, (value,), value))
        assert (sum(drawn[-15:]) / 15 < 0.25) == learns


@pytest.mark.parametrize("searcher", [TPE(startup_trials=5), GP(startup_trials=5)])
def test_a_smaller_objective_is_better_where_the_sign_says_so(searcher: SearcherSpec) -> None:
    algorithm = searcher.algorithm(SearchProblem(SPACE, -1, 0))
    drawn = []
    for number in range(40):
        sample = algorithm.propose(number)
        assert sample is not None
        drawn.append(sample["label_smoothing"])
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (drawn[-1],), drawn[-1]))
    assert sum(drawn[-15:]) / 15 < 0.25


def searched(searcher: SearcherSpec, told: Callable[[SearchAlgorithm, int, float], None], trials: int = 40) -> float:
    """The mean of the last 15 samples of a search that learns something of each trial."""
    algorithm = searcher.algorithm(SearchProblem(SPACE, 1, 0, rungs=(1, 3)))
    drawn = []
    for number in range(trials):
        sample = algorithm.propose(number)
        assert sample is not None
        drawn.append(sample["label_smoothing"])
        told(algorithm, number, 1 - drawn[-1])
    return sum(drawn[-15:]) / 15


def running(algorithm: SearchAlgorithm, number: int, value: float) -> None:
    algorithm.report(number, 1, value)


def stopped(algorithm: SearchAlgorithm, number: int, value: float) -> None:
    algorithm.report(number, 1, value)
    algorithm.observe(TrialResult(number, Finding.EARLY_STOPPED, (value,), value))


def beyond_the_edge(searcher: SearcherSpec) -> int:
    """How many of trials 20 to 59 diverge where the best values lie next to those that diverge."""
    algorithm = searcher.algorithm(SearchProblem(SPACE, 1, 0, rungs=(1, 3)))
    diverged = 0
    for number in range(60):
        sample = algorithm.propose(number)
        assert sample is not None
        value = sample["label_smoothing"]
        if value > 0.5:
            diverged += number >= 20
            tell(algorithm, TrialResult(number, Finding.DIVERGED, (math.nan,), None))
        elif number % 3:
            tell(algorithm, TrialResult(number, Finding.EARLY_STOPPED, (value,), value))
        else:
            tell(algorithm, TrialResult(number, Finding.COMPLETED, (value,) * 4, value))
    return diverged


def test_models_learn_from_trials_that_still_run_or_were_stopped_at_a_rung() -> None:
    for searcher in (TPE(startup_trials=5), GP(startup_trials=5)):
        assert searched(searcher, running) < 0.25
        assert searched(searcher, stopped) < 0.25
    assert searched(TPE(startup_trials=5, learn_from="ended_trials"), running) > 0.25


def test_models_avoid_what_diverged() -> None:
    """At random, 18 of the 40 trials would diverge."""
    assert beyond_the_edge(TPE()) <= 10
    assert beyond_the_edge(GP()) <= 10
    assert beyond_the_edge(TPE(avoid_divergence=False)) > 10
    assert beyond_the_edge(TPE(learn_from="ended_trials", avoid_divergence=False)) >= 30


def test_the_model_is_of_the_highest_rung_that_enough_trials_reached() -> None:
    """At the first rung small values look best, at the second large ones do."""

    def turning(algorithm: SearchAlgorithm, number: int, value: float) -> None:
        algorithm.report(number, 1, value)
        if number < 25:
            algorithm.report(number, 3, 1 - value)

    assert searched(TPE(startup_trials=5), turning, 25) > 0.65
    assert searched(TPE(startup_trials=30), turning, 45) < 0.3


def test_a_completed_trial_counts_with_its_best_value() -> None:
    def peaked(algorithm: SearchAlgorithm, number: int, value: float) -> None:
        for epoch, seen in ((1, 0.1), (2, value), (3, 0.1), (4, 0.1)):
            algorithm.report(number, epoch, seen)
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (0.1, value, 0.1, 0.1), value))

    assert searched(TPE(startup_trials=5), peaked) < 0.25


def test_a_search_that_was_stored_before_continues_with_its_rules() -> None:
    """A spec in a database has all fields that existed when it was stored."""
    for searcher in ({"kind": "tpe", "num_samples": 30}, "tpe", {}):
        document = {"name": "x", **({"searcher": searcher} if searcher else {})}
        for stored in (document, json.dumps(document), json.dumps(document).encode()):
            spec = read_spec(stored).searcher
            assert isinstance(spec, TPE)
            assert (spec.learn_from, spec.choices_of_numbers) == ("ended_trials", "unordered")
            assert not spec.avoid_divergence
            assert (spec.repeat_configurations, spec.startup) == (True, "random")
    first: dict[str, Any] = {"repeat_configurations": True, "startup": "random"}
    stored_gp = read_spec({"name": "x", "searcher": {"kind": "gp", "num_samples": 9, "startup_trials": 3}}).searcher
    assert stored_gp == GP(
        num_samples=9, startup_trials=3, choices_of_numbers="unordered", avoid_divergence=False, **first
    )
    assert read_spec({"name": "x", "searcher": "random"}).searcher == Random(**first)
    assert read_spec({"name": "x", "searcher": "grid"}).searcher == Grid()
    for kind in ("tpe", "gp", "random", "grid"):
        new = ExperimentSpec.model_validate({"name": "x", "searcher": kind})
        assert read_spec(new.model_dump_json()).searcher == new.searcher


@pytest.mark.parametrize("kind", [TPE, GP, Random])
def test_configurations_are_repeated_where_the_spec_says_so(kind: type[DrawnSearcherSpec]) -> None:
    problem = SearchProblem(SearchSpace.model_validate({"batch_size": {"choice": [64, 128]}}), 1, 0)
    assert len(run(kind(repeat_configurations=True).algorithm(problem), 0, 9)) == 9
    assert [sample["batch_size"] for sample in run(kind().algorithm(problem), 0, 9)] in ([0, 1], [1, 0])


@pytest.mark.parametrize("kind", [TPE, GP, Random])
def test_a_space_without_domains_is_repeated(kind: type[DrawnSearcherSpec]) -> None:
    assert run(kind().algorithm(SearchProblem(SearchSpace(), 1, 0)), 0, 5) == [{}] * 5


@pytest.mark.parametrize("kind", [TPE, GP, Random])
def test_equal_alternatives_are_one_configuration(kind: type[DrawnSearcherSpec]) -> None:
    adam = {"kind": "adam", "lr": {"quniform": [0.001, 0.003, 0.001]}}
    space = {"optimizer": {"choice": [adam, adam, {"kind": "sgd"}]}, "batch_size": {"choice": [64, 64]}}
    algorithm = kind().algorithm(SearchProblem(SearchSpace.model_validate(space), 1, 0, rungs=(1,)))
    assert len(run(algorithm, 0, 9)) == 4


@pytest.mark.parametrize("kind", [TPE, GP, Random])
def test_a_rare_untried_configuration_is_found_and_a_continuous_space_has_no_end(
    kind: type[DrawnSearcherSpec],
) -> None:
    """99 of 100 alternatives are tried; then one of 99 has a continuous domain, which a few draws may miss."""
    fixed = [{"kind": "adam", "lr": index / 1000} for index in range(1, 100)]
    for last, proposed in (({"kind": "sgd"}, 1), ({"kind": "sgd", "lr": {"uniform": [0.1, 0.2]}}, 4)):
        space = SearchSpace.model_validate({"optimizer": {"choice": [*fixed, last]}})
        algorithm = kind().algorithm(SearchProblem(space, 1, 0))
        for number in range(99):
            algorithm.replay(number, {"optimizer": number})
        samples = [algorithm.propose(99 + number) for number in range(4)]
        assert sum(sample is not None for sample in samples) == proposed


def test_tpe_knows_the_order_of_numbers() -> None:
    """Trials are good near one of 31 numbers, which are listed in no order."""
    numbers = [(index * 12 % 31) / 100 for index in range(31)]
    space = SearchSpace.model_validate(
        {"label_smoothing": {"choice": numbers}, "gradient_clip_norm": {"uniform": [0.0, 1.0]}}
    )

    def nearness(seed: int, order: Any) -> float:
        searcher = TPE(choices_of_numbers=order, startup="random", startup_trials=5)
        algorithm = searcher.algorithm(SearchProblem(space, 1, seed, rungs=(1,)))
        distances = []
        for number in range(30):
            sample = algorithm.propose(number)
            assert sample is not None
            distances.append(abs(numbers[int(sample["label_smoothing"])] - 0.2))
            algorithm.report(number, 1, -distances[-1])
        return sum(distances[-20:]) / 20

    ordered, unordered = (sum(nearness(seed, order) for seed in range(6)) / 6 for order in ("ordered", "unordered"))
    assert ordered < 0.9 * unordered
