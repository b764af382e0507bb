"""Sampling: grids visit every combination once, and a recorded sample binds to the same trial again."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import presets
from search_spaces.domains import Choice, Domain, Interval
from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from search_spaces.sampling import (
    Draw,
    Sample,
    as_written,
    combinations,
    count_combinations,
    domains,
    draw_from,
    extreme_samples,
    flatten,
    resolve,
    without_indices,
)
from search_spaces.validation import validate

OPTIMIZERS = {
    "choice": [
        "adam",
        {"kind": "sgd", "lr": {"choice": [0.1, 0.2]}, "momentum": {"quniform": [0.0, 0.9, 0.3]}},
        {"kind": "rmsprop", "lr": {"choice": [0.1, {"quniform": [0.2, 0.4, 0.1]}]}},
    ]
}


def experiment(**space: Any) -> ExperimentSpec:
    return validate({"name": "x", "search_space": space})


def recording(seed: int) -> tuple[dict[str, float], Draw]:
    """A random draw that records what it drew."""
    sample: dict[str, float] = {}
    source = random.Random(seed)

    def draw(path: str, domain: Domain) -> float:
        if isinstance(domain, Choice):
            sample[path] = source.randrange(len(domain.choice))
        elif isinstance(domain, Interval):
            value = source.uniform(domain.low, domain.high)
            step = domain.step
            sample[path] = domain.low + round((value - domain.low) / step) * step if step else value
        return sample[path]

    return sample, draw


def test_a_grid_visits_every_combination_once() -> None:
    space = experiment(optimizer=OPTIMIZERS, batch_size={"choice": [32, 64]}).search_space
    samples = list(combinations(space))
    assert len(samples) == (1 + 2 * 4 + 4) * 2 == count_combinations(space)
    assert len({tuple(sorted(sample.items())) for sample in samples}) == len(samples)


def test_the_last_domain_varies_fastest() -> None:
    space = experiment(batch_size={"choice": [32, 64]}, label_smoothing={"quniform": [0.0, 0.2, 0.1]}).search_space
    pairs = [(sample["batch_size"], sample["label_smoothing"]) for sample in combinations(space)]
    assert pairs == list(itertools.product([0, 1], [0.0, 0.1, 0.2]))


def test_only_the_domains_of_the_chosen_alternative_are_in_a_sample() -> None:
    for sample in combinations(experiment(optimizer=OPTIMIZERS).search_space):
        inside = {path for path in sample if path.startswith("optimizer[")}
        assert all(path.startswith(f"optimizer[{sample['optimizer']:.0f}]") for path in inside)


def test_a_space_without_domains_has_one_combination() -> None:
    space = experiment().search_space
    assert list(combinations(space)) == [{}]
    assert count_combinations(space) == 1


def test_the_error_for_a_continuous_domain_in_a_grid_contains_its_name() -> None:
    space = experiment(optimizer={"kind": "adam", "lr": {"uniform": [0.1, 1.0]}}).search_space
    with pytest.raises(ValueError, match=r"optimizer\.lr: must be finite for a grid"):
        next(combinations(space))


@given(data=st.data())
@settings(max_examples=50)
def test_the_number_of_combinations_is_that_of_the_list(data: st.DataObject) -> None:
    rates = st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=3).map(lambda values: {"choice": values})
    kinds = st.sampled_from(["sgd", "adam", "nadam"])
    alternative = kinds | st.builds(lambda kind, lr: {"kind": kind, "lr": lr}, kinds, rates | st.just(0.1))
    optimizer = alternative | st.lists(alternative, min_size=1, max_size=3).map(lambda items: {"choice": items})
    space = experiment(optimizer=data.draw(optimizer), label_smoothing=data.draw(st.just(0.1) | rates)).search_space
    assert sum(1 for _ in combinations(space)) == count_combinations(space)


@pytest.mark.parametrize("name", presets.names())
def test_any_sample_of_a_preset_binds_and_binds_again_to_the_same(name: str) -> None:
    spec = presets.spec(name)
    keys = set()
    for seed in range(20):
        sample, draw = recording(seed)
        resolve(spec.search_space, draw)
        trial = spec.bind(sample, seed)
        assert trial == spec.bind(dict(sample), seed)
        assert not list(domains(trial.hyperparameters))
        assert type(trial).model_validate_json(trial.model_dump_json()) == trial
        keys.add(tuple(spec.parameters(trial)))
    assert len(keys) == 1, "every trial of an experiment has the same parameter keys"


def test_the_error_for_an_invalid_sample_contains_its_path() -> None:
    spec = experiment(optimizer=OPTIMIZERS)
    bad: list[tuple[Sample, str]] = [
        ({}, "optimizer: missing from the sample"),
        ({"optimizer": 3}, r"optimizer: must be an index below 3 \(got 3\)"),
        ({"optimizer": -1}, r"optimizer: must be an index below 3 \(got -1\)"),
        ({"optimizer": 1, "optimizer[1].lr": 0}, r"optimizer\[1\]\.momentum: missing"),
        (
            {"optimizer": 1, "optimizer[1].lr": 0, "optimizer[1].momentum": 1.2},
            r"must be from 0.0 to 0.9 \(got 1.2\)",
        ),
    ]
    for sample, rule in bad:
        with pytest.raises(ValueError, match=rule):
            resolve(spec.search_space, draw_from(sample))


def test_paths_of_domains_are_shown_as_a_document_has_them() -> None:
    space = experiment(optimizer=OPTIMIZERS, scheduler={"kind": "multistep", "milestones": [{"uniform": [0.1, 0.2]}]})
    written = [as_written(space.search_space, path) for path, _ in domains(space.search_space)]
    assert written[:2] == ["optimizer", "optimizer.choice[1].lr"]
    assert written[-1] == "scheduler.milestones[0]"


def test_flat_keys_and_paths() -> None:
    assert flatten({"a": {"b": 1, "c": None}, "d": [1, 2], "e": True}) == {
        "a.b": 1,
        "a.c": "n/a",
        "d": "[1, 2]",
        "e": True,
    }
    assert without_indices("optimizer[1].lr[2]") == "optimizer.lr"


def test_corners_are_the_ends_of_intervals_under_every_alternative() -> None:
    space = ExperimentSpec.model_validate(
        {
            "name": "x",
            "search_space": {
                "optimizer": {"choice": [{"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}, "adam"]},
                "batch_size": {"choice": [64, 128]},
            },
        }
    ).search_space
    found = [tuple(sample.values()) for sample in extreme_samples(space)]
    assert found == [(0, 0.01, 0), (0, 0.01, 1), (0, 1.0, 0), (0, 1.0, 1), (1, 0), (1, 1)]


def plugin(**arguments: Any) -> dict[str, Any]:
    return {"kind": "plugin", "name": "mine", "arguments": arguments}


@pytest.mark.parametrize(
    ("space", "sample"),
    [
        (
            {"scheduler": {"kind": "multistep", "milestones": [{"uniform": [0.2, 0.5]}, {"choice": [0.6, 0.7]}]}},
            {"scheduler.milestones[0]": 0.3, "scheduler.milestones[1]": 1},
        ),
        ({"scheduler": {"kind": "triangular", "halve": {"choice": [True, False]}}}, {"scheduler.halve": 0}),
        (
            {
                "model": plugin(
                    a={"loguniform": [0.1, 1]}, b={"int_range": [1, 9]}, c={"choice": ["x", {"uniform": [0, 1]}]}
                )
            },
            {"model.arguments.a": 0.5, "model.arguments.b": 3, "model.arguments.c": 1, "model.arguments.c[1]": 0.2},
        ),
        ({"model": plugin(a={"choice": [{"x": 1, "y": 2}, {"z": 3}, 4, {}]})}, {"model.arguments.a": 0}),
    ],
    ids=["items of a list", "truth values", "a plugin's arguments", "mappings"],
)
def test_domains_at_any_depth_bind_and_name_the_same_parameters(space: dict[str, Any], sample: Sample) -> None:
    spec = experiment(**space)
    assert {path for path, _ in domains(spec.search_space)} == set(sample)
    assert not list(domains(spec.bind(sample).hyperparameters))
    keys = set()
    for seed in range(20):
        drawn, draw = recording(seed)
        resolve(spec.search_space, draw)
        keys.add(tuple(spec.parameters(spec.bind(drawn))))
    assert len(keys) == 1


@pytest.mark.parametrize(
    "space",
    [
        {"scheduler": {"kind": "multistep", "milestones": [{"uniform": [0.2, 0.7]}, 0.6]}},
        {"model": plugin(**{"no name": 1})},
    ],
)
def test_milestones_that_may_not_ascend_and_unknown_names_are_rejected(space: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        experiment(**space)
