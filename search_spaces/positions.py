"""Positions: values of a domain as numbers from 0 to 1, and back.

Owns the one scale on which searchers draw and measure distances: logarithmic where the domain is. Equal lengths of it
have equal probability. It must not know how a searcher chooses.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from search_spaces.domains import Candidates, Choice, Domain, Interval, quantize
from search_spaces.sampling import domains
from search_spaces.spec import Spec

#: Two alternatives have no order that a model could learn from.
LEAST_ORDERED = 3


def position_of(domain: Interval, value: float) -> float:
    """0 at the low end, 1 at the high end."""
    low, high = ends(domain)
    if domain.log:
        low, high, value = math.log(low), math.log(high), math.log(max(value, sys.float_info.min))
    width = high - low
    return (value - low) / width if width > 0 else 0.0  # neighboring numbers may have the same logarithm


def value_at(domain: Interval, position: float) -> float:
    """The value at a position, or at the end that is nearest to it. Candidates of a domain have equal shares."""
    position = min(max(position, 0.0), 1.0)
    if domain.step is not None and not domain.log:
        candidates = Candidates(domain)
        return candidates[min(int(position * len(candidates)), len(candidates) - 1)]
    low, high = ends(domain)
    if domain.log:
        value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    else:
        value = low + position * (high - low)
    return min(max(quantize(domain, value), domain.low), domain.high)


def has_no_width(domain: Interval) -> bool:
    """Whether its ends are so close that no model can divide by their distance, or by its step."""
    low, high = ends(domain)
    width = math.log(high) - math.log(low) if domain.log else high - low
    return min(width, domain.step or width) < sys.float_info.min


def drawn_at(domain: Domain, position: float) -> float:
    """The value of an interval, or the index of an alternative, at a position. Alternatives have equal shares."""
    if isinstance(domain, Choice):
        return min(int(position * len(domain.choice)), len(domain.choice) - 1)
    if not isinstance(domain, Interval):
        raise TypeError(f"must be a choice or an interval (got {domain!r})")
    return value_at(domain, position)


def place_of(domain: Domain, value: float) -> float:
    """The middle of the positions for which `drawn_at` has this value: equal lengths are equally likely to be drawn."""
    if isinstance(domain, Choice):
        return (value + 0.5) / len(domain.choice)
    if not isinstance(domain, Interval):
        raise TypeError(f"must be a choice or an interval (got {domain!r})")
    if domain.step is not None and not domain.log:
        place = (round((value - domain.low) / domain.step) + 0.5) / len(Candidates(domain))
    else:
        place = position_of(domain, value)
    return min(max(place, 0.0), 1.0)


def orders(search_space: Spec) -> dict[str, tuple[int, ...]]:
    """By the path of each choice of numbers: its indices in the order of the numbers."""
    return {
        path: tuple(index for _, index in sorted((number, index) for index, number in enumerate(domain.choice)))
        for path, domain in domains(search_space)
        if isinstance(domain, Choice) and len(domain.choice) >= LEAST_ORDERED and all(map(_is_number, domain.choice))
    }


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def ends(domain: Interval) -> tuple[float, float]:
    """The ends of the scale. Those of logarithmic whole numbers reach half a number further, so that both have their
    share."""
    margin = 0.5 if domain.log and domain.integer else 0.0
    return domain.low - margin, domain.high + margin
