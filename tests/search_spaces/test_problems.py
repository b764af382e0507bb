"""Values in problems: short ones as they are, long ones by their beginning, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from search_spaces.problems import MAX_VALUE_LENGTH, shorten


@pytest.mark.parametrize("value", [1, "x" * 118, [1, "two", None], {"a": {"b": 0.5}}, True, None])
def test_a_short_value_is_shown_as_it_is(value: Any) -> None:
    assert shorten(value) == value


@pytest.mark.parametrize("value", ["x" * 10**6, ["x"] * 10**6, {"a": "x" * 10**6}])
def test_of_a_long_value_the_beginning_is_shown(value: Any) -> None:
    shown = shorten(value)
    assert len(shown) == MAX_VALUE_LENGTH
    assert shown.endswith(("x...", '"...', " ..."))


def test_values_that_json_cannot_hold_are_named() -> None:
    assert (shorten(float("nan")), shorten([float("nan")]), shorten("\ud800")) == ("nan", "a list", "'\\ud800'")


class CountingList(list[Any]):
    """Counts the items that are read."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.read += 1
            yield item


def test_no_more_of_a_value_is_read_than_is_shown() -> None:
    value = CountingList(range(10**6))
    shorten(value)
    assert value.read <= MAX_VALUE_LENGTH
