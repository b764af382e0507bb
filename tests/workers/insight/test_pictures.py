"""The plots of an insight."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from search_spaces.insight import Importance, Interval, Ranked, Sureness
from tests.support.insights import insight
from workers.insight.pictures import draw

BEST = [
    Ranked(trial=number, accuracy=Interval(value=0.99 - number / 200, low=0.9, high=0.995), tie=number < 4)
    for number in range(12)
]


def test_an_insight_has_two_plots(tmp_path: Path) -> None:
    sure = insight().sureness.model_copy(update={"best": BEST})
    drawn = draw(insight(sureness=sure), tmp_path)
    assert [path.name for path in drawn] == ["told_apart.png", "importance.png"]
    for path in drawn:
        with Image.open(path) as picture:
            width, height = picture.size
        assert 400 < width < 2000
        assert 100 < height < 2000


def test_what_was_not_computed_is_not_drawn(tmp_path: Path) -> None:
    assert draw(insight(sureness=Sureness(), importance=Importance()), tmp_path) == []
