"""Presets: each is valid, has the name of its file, causes no warnings, and has a description."""

from __future__ import annotations

import pytest

from search_spaces import presets
from search_spaces.problems import SpecError
from search_spaces.validation import warnings


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid(name: str) -> None:
    spec = presets.spec(name)
    assert spec.name == name
    assert spec.description
    assert warnings(spec) == []
    assert presets.load(name).startswith("# ")


def test_the_demo_has_enough_trials() -> None:
    assert presets.spec("digits-quick").num_samples >= 30


def test_the_error_for_an_unknown_preset_contains_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="did you mean 'digits-quick'"):
        presets.load("digit-quick")
    with pytest.raises(SpecError, match="one of cifar10"):
        presets.load("../spec")
