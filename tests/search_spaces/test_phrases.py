"""Numbers in sentences for a person."""

from __future__ import annotations

import pytest

from search_spaces.phrases import rounded


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (12.0, "12"),
        (999.4, "999"),
        (999.7, "1000"),
        (1234.4, "1234"),
        (1e8, "100000000"),
    ],
)
def test_a_number_has_three_digits_or_is_a_whole_one(number: float, text: str) -> None:
    assert rounded(number) == text
