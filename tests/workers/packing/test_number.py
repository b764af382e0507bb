"""How many trials share a device: bounded by memory with a margin, and by what is gained."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from search_spaces.resources import Resources, share_of_gpu, slots_of_gpu
from workers.packing.number import LEAST_GAIN, MARGIN, MOST, fastest, fitting, to_measure, with_cpus
from workers.trial.shared_memory import CONTEXT_BYTES, torch_share

BYTES = some.integers(1, 2**45)


@given(peak=BYTES, total=BYTES, most=some.integers(1, MOST))
def test_so_many_fit_with_a_margin_and_one_more_would_not(peak: int, total: int, most: int) -> None:
    found = fitting(peak, total, most)
    assert 1 <= found <= most
    assert found == 1 or found * peak * (1 + MARGIN) <= total * (1 + 1e-12)
    assert found == most or (found + 1) * peak * (1 + MARGIN) > total * (1 - 1e-12)


@given(peak=BYTES, more=some.integers(0, 2**40), total=BYTES)
def test_larger_trials_are_never_more(peak: int, more: int, total: int) -> None:
    assert fitting(peak + more, total) <= fitting(peak, total) <= fitting(peak, total + more)


def test_no_memory_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"peak_bytes must be above 0 \(got 0\)"):
        fitting(0, 1)


@given(some.dictionaries(some.integers(2, 16), some.floats(0, 1e6)), some.floats(0.001, 1e6))
def test_more_trials_are_faster_than_every_smaller_number(others: dict[int, float], alone: float) -> None:
    speeds = others | {1: alone}
    chosen = fastest(speeds)
    assert all(speeds[chosen] > speed for number, speed in speeds.items() if number < chosen)
    assert chosen == 1 or speeds[chosen] >= LEAST_GAIN * alone
    assert all(speed < LEAST_GAIN * speeds[chosen] for number, speed in speeds.items() if number > chosen)


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [({1: 100}, 1), ({1: 100, 2: 105}, 1), ({1: 100, 2: 190, 4: 200}, 2), ({1: 100, 2: 105, 4: 150}, 4)],
)
def test_a_gain_decides(speeds: dict[int, float], chosen: int) -> None:
    assert fastest(speeds) == chosen


@given(some.integers(1, 64))
def test_numbers_to_measure_double_up_to_what_fits(fits: int) -> None:
    found = to_measure(fits)
    assert (found[0], found[-1], found) == (1, fits, sorted({*found}))
    assert all(after <= 2 * before for before, after in pairwise(found))


@given(torch_bytes=some.integers(1, 2**38), total=some.integers(2**32, 2**38))
def test_what_fits_is_below_the_cap_of_its_share(torch_bytes: int, total: int) -> None:
    trials = fitting(torch_bytes + CONTEXT_BYTES, total)
    assert trials == 1 or torch_bytes <= torch_share(share_of_gpu(trials), total) * total


@pytest.mark.parametrize(
    ("cpus", "gpus", "cpus_per_trial", "trials"),
    [(16, 1, 1, 8), (16, 4, 1, 4), (6, 1, 4, 1), (2, 8, 1, 1), (5, 2, 1, 2)],
)
def test_each_trial_has_its_cpus(cpus: float, gpus: float, cpus_per_trial: float, trials: int) -> None:
    assert with_cpus(cpus, gpus, cpus_per_trial) == trials


@pytest.mark.parametrize("trials", range(1, MOST + 1))
def test_a_share_is_one_of_a_spec_and_all_of_them_are_on_one_gpu(trials: int) -> None:
    share = share_of_gpu(trials)
    assert Resources(gpus_per_trial=share).gpus_per_trial == share
    assert share * trials <= 1
    assert slots_of_gpu(share) == trials
