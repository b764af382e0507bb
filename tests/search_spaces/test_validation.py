"""Validation: the exact error lines for each invalid spec."""

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
from search_spaces.stored import read_spec
from search_spaces.validation import validate, warnings

OPTIMIZERS = "must be one of sgd, rmsprop, adam,"


def space(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "search_space": fields}


def problems(data: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        validate(data)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    json.dumps([problem.value for problem in caught.value.problems], allow_nan=False)
    return [str(problem).replace("search_space.", "~") for problem in caught.value.problems]


ITEMS = (
    "; each item may be a domain, the whole list may not: to choose between lists, write a choice between blocks that "
    "have different lists"
)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ({}, ["name: is required"]),
        ([], ["document: must be a mapping (got [])"]),
        (
            {"name": "x", "serch_space": {}},
            ["serch_space: is not a known field; did you mean 'search_space'? (got {})"],
        ),
        ({"name": " "}, ['name: must not be empty (got " ")']),
        ({"name": None}, ["name: must be a string, not null"]),
        (
            {"name": "x", "labels": ["", 3]},
            ['labels[0]: must not be empty (got "")', "labels[1]: must be a string (got 3)"],
        ),
        ({"name": "x", "max_epochs": "20"}, ['max_epochs: must be a whole number (got "20")']),
        ({"name": "x", "max_epochs": True}, ["max_epochs: must be a whole number (got true)"]),
        (space(optimizer={"kind": "sgd", "lr": -1}), ["~optimizer.lr: must be greater than 0 (got -1)"]),
        (
            space(optimizer={"kind": "sgd", "lr": float("nan")}),
            ["~optimizer.lr: must be a finite number (got nan)"],
        ),
        (
            space(optimizer={"kind": "sgd", "momentun": 0.3}),
            ["~optimizer.momentun: is not a known field; did you mean 'momentum'? (got 0.3)"],
        ),
        (
            space(optimizer={"kind": "nadam", "momentum": 0.9}),
            ["~optimizer.momentum: is not a field of nadam, but of sgd, rmsprop (got 0.9)"],
        ),
        (
            space(augmentation={"rotatoin": 3}),
            ["~augmentation.rotatoin: is not a known field; did you mean 'rotation'? (got 3)"],
        ),
        (
            space(model={"kind": "cnn", "width": {"int_range": [1, 2**60]}}),
            [
                "~model.width.int_range[1]: must be a whole number of at most 2^53 (got 1152921504606846976)",
            ],
        ),
        (
            space(
                model={"kind": "plugin", "name": "mine", "arguments": dict.fromkeys(map("a{}".format, range(33)), 1)}
            ),
            [
                "~model.arguments: must have at most 32 entries (got "
                + json.dumps(dict.fromkeys(map("a{}".format, range(33)), 1))[:117]
                + "...)"
            ],
        ),
        (space(model="plugin"), ["~model.name: is required by plugin"]),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [1, 0.1]}}),
            ['~optimizer.lr: must have low < high (got {"uniform": [1, 0.1]})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0.1, 1000]}}),
            ['~optimizer.lr: high must be at most 100 (got {"uniform": [0.1, 1000]})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0.1]}}),
            ["~optimizer.lr.uniform: must be [low, high], both included (got [0.1])"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": ["a", 1]}}),
            ['~optimizer.lr.uniform[0]: must be a number (got "a")'],
        ),
        (
            space(model={"kind": "cnn", "width": {"int_range": [8, "a"]}}),
            ['~model.width.int_range[1]: must be a whole number (got "a")'],
        ),
        (
            space(model={"kind": "cnn", "width": {"uniform": [8, 16]}}),
            ['~model.width: must be a value, int_range, log_int_range or choice (got {"uniform": [8, 16]})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"unifrom": [0.1, 1]}}),
            [
                "~optimizer.lr: must be a value, uniform, loguniform, quniform or choice; did you mean 'uniform'? "
                '(got {"unifrom": [0.1, 1]})'
            ],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": {"choice": [[0.1, 0.5], [0.2, 0.6]]}}),
            [f'~scheduler.milestones: must be a list{ITEMS} (got {{"choice": [[0.1, 0.5], [0.2, 0.6]]}})'],
        ),
        (
            space(scheduler={"choice": ["cosine", {"kind": "multistep", "milestones": {"uniform": [0.1, 0.5]}}]}),
            [f'~scheduler.choice[1].milestones: must be a list{ITEMS} (got {{"uniform": [0.1, 0.5]}})'],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": [index / 1000 for index in range(1, 102)]}),
            [
                "~scheduler.milestones: must have at most 100 items (got "
                + json.dumps([index / 1000 for index in range(1, 102)])[:117]
                + "...)"
            ],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": [{"unifrom": [0.1, 0.2]}, {"uniform": [0.3, 2]}]}),
            [
                "~scheduler.milestones[0]: must be a value, uniform, loguniform, quniform or choice; did you mean "
                "'uniform'? (got {\"unifrom\": [0.1, 0.2]})",
                '~scheduler.milestones[1]: high must be less than 1 (got {"uniform": [0.3, 2]})',
            ],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"uniform": [0, 1], "q": 1}}),
            ['~optimizer.lr: must contain only the domain: remove q or uniform (got {"uniform": [0, 1], "q": 1})'],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"choice": []}}),
            ["~optimizer.lr.choice: must not be empty (got [])"],
        ),
        (
            space(optimizer={"kind": "sgd", "lr": {"choice": [0.1, -3, {"uniform": [2, 1]}]}}),
            [
                "~optimizer.lr.choice[1]: must be greater than 0 (got -3)",
                '~optimizer.lr.choice[2]: must have low < high (got {"uniform": [2, 1]})',
            ],
        ),
        (
            space(optimizer={"choice": [{"choice": ["sgd"]}]}),
            [
                "~optimizer.choice[0]: must not be a choice inside a choice: write its alternatives into the outer "
                'list (got {"choice": ["sgd"]})'
            ],
        ),
        (
            {"name": "x", "resources": {"gpus_per_trial": {"choice": [1, 2]}}},
            ['resources.gpus_per_trial: must be a number; this field accepts no domain (got {"choice": [1, 2]})'],
        ),
        (
            {"name": "x", "dataset": {"name": "image_folder", "path": "../up"}},
            [
                "dataset.path: must be a relative path without '..' inside the workers' data root, or "
                'az://CONTAINER/PATH or gs://BUCKET/PATH or s3://BUCKET/PATH (got "../up")'
            ],
        ),
        (
            {"name": "x", "objective": {"metric": ["x"]}},
            [
                "objective.metric: must be 'validation_accuracy', 'validation_balanced_accuracy', 'validation_macro_f1'"
                " or 'validation_loss' (got [\"x\"])"
            ],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": [0.5, 2]}),
            ["~scheduler.milestones[1]: must be less than 1 (got 2)"],
        ),
        (
            space(scheduler={"kind": "multistep", "milestones": [0.6, 0.5]}),
            ["~scheduler.milestones: must be in ascending order for every value of their domains (got [0.6, 0.5])"],
        ),
        (
            space(optimizer={"choice": ["adam", {"kind": "rprop", "weight_decay": 0.1}]}),
            ["~optimizer.choice[1].weight_decay: must be 0, because rprop has no weight decay (got 0.1)"],
        ),
        (
            {"name": "x", "resources": {"gpus_per_trial": 1.5}},
            ["resources.gpus_per_trial: must be auto, 0, between 0.01 and 1, or a whole number up to 16 (got 1.5)"],
        ),
        (
            {"name": "-x"},
            [
                "name: must begin with a letter or digit and contain only letters, digits, spaces, '.', '_' and '-' "
                '(got "-x")'
            ],
        ),
        (space(batch_size=100), ["~batch_size: must be 16, 32, 64, 128, 256, 512, 1024, 2048 or 4096 (got 100)"]),
    ],
)
def test_problems_have_the_field_the_rule_and_the_value(data: Any, lines: list[str]) -> None:
    assert problems(data) == lines


@pytest.mark.parametrize(
    ("data", "field", "rule", "guess"),
    [
        (space(optimizer="sdg"), "~optimizer", OPTIMIZERS, "'sgd'"),
        (space(optimizer={"kind": "adma"}), "~optimizer.kind", OPTIMIZERS, "'adam'"),
        (space(optimizer={"choice": ["sgd", "adma"]}), "~optimizer.choice[1]", OPTIMIZERS, "'adam'"),
        (space(optimizer={"lr": 0.3}), "~optimizer", "must have a kind, one of sgd, rmsprop, adam,", None),
        (space(optimizer=3), "~optimizer", OPTIMIZERS, None),
        (space(optimizer=None), "~optimizer", OPTIMIZERS, None),
        (space(optimizer={"kind": ["sgd"]}), "~optimizer.kind", OPTIMIZERS, None),
        ({"name": "x", "dataset": "cifar"}, "dataset", "must be one of cifar10, cifar100, digits,", "'cifar10'"),
        ({"name": "x", "searcher": "tpo"}, "searcher", "must be one of auto, gp, grid, random, tpe", "'tpe'"),
    ],
)
def test_unknown_kinds_report_the_nearest_and_all(data: Any, field: str, rule: str, guess: str | None) -> None:
    (line,) = problems(data)
    assert line.startswith(f"{field}: {rule}")
    assert ("did you mean" in line) == (guess is not None)
    assert guess is None or f"did you mean {guess}?" in line


def test_long_values_are_cut() -> None:
    (line,) = problems({"name": "x" * 5000})
    assert len(line) < 250
    assert shorten(["a" * 200]) == '["' + "a" * 115 + "..."
    assert shorten(0.5) == 0.5


def test_many_problems_are_cut() -> None:
    found = problems({"name": "x"} | {f"unheard_{index}": index for index in range(200)})
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "document: and more problems"


def test_huge_integers_are_refused() -> None:
    assert problems(space(scheduler={"kind": "step", "step_size": {"int_range": [1, 10**400]}}))


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


def problems_of(data: Any) -> tuple[Problem, ...]:
    try:
        validate(data)
    except SpecError as error:
        return error.problems
    return ()


@given(data=st.dictionaries(KEYS, TREES, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_invalid_document_raises_only_a_spec_error(data: dict[str, Any]) -> None:
    for problem in problems_of({"name": "x"} | data):
        assert problem.rule
        json.dumps(problem.value, allow_nan=False)


@given(optimizer=TREES, model=TREES, rate=TREES)
@settings(max_examples=300, deadline=None)
def test_any_invalid_part_of_a_search_space_raises_only_a_spec_error(optimizer: Any, model: Any, rate: Any) -> None:
    for part in ({"optimizer": optimizer, "model": model}, {"optimizer": {"kind": "sgd", "lr": rate}}):
        assert all(problem.field.startswith("search_space") for problem in problems_of(space(**part)))


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
def test_a_wrong_value_in_any_part_of_a_preset_is_reported(preset: str) -> None:
    document = read(presets.load(preset).encode(), "application/yaml")
    for odd in ODD:
        for data in replaced(document, odd):
            with contextlib.suppress(SpecError):
                spec = validate(data)
                assert spec.num_samples > 0
                assert isinstance(warnings(spec, data), list)


def test_only_the_first_of_many_unknown_fields_are_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    guessed: list[str] = []
    monkeypatch.setattr("search_spaces.validation.nearest", lambda name, known: guessed.append(name))
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", **{f"field_{n}": 1 for n in range(2000)}})
    assert len(guessed) == MAX_PROBLEMS + 1
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert caught.value.problems[-1].rule == "and more problems"


def test_problems_of_fields_and_cross_field_rules_are_reported_together() -> None:
    document = {
        "name": "x",
        "max_epochs": 5,
        "labels": [3],
        "early_stopping": {"kind": "asha", "grace_period": 6},
        "objective": {"goal": 95},
        "search_space": {
            "batch_size": 100,
            "normalization": "group",
            "model": {"kind": "cnn", "width": 20, "hidden": 8},
            "scheduler": {"kind": "cosine", "warmup_epochs": 7},
        },
    }
    assert problems(document) == [
        "labels[0]: must be a string (got 3)",
        "~batch_size: must be 16, 32, 64, 128, 256, 512, 1024, 2048 or 4096 (got 100)",
        "objective.goal: must be between 0 and 1 for validation_accuracy (got 95.0)",
        "early_stopping.grace_period: must be at most max_epochs=5 (got 6)",
        "~scheduler.warmup_epochs: must be less than max_epochs=5 (got 7.0)",
        "~model.width: must be a multiple of the 8 groups of ~normalization (got 20)",
        "~model.hidden: must be 0 or a larger multiple of the 8 groups of ~normalization (got 8)",
    ]


def test_a_rule_does_not_check_parts_that_are_invalid_themselves() -> None:
    document = space(scheduler={"kind": "cosine", "warmup_epochs": 25}) | {"max_epochs": 0}
    assert problems(document) == ["max_epochs: must be at least 1 (got 0)"]


INSIDE = (
    "must not be a domain inside an argument: only the whole argument may be one, as in a: {choice: [[1, 2], [2, 4]]}"
)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({"a": [8, {"uniform": [0, 1]}]}, [f'a[1]: {INSIDE} (got {{"uniform": [0, 1]}})']),
        ({"a": {"b": {"c": {"int_range": [1, 2]}}}}, [f'a.b.c: {INSIDE} (got {{"int_range": [1, 2]}})']),
        ({"a": {"choice": [1, [{"choice": [2]}]]}}, [f'a.choice[1][0]: {INSIDE} (got {{"choice": [2]}})']),
        (
            dict.fromkeys(("normalizer", "channels", "classes", "image_size", "width"), 1),
            [
                f"{name}: must have another name, because Rung calls every plugin with normalizer, channels, classes, "
                "image_size"
                for name in ("normalizer", "channels", "classes", "image_size")
            ],
        ),
        ({"a": {"choice": [[1], {"b": [{"uniform": 1, "c": 2}]}, {"uniform": [0, 1]}]}, "choice": 3}, []),
    ],
)
@pytest.mark.parametrize("as_choice", [False, True])
def test_plugin_arguments_that_would_fail_or_be_taken_literally_are_refused(
    arguments: dict[str, Any], lines: list[str], as_choice: bool
) -> None:
    model: dict[str, Any] = {"kind": "plugin", "name": "mine", "arguments": arguments}
    where = "search_space.model.choice[1].arguments." if as_choice else "search_space.model.arguments."
    document = {"name": "x", "search_space": {"model": {"choice": ["cnn", model]} if as_choice else model}}
    try:
        validate(document)
        found = []
    except SpecError as error:
        found = list(map(str, error.problems))
    assert found == [f"{where}{line}" for line in lines]
    assert read_spec({**document, "version": 2}).name == "x"  # stored ones stay readable


def test_all_arguments_of_a_plugin_together_cannot_be_a_domain() -> None:
    model = {"kind": "plugin", "name": "mine", "arguments": {"choice": [{"a": 1}, {"a": 2}]}}
    with pytest.raises(SpecError, match=r"model\.arguments: must not be a domain: each argument may be one"):
        validate({"name": "x", "search_space": {"model": model}})


def test_domains_that_a_trial_could_not_use_are_refused() -> None:
    nadam = {"kind": "nadam", "beta1": {"uniform": [0.5, 0.9999999999]}}
    plugin = {"kind": "plugin", "name": "mine", "arguments": {"a": {"uniform": [-1e308, 1e308]}}}
    document = {"name": "x", "version": 2, "search_space": {"optimizer": {"choice": ["sgd", nadam]}, "model": plugin}}
    with pytest.raises(SpecError) as caught:
        validate(document)
    assert list(map(str, caught.value.problems)) == [
        "search_space.optimizer.choice[1].beta1: must be at most 0.999999, because nadam divides by 1 - beta1 in "
        "single precision (got 0.9999999999)",
        "search_space.model.arguments.a: must have high - low of at most 1.8e+308 (got [-1e+308, 1e+308])",
    ]
    assert read_spec(document).name == "x"
