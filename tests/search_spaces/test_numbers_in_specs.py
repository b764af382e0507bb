"""Numbers in specs: how whole numbers may be written, and which limit the message about a long number names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from search_spaces.parsing import read
from search_spaces.problems import SpecError
from search_spaces.searchers.initial import initial_sample
from search_spaces.validation import validate

LARGE = "must be a whole number of at most 2^53"


@pytest.mark.parametrize("digits", [20, 400, 5000])
@pytest.mark.parametrize(
    ("text", "field", "rule"),
    [
        ("seed: {}", "seed", "must be less than 2147483648"),
        ("max_epochs: {}", "max_epochs", "must be at most 10000"),
        ("searcher: {{kind: tpe, startup_trials: {}}}", "searcher.startup_trials", LARGE),
        ("budget: {{wall_clock: {}}}", "budget.wall_clock", LARGE),
        ("project: {}", "project", "must be a string"),
        ("search_space: {{batch_size: {}}}", "search_space.batch_size", LARGE),
        ("search_space: {{model: {{kind: cnn, depth: {}}}}}", "search_space.model.depth", "must be at most 6"),
        (
            "search_space: {{model: {{kind: cnn, depth: {{choice: [1, {}]}}}}}}",
            "~model.depth.choice[1]",
            "must be at most 6",
        ),
        ("search_space: {{model: {{kind: cnn, depth: {{int_range: [1, {}]}}}}}}", "~model.depth.int_range[1]", LARGE),
    ],
)
def test_the_problem_of_a_number_of_many_digits_names_the_limit_that_it_breaks(
    text: str, field: str, rule: str, digits: int
) -> None:
    with pytest.raises(SpecError) as caught:
        validate(read(f"name: x\n{text.format('9' * digits)}".encode(), "application/yaml"))
    shown = "9" * digits if digits <= 100 else "more than 100 digits"
    (problem,) = caught.value.problems
    assert str(problem) == f"{field.replace('~', 'search_space.')}: {rule} (got {shown})"


def test_a_whole_number_may_be_written_with_a_fraction() -> None:
    def document(one: float, two: float, sixteen: float) -> dict[str, Any]:
        return {
            "name": "x",
            "version": two,
            "seed": one,
            "max_epochs": sixteen,
            "max_restarts": two,
            "dataset": {"name": "image_folder", "path": "a", "size": sixteen, "reader_version": two},
            "searcher": {"kind": "tpe", "num_samples": two, "initial": [{"model.depth": one, "batch_size": sixteen}]},
            "early_stopping": {"kind": "asha", "grace_period": one, "patience": two},
            "resources": {"cpus_per_trial": one, "max_concurrent_trials": two},
            "budget": {"failures": one},
            "search_space": {
                "model": {
                    "choice": [
                        {"kind": "cnn", "depth": {"choice": [one, {"int_range": [two, two + 2, one]}]}},
                        {"kind": "cnn", "width": {"log_int_range": [two, sixteen]}, "hidden": sixteen},
                    ]
                },
                "batch_size": {"choice": [sixteen, two * sixteen]},
                "scheduler": {"kind": "step", "step_size": one},
            },
        }

    written, usual = validate(document(1.0, 2.0, 16.0)), validate(document(1, 2, 16))
    first, second = (spec.model_dump(mode="json") for spec in (written, usual))
    initial = [part["searcher"].pop("initial")[0] for part in (first, second)]
    assert json.dumps(first) == json.dumps(second)
    samples = [initial_sample(usual.search_space, point) for point in initial]
    assert json.dumps(samples[0]) == json.dumps(samples[1])


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"max_epochs": 3.5}, "max_epochs: must be a whole number (got 3.5)"),
        ({"seed": 1e30}, f"seed: {LARGE} (got 1e+30)"),
        (
            {"search_space": {"model": {"kind": "cnn", "depth": {"choice": [1.0, 3.5]}}}},
            "search_space.model.depth.choice[1]: must be a whole number (got 3.5)",
        ),
        (
            {"search_space": {"model": {"kind": "cnn", "depth": {"int_range": [1.5, 3]}}}},
            "search_space.model.depth.int_range[0]: must be a whole number (got 1.5)",
        ),
        (
            {
                "search_space": {"model": {"kind": "cnn", "depth": {"int_range": [1, 3]}}},
                "searcher": {"kind": "tpe", "initial": [{"model.depth": 2.5}]},
            },
            "searcher.initial[0].model.depth: must be a whole number (got 2.5)",
        ),
        (
            {"search_space": {"model": {"kind": "cnn", "depth": 7.0}}},
            "search_space.model.depth: must be at most 6 (got 7.0)",
        ),
    ],
)
def test_any_other_fraction_is_no_whole_number(document: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", **document})
    assert list(map(str, caught.value.problems)) == [line]
