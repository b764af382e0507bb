"""Which finalist wins by its fresh seeds, where means are equal except for rounding."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement

from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from workers.insight.replication import expected_of_choice
from workers.state.fresh_seeds import ranked
from workers.state.trial_table import Trial

IMAGES = 144


def runs(right: dict[int, tuple[int, ...]], divisor: int = IMAGES) -> dict[int, Trial]:
    """The replicates of trials that have so many images right, by seed."""
    found = {}
    for trial, counts in right.items():
        for seed, count in enumerate(counts):
            number = replicate_number(trial, seed)
            found[number] = Trial(number, {}, {}, TrialState.COMPLETED, best_value=count / divisor)
    return found


def order(right: dict[int, tuple[int, ...]], sign: int = 1) -> list[int]:
    return [one.trial for one in ranked(runs(right), min(right), len(next(iter(right.values()))), sign)]


def test_of_equal_means_the_lowest_number_wins_whatever_rounding_does() -> None:
    assert 140 / IMAGES + 136 / IMAGES != 138 / IMAGES + 138 / IMAGES, "in floats"
    pairs = list(combinations_with_replacement(range(130, IMAGES + 1), 2))
    equal = [(one, other) for one in pairs for other in pairs if sum(one) == sum(other)]
    assert all(order({4: one, 6: other}) == [4, 6] for one, other in equal)
    assert order({4: (138, 138), 6: (136, 140)}, sign=-1) == [4, 6]
    assert order({4: (137, 138), 6: (136, 140), 9: (138, 138)}) == [6, 9, 4]


def test_what_is_expected_of_a_choice_does_not_depend_on_rounding() -> None:
    """Each seed measures what the others choose, of equal ones the first; counted exactly."""
    pairs = list(combinations_with_replacement(range(134, IMAGES + 1), 2))
    for one in pairs:
        for other in pairs:
            exact = Fraction(0)
            for left_out in (0, 1):
                chosen = one if one[1 - left_out] >= other[1 - left_out] else other
                exact += Fraction(chosen[left_out], 2 * IMAGES)
            found = expected_of_choice([[count / IMAGES for count in counts] for counts in (one, other)], 1)
            assert abs(found - float(exact)) < 1e-9, (one, other)
    given = [[140 / IMAGES, 136 / IMAGES, 120 / IMAGES], [138 / IMAGES, 138 / IMAGES, 110 / IMAGES]]
    assert abs(expected_of_choice(given, 1) - (140 + 136 + 120) / 3 / IMAGES) < 1e-9
