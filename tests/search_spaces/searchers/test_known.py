"""Configurations of earlier experiments: they are tried first, as far as they fit, and cost little if they mislead."""

from __future__ import annotations

import random
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.problems import SpecError
from search_spaces.sampling import draw_from, flatten, resolve
from search_spaces.searchers.base import SearcherSpec, SearchProblem
from search_spaces.searchers.gp import GP
from search_spaces.searchers.initial import MAX_KNOWN, known_sample
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.searchers.untried import draw_at_random
from search_spaces.validation import validate
from tests.support.contracts.search_algorithm import INFINITE, SearchAlgorithmContract, run

SPACE = SearchSpace.model_validate(
    {
        "optimizer": {
            "choice": [
                {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}, "momentum": {"uniform": [0.0, 0.9]}},
                {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-2]}},
            ]
        },
        "model": {"kind": "cnn", "width": {"choice": [16, 32, 64]}, "depth": 2},
        "batch_size": {"choice": [32, 64, 256]},
    }
)


class TestKnownOfEverySearcher(SearchAlgorithmContract):
    """The rest of the search keeps the contract."""

    @pytest.fixture(params=[Random, TPE, GP])
    def searcher(self, request: pytest.FixtureRequest) -> Any:
        return request.param()

    @staticmethod
    def problem(searcher: SearcherSpec, seed: int = 0, finite: bool = False) -> SearchProblem:
        plain = SearchAlgorithmContract.problem(searcher, seed, finite)
        known = {"optimizer.kind": "sgd", "optimizer.momentum": 0.5, "batch_size": 256}
        return SearchProblem(plain.search_space, plain.sign, plain.seed, plain.rungs, (known,))


def tried(known: dict[str, Any], **searcher: Any) -> list[dict[str, Any]]:
    """The hyperparameters of the first trials."""
    problem = SearchProblem(SPACE, 1, 0, rungs=(1,), known=(known,))
    samples = run(Random(**searcher).algorithm(problem), 0, 3)
    return [flatten(resolve(SPACE, draw_from(sample))) for sample in samples]


def test_a_trial_of_the_same_space_is_tried_again_as_it_was() -> None:
    generator = random.Random(0)
    for _ in range(20):
        known = flatten(resolve(SPACE, draw_from(draw_at_random(SPACE, generator))))
        assert tried(known)[0] == pytest.approx(known)


def test_lists_are_tried_again_as_they_were() -> None:
    multistep = {"kind": "multistep", "milestones": [{"uniform": [0.1, 0.5]}, {"uniform": [0.6, 0.9]}]}
    arguments = {"sizes": {"choice": [[1, 2], [2, 4], ["a", None]]}}
    model = {"kind": "plugin", "name": "mine", "arguments": arguments}
    space = SearchSpace.model_validate({"scheduler": multistep, "model": model})
    generator = random.Random(0)
    for _ in range(20):
        sample = draw_at_random(space, generator)
        assert known_sample(space, flatten(resolve(space, draw_from(sample)))) == pytest.approx(sample)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"batch_size": 256, "model.depth": 5, "label_smoothing": 0.1}, {"batch_size": 256, "model.depth": 2}),
        ({"batch_size": 128, "model.width": 64}, {"batch_size": 64, "model.width": 64}),
        (
            {"optimizer.kind": "rmsprop", "optimizer.lr": 0.001, "model.width": 64},
            {"optimizer.kind": "adam", "optimizer.lr": 3e-4, "model.width": 64},
        ),
        ({"optimizer.kind": "sgd", "optimizer.lr": 50.0}, {"optimizer.kind": "sgd", "optimizer.lr": 0.1}),
        ({"model.kind": "resnet", "model.depth": 9, "batch_size": 256}, {"model.kind": "cnn", "batch_size": 256}),
        ({"model.kind": "cnn", "model.width": "n/a", "added later": True, "batch_size": 32}, {"batch_size": 32}),
        ({"model": 1, "optimizer.kind": None, "scheduler.t_0": [3], "batch_size": 32}, {"batch_size": 32}),
        ({"model.width": "[" * 9999, "optimizer.lr": "[1, 2", "batch_size": 32}, {"batch_size": 32}),
    ],
    ids=["constants", "values", "kinds", "ranges", "kind of a constant", "unknown fields", "nonsense", "no lists"],
)
def test_what_does_not_fit_the_search_space_is_left_out(known: dict[str, Any], expected: dict[str, Any]) -> None:
    first = tried(known)[0]
    assert {name: first[name] for name in expected} == pytest.approx(expected)


def test_they_come_after_the_initial_configurations_and_none_is_tried_twice() -> None:
    known = {"batch_size": 256}
    first, second, third = tried(known, initial=["default"])
    assert (first["batch_size"], second["batch_size"]) == (64, 256)
    assert third not in (first, second)
    again = tried(known, initial=[{"batch_size": 256}])
    assert again[0]["batch_size"] == 256
    assert again[0] not in again[1:]


@pytest.mark.parametrize("kind", [Random, TPE, GP])
def test_a_history_that_misleads_changes_no_later_sample_of_the_startup(kind: Any) -> None:
    """What comes before the model is as without a history, so that the history costs its own trials only."""
    space = SearchSpace.model_validate(INFINITE)
    generator = random.Random(0)
    known = [flatten(resolve(space, draw_from(draw_at_random(space, generator)))) for _ in range(MAX_KNOWN)]
    misled = run(kind().algorithm(SearchProblem(space, 1, 0, (1,), tuple(known))), 0, 9)
    unaided = run(kind().algorithm(SearchProblem(space, 1, 0, (1,))), 0, 9)
    assert misled[MAX_KNOWN:] == unaided[MAX_KNOWN:]
    assert misled[:MAX_KNOWN] != unaided[:MAX_KNOWN]


@pytest.mark.parametrize(
    "given", ["projects", 3, None, {"project": "x"}, ["a", 1], [f"id-{number}" for number in range(11)]]
)
def test_other_forms_of_a_warm_start_are_refused(given: Any) -> None:
    with pytest.raises(SpecError, match=r"searcher.warm_start: must be project, or a list of at most 10 ids of exp"):
        validate({"name": "x", "searcher": {"kind": "random", "warm_start": given}})


@pytest.mark.parametrize("given", ["project", ["abcdefgh", "bcdefghj"], []])
def test_a_stored_spec_has_its_warm_start(given: Any) -> None:
    spec = ExperimentSpec.model_validate({"name": "x", "searcher": {"kind": "gp", "warm_start": given}})
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.model_dump(mode="json")["searcher"]["warm_start"] == given
