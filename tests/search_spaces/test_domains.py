"""Domains: both ends included, candidates exact, every candidate valid for the field that holds it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from search_spaces.domains import (
    DOMAINS,
    KEYWORDS,
    MAX_CANDIDATES,
    Candidates,
    Choice,
    Interval,
    IntRange,
    LogIntRange,
    LogUniform,
    QUniform,
    Uniform,
    count,
    holds_domain,
    numeric_domains,
)
from search_spaces.optimizers import Rate
from search_spaces.sampling import resolve

RATE: TypeAdapter[Any] = TypeAdapter(Rate)
SMALL = st.integers(-1000, 1000)


def test_every_domain_has_one_field_named_as_its_keyword() -> None:
    for domain in DOMAINS:
        assert list(domain.model_fields) == [domain.keyword]
    assert len(KEYWORDS) == len(DOMAINS)


@given(low=SMALL, steps=st.integers(1, 50), step=st.integers(1, 20))
def test_integer_candidates_reach_from_end_to_end(low: int, steps: int, step: int) -> None:
    domain = IntRange(int_range=(low, low + steps * step, step))
    values = list(Candidates(domain))
    assert values == list(range(low, low + steps * step + 1, step))
    assert all(isinstance(value, int) for value in values)
    assert count(domain) == len(values)


@given(low=st.integers(-100, 100), steps=st.integers(1, 200))
def test_quantized_candidates_have_no_rounding_errors(low: int, steps: int) -> None:
    domain = QUniform(quniform=(low / 10, (low + steps) / 10, 0.1))
    assert list(Candidates(domain)) == [(low + index) / 10 for index in range(steps + 1)]


@pytest.mark.parametrize("bounds", [(0.0, 2 / 3, 1 / 3), (1e-13, 3e-13, 1e-13), (1e6, 1e6 + 0.3, 0.1)])
def test_quantized_candidates_are_within_their_range_at_any_scale(bounds: tuple[float, float, float]) -> None:
    domain = QUniform(quniform=bounds)
    values = list(Candidates(domain))
    assert values[0] == domain.low
    assert values[-1] == domain.high
    assert len(set(values)) == count(domain)
    assert [resolve(domain, lambda path, _, value=value: value) for value in values] == values


@pytest.mark.parametrize(
    "domain",
    [
        Uniform(uniform=(0.0, 1.0)),
        LogUniform(loguniform=(1e-5, 1.0)),
        QUniform(quniform=(0.0, 1.0, 0.25)),
        IntRange(int_range=(3, 9)),
        IntRange(int_range=(3, 9, 3)),
        LogIntRange(log_int_range=(1, 64)),
    ],
    ids=lambda domain: domain.keyword,
)
def test_both_ends_may_be_drawn_and_nothing_beyond(domain: Interval) -> None:
    assert resolve(domain, lambda path, _: domain.low) == domain.low
    assert resolve(domain, lambda path, _: domain.high) == domain.high
    for outside in (domain.low - 1, domain.high + 1):
        with pytest.raises(ValueError, match="must be from"):
            resolve(domain, lambda path, _, value=outside: value, "lr")


@pytest.mark.parametrize(
    ("given_", "rule"),
    [
        ({"uniform": [1.0, 0.1]}, "must have low < high"),
        ({"uniform": [0.1, 0.1]}, "low < high"),
        ({"loguniform": [0.0, 1.0]}, "must have low > 0"),
        ({"uniform": [0.1, 101.0]}, "high must be"),
        ({"uniform": [-1.0, 1.0]}, "low must be"),
        ({"quniform": [0.1, 1.0, 0.2]}, "must have a positive step such that"),
        ({"quniform": [0.1, 1.0, 0.0]}, "must have a positive step such that"),
        ({"quniform": [0.1, 1.0, -0.1]}, "must have a positive step such that"),
        ({"quniform": [1.0, 10.0, 1e-6]}, f"at most {MAX_CANDIDATES} candidates"),
        ({"uniform": [0.1, math.inf]}, "finite"),
        ({"uniform": [math.nan, 1.0]}, "finite"),
        ({"uniform": ["0.1", 1.0]}, "valid number"),
        ({"int_range": [1, 2]}, "valid number|a value or one of"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": [0.1, -0.1]}, "greater than 0"),
        ({"choice": [0.1, {"uniform": [2.0, 1.0]}]}, "low < high"),
        (True, "valid number"),
        (math.nan, "finite"),
    ],
    ids=str,
)
def test_the_error_for_an_invalid_learning_rate_has_the_broken_rule(given_: Any, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        RATE.validate_python(given_)


@pytest.mark.parametrize(("high", "found"), [(10**9, "1e.09"), (MAX_CANDIDATES + 1, "100001")])
def test_integer_ranges_stay_countable(high: int, found: str) -> None:
    bounds = (1, high)
    for domain in (IntRange, LogIntRange):
        with pytest.raises(ValidationError, match=rf"must have at most 100000 candidates \(got {found}\)"):
            domain.model_validate({domain.keyword: bounds})
    assert count(IntRange(int_range=(1, MAX_CANDIDATES))) == MAX_CANDIDATES


def test_a_choice_may_hold_values_and_intervals() -> None:
    domain = RATE.validate_python({"choice": [0.1, {"loguniform": [0.01, 0.1]}]})
    assert isinstance(domain, Choice)
    assert domain.choice[0] == 0.1
    assert isinstance(domain.choice[1], LogUniform)
    assert RATE.dump_python(domain, mode="json") == {"choice": [0.1, {"loguniform": [0.01, 0.1]}]}
    assert RATE.validate_python(domain) == domain


def test_continuous_domains_have_no_candidates() -> None:
    with pytest.raises(ValueError, match=r"must be finite for a grid \(got uniform: \[0.0, 1.0\]\)"):
        list(Candidates(Uniform(uniform=(0.0, 1.0))))
    with pytest.raises(ValueError, match="finite"):
        count(LogUniform(loguniform=(0.1, 1.0)))


def test_which_annotations_hold_domains() -> None:
    assert holds_domain(Rate)
    assert holds_domain(Rate | None)
    assert holds_domain(dict[str, Rate])
    assert not holds_domain(float)
    assert not holds_domain(dict[str, float])
    assert numeric_domains(float | None) == (Uniform, LogUniform, QUniform)
    assert numeric_domains(int) == (IntRange, LogIntRange)
    assert numeric_domains(str) == ()
