"""Silence counts by the wall clock while that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.silence import JUMP_S, Silence

START = datetime(2026, 1, 2, tzinfo=UTC)


class Clocks:
    """A wall clock that can jump, and one that cannot."""

    def __init__(self) -> None:
        self.now, self.ticks = START, 100.0

    def pass_s(self, seconds: float, jump_s: float = 0.0) -> None:
        self.ticks += seconds
        self.now += timedelta(seconds=seconds + jump_s)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def silence(clocks: Clocks) -> Silence:
    return Silence(lambda: clocks.now, lambda: clocks.ticks)


def test_silence_counts_from_the_moment_but_not_before_the_start(clocks: Clocks, silence: Silence) -> None:
    clocks.pass_s(30)
    silence.check_clock()
    assert silence.seconds(START + timedelta(seconds=20)) == 10
    assert silence.seconds(START - timedelta(days=1)) == 30


@pytest.mark.parametrize("jump_s", [-3600, -JUMP_S - 1, JUMP_S + 1, 3600])
def test_after_a_jump_it_counts_anew(clocks: Clocks, silence: Silence, jump_s: float) -> None:
    clocks.pass_s(10)
    silence.check_clock()
    heard = clocks.now
    clocks.pass_s(2, jump_s)
    silence.check_clock()
    assert silence.seconds(heard) == 0
    for _ in range(4):
        clocks.pass_s(2)
        silence.check_clock()
    assert silence.seconds(heard) <= 8
    clocks.pass_s(90)
    silence.check_clock()
    assert silence.seconds(heard) > 60, "a dead driver is found nonetheless"


def test_a_clock_that_is_slewed_counts_on(clocks: Clocks, silence: Silence) -> None:
    heard = clocks.now
    for _ in range(60):
        clocks.pass_s(2, 0.1)
        silence.check_clock()
    assert silence.seconds(heard) == pytest.approx(126)


def test_it_counts_anew_when_told_to(clocks: Clocks, silence: Silence) -> None:
    heard = clocks.now
    clocks.pass_s(60)
    silence.count_anew("the database was away")
    clocks.pass_s(1)
    assert silence.seconds(heard) == 1
