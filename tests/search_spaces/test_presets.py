"""Presets: each is valid, named as its file, without warnings, and says what it is for."""

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


def test_the_demo_has_trials_enough() -> None:
    assert presets.spec("digits-quick").num_samples >= 24


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'digits-quick'"):
        presets.load("digit-quick")
    with pytest.raises(SpecError, match="one of cifar10"):
        presets.load("../spec")
