"""SilenceTimer measures how long tokens stay the same, by the observer's clock."""

from __future__ import annotations

import pytest

from service.scheduling.silence import SilenceTimer


class Ticks:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def silence(ticks: Ticks) -> SilenceTimer:
    return SilenceTimer(5.0, ticks)


def test_it_counts_from_the_first_observation_of_a_token(ticks: Ticks, silence: SilenceTimer) -> None:
    ticks.now += 3
    assert silence.observe({"a": "hello"}) == {"a": 0}
    ticks.now += 3
    assert silence.observe({"a": "hello", "b": None}) == {"a": 3, "b": 0}
    ticks.now += 4
    assert silence.observe({"a": "hello", "b": None}) == {"a": 7, "b": 4}
    ticks.now += 1
    assert silence.observe({"a": "again", "b": None}) == {"a": 0, "b": 5}


def test_at_most_the_longest_gap_counts_after_a_suspension(ticks: Ticks, silence: SilenceTimer) -> None:
    silence.observe({"a": 1})
    ticks.now += 2
    silence.observe({"a": 1})
    ticks.now += 3600
    assert silence.observe({"a": 1}) == {"a": 7}, "of one gap more than its longest was counted"
    ticks.now += 2
    assert silence.observe({"a": 1}) == {"a": 9}, "who is silent is found nonetheless"


def test_a_name_that_is_not_observed_is_forgotten(ticks: Ticks, silence: SilenceTimer) -> None:
    silence.observe({"a": 1})
    ticks.now += 2
    silence.observe({})
    ticks.now += 2
    assert silence.observe({"a": 1}) == {"a": 0}
