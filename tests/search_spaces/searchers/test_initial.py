"""Initial configurations: what may be written, what it means, and when it is tried."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from search_spaces.sampling import combinations
from search_spaces.searchers import initial
from search_spaces.searchers.base import SearchProblem
from search_spaces.searchers.gp import GP
from search_spaces.searchers.initial import initial_sample
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.stored import read_spec
from search_spaces.validation import validate, warnings
from tests.support.contracts.search_algorithm import FINITE, SearchAlgorithmContract, run

SPACE: dict[str, Any] = {
    "optimizer": {
        "choice": [
            {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}, "momentum": {"choice": [0.0, 0.8, 0.95]}},
            {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-2]}},
            {"kind": "sgd", "lr": {"loguniform": [1e-4, 1e-3]}},
        ]
    },
    "model": {"kind": "cnn", "width": {"int_range": [24, 64, 8]}},
    "scheduler": {"kind": "multistep", "milestones": [0.4, {"uniform": [0.5, 0.9]}], "gamma": 0.2},
    "normalization": {"choice": ["batch", "layer", {"kind": "group", "groups": 8}]},
    "batch_size": {"choice": [32, 64, 512]},
    "label_smoothing": {"choice": [{"uniform": [0.1, 0.2]}, 0.0]},
}


class TestInitialOfEverySearcher(SearchAlgorithmContract):
    """The rest of the search keeps the contract."""

    @pytest.fixture(params=[Random, TPE, GP])
    def searcher(self, request: pytest.FixtureRequest) -> Any:
        return request.param(initial=["default", {"batch_size": 256, "optimizer": {"kind": "sgd", "momentum": 0.5}}])


def written(initial: Any, **searcher: Any) -> ExperimentSpec:
    document = {"name": "x", "search_space": SPACE, "searcher": {"kind": "random", "initial": initial, **searcher}}
    return validate(document)


def tried(initial: Any) -> dict[str, Any]:
    """The hyperparameters of the trial of one initial configuration."""
    spec = written([initial])
    sample = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0)).propose(0)
    assert sample is not None
    return spec.bind(sample).hyperparameters.model_dump()


DEFAULTS = {"model.width": 24, "optimizer.kind": "adam", "normalization.kind": "batch", "batch_size": 64}


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("default", {**DEFAULTS, "optimizer.lr": 3e-4, "label_smoothing": 0.0, "scheduler.milestones": (0.4, 0.75)}),
        ({}, DEFAULTS),
        ({"batch_size": 512}, {**DEFAULTS, "batch_size": 512}),
        ({"optimizer": {"kind": "sgd", "lr": 0.2}}, {"optimizer.lr": 0.2, "optimizer.momentum": 0.95}),
        ({"optimizer.kind": "sgd", "optimizer.momentum": 0}, {"optimizer.momentum": 0.0, "optimizer.lr": 0.1}),
        ({"optimizer": {"kind": "sgd", "lr": 5e-4}}, {"optimizer.lr": 5e-4, "optimizer.momentum": 0.9}),
        ({"optimizer.lr": 0.005}, {"optimizer.kind": "adam", "optimizer.lr": 0.005}),
        ({"optimizer": "sgd", "optimizer.lr": 0.5}, {"optimizer.kind": "sgd", "optimizer.lr": 0.5}),
        ({"optimizer.lr": 1e-3, "optimizer.momentum": "n/a"}, {"optimizer.kind": "adam"}),
        ({"model": {"width": 40.0}, "normalization": "group"}, {"model.width": 40, "normalization.groups": 8}),
        ({"label_smoothing": 0.15}, {"label_smoothing": 0.15}),
        ({"scheduler": {"milestones": [0.4, 0.6], "gamma": 0.2}}, {"scheduler.milestones": (0.4, 0.6)}),
    ],
)
def test_a_configuration_means_what_it_says_and_defaults(point: Any, expected: dict[str, Any]) -> None:
    found = tried(point)
    for path, value in expected.items():
        node: Any = found
        for name in path.split("."):
            node = node[name]
        assert node == pytest.approx(value) if not isinstance(value, str) else node == value, path


@pytest.mark.parametrize(
    ("point", "field", "rule"),
    [
        ({"batch_size": 100}, "batch_size", "must be one of 32, 64, 512 (got 100)"),
        ({"batch_size": "64"}, "batch_size", 'must be one of 32, 64, 512 (got "64")'),
        ({"optimizer": {"lr": 5}}, "optimizer.lr", "must be from 1e-05 to 0.01 (got 5)"),
        ({"optimizer": {"kind": "sgd", "lr": 5}}, "optimizer.lr", "must be from 0.01 to 1.0 (got 5)"),
        ({"optimizer": "sdg"}, "optimizer", "must be one of sgd, adam; did you mean 'sgd'? (got \"sdg\")"),
        ({"optimizer.kind": "rmsprop"}, "optimizer.kind", 'must be one of sgd, adam (got "rmsprop")'),
        ({"optimizer.kind": "adam", "optimizer.momentum": 0.9}, "optimizer.momentum", "is not a known field; known"),
        ({"optimizer": 3}, "optimizer", "must be one of sgd, adam (got 3)"),
        ({"optimizr": {"lr": 1}}, "optimizr", "is not a known field; did you mean 'optimizer'?"),
        ({"model.width": 25}, "model.width", "must be 24 plus a multiple of 8 (got 25)"),
        ({"model.width": None}, "model.width", "must be a number, not null"),
        ({"model": "resnet"}, "model.kind", "must be cnn or left out"),
        ({"model": 5}, "model", "must be cnn, or a mapping of its fields (got 5)"),
        (
            {"scheduler.gamma": 0.3},
            "scheduler.gamma",
            "must be 0.2 or left out, because the search space has no domain",
        ),
        ({"scheduler.milestones": [0.4]}, "scheduler.milestones", "must be a list of 2"),
        ({"scheduler.milestones": [0.4, 1]}, "scheduler.milestones[1]", "must be from 0.5 to 0.9 (got 1)"),
        ({"normalization": {"kind": "group", "groups": 4}}, "normalization.groups", "must be 8 or left out"),
        ({"optimizer": "sgd", "optimizer.kind": "sgd"}, "optimizer.kind", "must be given once"),
        ({"label_smoothing": {"uniform": [0.1, 0.2]}}, "label_smoothing", "must be"),
        ({"model.width": 10**400}, "model.width", "must be from 24 to 64 (got more than 100 digits)"),
        ("defaults", "", 'must be default, or hyperparameters with their values (got "defaults")'),
        (None, "", "must be default, or hyperparameters with their values, not null"),
    ],
)
def test_a_problem_names_the_configuration_and_the_field(point: Any, field: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        written([{}, point])
    (problem,) = caught.value.problems
    assert problem.field == ".".join(filter(None, ("searcher.initial[1]", field)))
    assert str(problem).startswith(f"{problem.field}: {rule}")


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(SpecError) as caught:
        written([{"batch_size": 1, "model.width": 1}, "default", {"label_smoothing": 1, "nothing": 1}])
    assert [problem.field for problem in caught.value.problems] == [
        f"searcher.initial[{name}" for name in ("0].model.width", "0].batch_size", "2].nothing", "2].label_smoothing")
    ]


def test_warnings_of_configurations_that_will_not_be_tried() -> None:
    twice, many = sorted(warnings(written([{}, {"batch_size": 32}, {"batch_size": 64}], num_samples=2)))
    assert twice.startswith("searcher.initial[2]: should differ from searcher.initial[0],")
    assert many == "searcher.num_samples: should be at least 3, the number of initial configurations (got 2)"
    assert warnings(written([{}, {"batch_size": 32}], num_samples=2)) == []


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_initial_configurations_come_first_in_order_and_once(kind: str) -> None:
    initial = [{"batch_size": 512}, "default", {"optimizer": "sgd"}]
    spec = written(initial, kind=kind, num_samples=6)
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0, rungs=(1,)))
    samples = run(algorithm, 0, 6)
    expected = [tried(point) for point in initial]
    found = [spec.bind(sample).hyperparameters.model_dump() for sample in samples]
    assert found[:3] == expected
    assert all(point not in found[3:] for point in expected)
    assert spec.num_samples == 6


def test_a_continuation_tries_the_configurations_that_its_source_has_not_tried() -> None:
    spec = written([{"batch_size": 512}, "default"])
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0))
    first = algorithm.propose(0)
    assert first is not None
    continued = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0))
    for number in range(5):
        continued.replay(number, {**first, "model.width": 24 + 8 * number})
    sample = continued.propose(5)
    assert sample is not None
    assert spec.bind(sample).hyperparameters.model_dump() == tried("default")


def test_initial_configurations_of_a_finite_space_and_of_one_without_domains() -> None:
    every = list(combinations(ExperimentSpec.model_validate({"name": "x", "search_space": FINITE}).search_space))
    spec = validate(
        {"name": "x", "search_space": FINITE, "searcher": {"kind": "random", "num_samples": 30, "initial": ["default"]}}
    )
    samples = run(spec.searcher.algorithm(SearchProblem(spec.search_space, 1, 0)), 0, 30)
    assert len(samples) == len(every)
    none = validate({"name": "x", "searcher": {"kind": "random", "num_samples": 3, "initial": ["default"]}})
    assert run(none.searcher.algorithm(SearchProblem(none.search_space, 1, 0)), 0, 3) == [{}] * 3


def test_a_stored_spec_has_its_initial_configurations() -> None:
    spec = written(["default", {"optimizer.lr": 0.005}])
    assert read_spec(spec.model_dump_json()) == spec
    assert written(spec.model_dump(mode="json")["searcher"]["initial"]) == spec


def test_there_are_at_most_100() -> None:
    with pytest.raises(SpecError, match=r"searcher.initial: must have at most 100 items"):
        written([{"batch_size": 64}] * 101)


def test_points_of_a_choice_of_many_are_placed_without_saying_why_each_other_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A spec of 36 kB has a thousand alternatives and a hundred points: the work is counted, not its seconds."""
    alternatives = [{"kind": "sgd", "lr": (1 + number) / 1e4} for number in range(300)]
    points = [{"optimizer": one} for one in alternatives[-100:]]
    described = 0

    def count(value: Any) -> Any:
        nonlocal described
        described += 1
        return value

    monkeypatch.setattr(initial, "shorten", count)
    space = {"optimizer": {"choice": alternatives}}
    spec = validate({"name": "x", "search_space": space, "searcher": {"kind": "random", "initial": points}})
    assert [initial_sample(spec.search_space, point)["optimizer"] for point in points] == list(range(200, 300))
    assert described == 0
