"""Which searcher the default is, by the form of the search space; and that what was stored continues as it began."""

from __future__ import annotations

import json
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.searchers.auto import Auto
from search_spaces.searchers.base import Finding, SearchAlgorithm, SearchProblem, TrialResult
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.searchers.gp import GP
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.stored import read_spec

FLAT: dict[str, Any] = {"batch_size": {"choice": [16, 32, 64]}, "label_smoothing": {"uniform": [0.0, 0.9]}}
#: Two domains: the rate is within an alternative.
DEPENDENT: dict[str, Any] = {
    "optimizer": {"choice": [{"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}, {"kind": "adam", "lr": 0.001}]}
}
#: Four, so that a default startup is longer than 10.
FOUR: dict[str, Any] = DEPENDENT | FLAT
#: Alternatives without domains of their own.
KINDS = {"optimizer": {"choice": [{"kind": "sgd", "lr": 0.1}, {"kind": "adam", "lr": 0.001}]}} | FLAT
#: As the first version with this searcher stored it, with all the fields that it had. Never edit it.
STORED = """{"kind": "auto", "num_samples": 40, "repeat_configurations": false, "initial": [], "startup": "sobol",
"warm_start": [], "startup_trials": 10, "choices_of_numbers": "ordered", "avoid_divergence": true}"""


def algorithm_of(searcher: DrawnSearcherSpec, space: dict[str, Any]) -> SearchAlgorithm:
    return searcher.algorithm(SearchProblem(SearchSpace.model_validate(space), 1, 0, (1,)))


def end(algorithm: SearchAlgorithm, number: int) -> None:
    value = number * 7 % 10 / 10
    algorithm.report(number, 1, value)
    algorithm.observe(TrialResult(number, Finding.EARLY_STOPPED, (value,), value))


def proposed(searcher: DrawnSearcherSpec, space: dict[str, Any], count: int = 8) -> list[dict[str, float] | None]:
    algorithm = algorithm_of(searcher, space)
    found = []
    for number in range(count):
        found.append(algorithm.propose(number))
        end(algorithm, number)
    return found


@pytest.mark.parametrize("space", [FLAT, KINDS])
def test_it_is_gp_where_no_domain_depends_on_a_choice(space: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"startup_trials": 3, "initial": ("default",)}
    for dependent in ("gp", "tpe"):
        assert proposed(Auto(dependent=dependent, **fields), space) == proposed(GP(**fields), space)
    assert proposed(Auto(**fields), space) != proposed(TPE(**fields), space)
    assert proposed(Auto(), space, 14) == proposed(GP(), space, 14)


def test_where_a_domain_depends_on_a_choice_every_second_sample_is_that_of_a_random_search() -> None:
    found = proposed(Auto(startup_trials=3), FOUR, 12)
    at_random = proposed(Random(), FOUR, 12)
    learned = algorithm_of(GP(startup_trials=3), FOUR)  # of the same trials
    for number, sample in enumerate(found):
        assert sample is not None
        if number < 3 or number % 2 == 0:
            assert sample == at_random[number]
            learned.replay(number, sample)
        else:
            assert sample == learned.propose(number) != at_random[number]
        end(learned, number)


def test_there_the_model_begins_after_four_trials_for_each_domain_and_never_before_ten() -> None:
    for space, startup in ((DEPENDENT, 10), (FOUR, 16)):
        count = startup + 2
        found = proposed(Auto(repeat_configurations=True), space, count)
        at_random = proposed(Random(repeat_configurations=True), space, count)
        different = [number for number, pair in enumerate(zip(found, at_random, strict=True)) if pair[0] != pair[1]]
        assert different == [startup + 1]


def test_a_sample_of_the_sequence_that_was_tried_is_replaced_by_one_of_the_model() -> None:
    """A finite space is searched to its end, and nothing is tried twice."""
    rates = {"optimizer": {"choice": [{"kind": "adam", "lr": {"choice": [0.1, 0.2, 0.3]}}, {"kind": "sgd"}]}}
    found = [sample for sample in proposed(Auto(startup_trials=1), rates, 6) if sample is not None]
    assert sorted(json.dumps(sample) for sample in found) == sorted({json.dumps(sample) for sample in found})
    assert len(found) == 4


def test_what_was_stored_continues_with_tpe() -> None:
    document = {"name": "x", "searcher": json.loads(STORED)}
    for stored in (document, json.dumps(document), {"name": "x", "searcher": "auto"}):
        searcher = read_spec(stored).searcher
        assert isinstance(searcher, Auto)
        for space, kind in ((FOUR, TPE), (FLAT, GP)):
            expected = proposed(kind(), space, 20)
            assert proposed(searcher, space, 20) == expected
            continued = algorithm_of(searcher, space)  # after a crash, or an upgrade
            for number, sample in enumerate(expected[:15]):
                assert sample is not None
                continued.replay(number, sample)
            for number in range(15):
                end(continued, number)
            for number in range(15, 20):
                assert continued.propose(number) == expected[number]
                end(continued, number)
    new = ExperimentSpec.model_validate({"name": "x", "searcher": "auto"})
    assert read_spec(new.model_dump_json()).searcher == new.searcher == Auto()
    assert proposed(Auto(), FOUR, 20) != proposed(TPE(), FOUR, 20) == proposed(Auto(dependent="tpe"), FOUR, 20)
