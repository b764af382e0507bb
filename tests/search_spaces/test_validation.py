"""Problems: for each bad spec, the exact lines that a person reads."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import presets
from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import read
from search_spaces.problems import MAX_PROBLEMS, Problem, SpecError, shorten
from search_spaces.validation import validate

OPTIMIZERS = "one of sgd, rmsprop, adam,"


def space(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "search_space": fields}


def problems(data: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        validate(data)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    json.dumps([problem.value for problem in caught.value.problems], allow_nan=False)
    return [str(problem).replace("search_space.", "~") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ({}, ["name: required"]),
        ([], ["document: a mapping required (got [])"]),
        ({"name": "x", "serch_space": {}}, ["serch_space: unknown field, did you mean 'search_space'?"]),
        ({"name": " "}, ['name: 1 or more characters required (got " ")']),
        ({"name": None}, ["name: a string required, got null"]),
        (
            {"name": "x", "labels": ["", 3]},
            ['labels[0]: 1 or more characters required (got "")', "labels[1]: a string required (got 3)"],
        ),
        ({"name": "x", "asha": {"max_t": "20"}}, ['asha.max_t: a whole number required (got "20")']),
        ({"name": "x", "asha": {"max_t": True}}, ["asha.max_t: a whole number required (got true)"]),
        (space(optimizer={"kind": "sgd", "lr": -1}), ["~optimizer.lr: > 0 required (got -1)"]),
        (space(optimizer={"kind": "sgd", "lr": float("nan")}), ['~optimizer.lr: a finite number required (got "nan")']),
        (
            space(optimizer={"kind": "sgd", "momentun": 0.3}),
            ["~optimizer.momentun: unknown field, did you mean 'momentum'?"],
        ),
        (
            space(optimizer={"kind": "nadam", "momentum": 0.9}),
            ["~optimizer.momentum: unknown field of nadam; sgd, rmsprop would take it"],
        ),
        (space(augmentation={"rotatoin": 3}), ["~augmentation.rotatoin: unknown field, did you mean 'rotation'?"]),
        (space(model="plugin"), ["~model.name: required by plugin"]),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [1, 0.1]}}),
            ["~optimizer.lr: low < high required, got low=1.0, high=0.1"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0.1, 1000]}}),
            ['~optimizer.lr: high=1000.0: <= 100 required (got {"uniform": [0.1, 1000]})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0.1]}}),
            ["~optimizer.lr.uniform: takes [low, high], both included (got [0.1])"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": ["a", 1]}}),
            ['~optimizer.lr.uniform[0]: a number required (got "a")'],
        ),
        (
            space(model={"kind": "cnn", "width": {"int_range": [8, "a"]}}),
            ['~model.width.int_range[1]: a whole number required (got "a")'],
        ),
        (
            space(model={"kind": "cnn", "width": {"uniform": [8, 16]}}),
            ["~model.width: a value, int_range, log_int_range or choice required, got uniform"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"unifrom": [0.1, 1]}}),
            [
                "~optimizer.lr: unknown domain 'unifrom', did you mean 'uniform'? "
                "a value, uniform, loguniform, quniform or choice required"
            ],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0, 1], "q": 1}}),
            ['~optimizer.lr: a domain stands alone: uniform without q required (got {"uniform": [0, 1], "q": 1})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"choice": []}}),
            ["~optimizer.lr.choice: a list of 1 or more required (got [])"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"choice": [0.1, -3, {"uniform": [2, 1]}]}}),
            [
                "~optimizer.lr.choice[1]: > 0 required (got -3)",
                "~optimizer.lr.choice[2]: low < high required, got low=2.0, high=1.0",
            ],
        ),
        (
            space(optimizer={"choice": [{"choice": ["sgd"]}]}),
            ["~optimizer.choice[0]: a choice inside a choice: write its alternatives into the outer list"],
        ),
        (
            {"name": "x", "resources": {"gpus_per_trial": {"choice": [1, 2]}}},
            ['resources.gpus_per_trial: a number required; this field takes no domain (got {"choice": [1, 2]})'],
        ),
        (
            {"name": "x", "dataset": {"name": "image_folder", "path": "../up"}},
            ["dataset.path: a relative path without '..' required, inside the workers' data root, got ../up"],
        ),
        (
            {"name": "x", "objective": {"metric": ["x"]}},
            ["objective.metric: 'validation_accuracy' or 'validation_loss' required (got [\"x\"])"],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": [0.5, 2]}),
            ["~scheduler.milestones[1]: < 1 required (got 2)"],
        ),
        (space(batch_size=100), ["~batch_size: 16, 32, 64, 128, 256, 512, 1024, 2048 or 4096 required (got 100)"]),
    ],
)
def test_lines(data: Any, lines: list[str]) -> None:
    assert problems(data) == lines


@pytest.mark.parametrize(
    ("data", "field", "rule"),
    [
        (space(optimizer="sdg"), "~optimizer", f"unknown kind 'sdg', did you mean 'sgd'? {OPTIMIZERS}"),
        (
            space(optimizer={"kind": "adma"}),
            "~optimizer.kind",
            f"unknown kind 'adma', did you mean 'adam'? {OPTIMIZERS}",
        ),
        (
            space(optimizer={"choice": ["sgd", "adma"]}),
            "~optimizer.choice[1]",
            "unknown kind 'adma', did you mean 'adam'?",
        ),
        (space(optimizer={"lr": 0.3}), "~optimizer", f"kind missing, {OPTIMIZERS}"),
        (space(optimizer=3), "~optimizer", OPTIMIZERS),
        (space(optimizer=None), "~optimizer", OPTIMIZERS),
        (space(optimizer={"kind": ["sgd"]}), "~optimizer.kind", OPTIMIZERS),
        ({"name": "x", "dataset": "cifar"}, "dataset", "unknown name 'cifar', did you mean 'cifar10'?"),
        ({"name": "x", "searcher": "tpo"}, "searcher", "unknown kind 'tpo', did you mean 'tpe'?"),
    ],
)
def test_unknown_kinds_name_the_nearest_and_all(data: Any, field: str, rule: str) -> None:
    (line,) = problems(data)
    assert line.startswith(f"{field}: {rule}")


def test_long_values_are_cut() -> None:
    (line,) = problems({"name": "x" * 5000})
    assert len(line) < 250
    assert shorten(["a" * 200]) == '["' + "a" * 115 + "..."
    assert shorten(0.5) == 0.5


def test_many_problems_are_cut() -> None:
    found = problems({"name": "x"} | {f"unheard_{index}": index for index in range(200)})
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "document: and 150 more problems"


def test_huge_integers_are_refused() -> None:
    assert problems(space(scheduler={"kind": "step", "step_epochs": {"int_range": [1, 10**400]}}))


KEYS = st.sampled_from(
    [
        *ExperimentSpec.model_fields,
        "model",
        "optimizer",
        "kind",
        "lr",
        "choice",
        "uniform",
        "int_range",
        "value",
        "width",
    ]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["sgd", "adam", "cnn", "digits", ""])
)
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


def found(data: Any) -> tuple[Problem, ...]:
    try:
        validate(data)
    except SpecError as error:
        return error.problems
    return ()


@given(data=st.dictionaries(KEYS, TREES, max_size=5))
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_spec_error_comes_out(data: dict[str, Any]) -> None:
    for problem in found({"name": "x"} | data):
        assert problem.rule
        json.dumps(problem.value, allow_nan=False)


@given(optimizer=TREES, model=TREES, rate=TREES)
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_spec_error_comes_out_of_the_depth(optimizer: Any, model: Any, rate: Any) -> None:
    for part in ({"optimizer": optimizer, "model": model}, {"optimizer": {"kind": "sgd", "lr": rate}}):
        assert all(problem.field.startswith("search_space") for problem in found(space(**part)))


#: What stands in for each part of each preset, one at a time. What no document may hold, `read` refuses.
ODD = (
    None, True, -1, 0, 3, 0.5, 1e308, math.nan, 10**400, "", "sgd", [], [0.5, "x"], {}, {"kind": "cnn"},
    {"uniform": [0, 1]}, {"int_range": [1, 4, 2]}, {"loguniform": [0]}, {"choice": []}, {"choice": [8, {"choice": []}]},
    {"choice": [{"kind": "plugin", "name": "mine", "arguments": {"groups": "few", "warmup_epochs": "no"}}, "cnn"]},
)  # fmt: skip


def replaced(data: Any, odd: Any) -> Iterator[Any]:
    """Copies of a tree, each with another part of it replaced."""
    yield odd
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        for part in replaced(value, odd):
            yield {**data, key: part} if isinstance(data, dict) else [*data[:key], part, *data[key + 1 :]]


@pytest.mark.parametrize("preset", presets.names())
def test_every_part_of_every_preset_is_answered_for(preset: str) -> None:
    document = read(presets.load(preset).encode(), "application/yaml")
    for odd in ODD:
        for data in replaced(document, odd):
            with contextlib.suppress(SpecError):
                spec = validate(data)
                assert spec.num_samples > 0
                assert isinstance(spec.warnings(), list)


def test_only_the_first_of_many_unknown_fields_are_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    guessed: list[str] = []
    monkeypatch.setattr("search_spaces.validation.nearest", lambda name, known: guessed.append(name))
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", **{f"field_{n}": 1 for n in range(2000)}})
    assert len(guessed) == MAX_PROBLEMS
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert caught.value.problems[-1].rule == "and 1950 more problems"
