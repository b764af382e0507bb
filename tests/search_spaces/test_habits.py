"""Problems of people who know other tools: each says what to write in its place, and that is valid."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.habits import ROOT_FIELDS
from search_spaces.problems import SpecError
from search_spaces.validation import validate


def problems(**document: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", **document})
    return [problem.rule for problem in caught.value.problems]


@pytest.mark.parametrize("name", ROOT_FIELDS)
def test_a_field_of_another_tool_is_answered_with_what_to_write(name: str) -> None:
    assert problems(version=2, **{name: 3}) == [f"is not a known field; write {ROOT_FIELDS[name]}"]


def test_a_hyperparameter_at_the_root_belongs_into_the_search_space() -> None:
    assert problems(batch_size=32) == ["is not a known field; write it into search_space"]


@pytest.mark.parametrize(
    ("field", "value", "written"),
    [
        ("batch_size", [32, 64], "{choice: [32, 64]}"),
        ("batch_size", {"values": [32, 64]}, "{choice: [32, 64]}"),
        ("batch_size", {"grid_search": [32, 64]}, "{choice: [32, 64]}"),
        ("batch_size", "tune.choice([32, 64])", "{choice: [A, B, ...]}"),
        ("batch_size", {"min": 32, "max": 64}, "{choice: [A, B, ...]}"),
        ("input_normalization", [True, False], "{choice: [true, false]}"),
        ("scheduler", ["cosine", "step"], "{choice: [cosine, step]}"),
        ("scheduler", {"values": ["cosine", "step"]}, "{choice: [cosine, step]}"),
        ("label_smoothing", {"min": 0, "max": 0.1}, "{uniform: [0, 0.1]}"),
        ("gradient_clip_norm", {"min": 0, "max": 1}, "{uniform: [0, 1]}"),
        ("gradient_clip_norm", {"low": 0.1, "high": 1, "log": True}, "{loguniform: [0.1, 1]}"),
        (
            "gradient_clip_norm",
            {"distribution": "log_uniform_values", "min": 0.1, "max": 1.0},
            "{loguniform: [0.1, 1.0]}",
        ),
        ("gradient_clip_norm", {"distribution": "q_uniform", "min": 0, "max": 1}, "{quniform: [0, 1, STEP]}"),
        ("gradient_clip_norm", {"distribution": "log_uniform_values"}, "{loguniform: [LOW, HIGH]}"),
        ("gradient_clip_norm", "tune.loguniform(1e-4, 1e-1)", "{loguniform: [LOW, HIGH]}"),
        ("gradient_clip_norm", "trial.suggest_float('clip', 0, 1)", "{uniform: [LOW, HIGH]}"),
        ("gradient_clip_norm", "tune.randint(1, 3)", "{uniform: [LOW, HIGH]}"),
    ],
)
def test_a_domain_of_another_tool_is_answered_with_what_to_write(field: str, value: Any, written: str) -> None:
    [rule] = problems(search_space={field: value})
    assert rule.endswith(f"; to search several values, write {written}"), rule


def test_a_range_of_whole_numbers_has_their_notation() -> None:
    [rule] = problems(search_space={"model": {"kind": "cnn", "width": {"min": 8, "max": 64}}})
    assert rule.endswith("write {int_range: [8, 64]}")


def test_a_value_that_is_only_wrong_has_no_hint() -> None:
    assert "to search" not in " ".join(problems(search_space={"label_smoothing": "high", "scheduler": "cosin"}))


def test_a_block_without_a_kind_names_that_of_the_default() -> None:
    [rule] = problems(searcher={"num_samples": 5})
    assert rule.endswith("without this block it is auto: for that one, add kind: auto")


@pytest.mark.parametrize("field", ["dataset", "searcher", "early_stopping", "resources", "budget", "execution"])
def test_a_null_block_is_named(field: str) -> None:
    [rule] = problems(**{field: None})
    assert rule.endswith(", not null")
