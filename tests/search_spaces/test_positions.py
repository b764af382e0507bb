"""Positions: values of a domain on the scale on which equal lengths are equally likely."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.domains import Choice, Domain, IntRange, LogIntRange, LogUniform, QUniform, Uniform
from search_spaces.positions import drawn_at, place_of

COUNTABLE: list[tuple[Domain, list[float]]] = [
    (Choice(choice=("a", "b", "c")), [0, 1, 2]),
    (IntRange(int_range=(2, 5)), [2, 3, 4, 5]),
    (IntRange(int_range=(2, 8, 3)), [2, 5, 8]),
    (QUniform(quniform=(0.0, 0.5, 0.25)), [0.0, 0.25, 0.5]),
    (LogIntRange(log_int_range=(1, 6)), [1, 2, 3, 4, 5, 6]),
]


@pytest.mark.parametrize(("domain", "values"), COUNTABLE, ids=lambda one: getattr(one, "keyword", ""))
def test_a_value_is_drawn_at_its_place_and_its_place_is_within_what_draws_it(
    domain: Domain, values: list[float]
) -> None:
    positions = np.linspace(0, 1, 10_001)
    drawn = np.array([drawn_at(domain, position) for position in positions])
    for value in values:
        place = place_of(domain, value)
        mine = positions[drawn == value]
        assert drawn_at(domain, place) == value
        assert mine.min() < place < mine.max()


@pytest.mark.parametrize("domain", [Uniform(uniform=(0.5, 2.0)), LogUniform(loguniform=(0.01, 1.0))])
def test_the_place_of_a_real_number_is_where_it_is_drawn(domain: Uniform | LogUniform) -> None:
    for position in (0.0, 0.1, 0.5, 1.0):
        assert place_of(domain, drawn_at(domain, position)) == pytest.approx(position)
    assert place_of(domain, domain.low / 2) == 0.0
    assert place_of(domain, domain.high * 2) == 1.0
