"""The plots of an insight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from search_spaces.insight import Bar, Group, Importance, Interval, Ranked, Sureness
from tests.support.insights import hiding_scores, insight
from workers.insight.pictures import COLORS, MATTERS, NOISE, TIE, WINNER, WORSE, draw

BEST = [
    Ranked(trial=number, accuracy=Interval(value=0.99 - number / 200, low=0.9, high=0.995), tie=number < 4)
    for number in range(12)
]


def pixels_of(path: Path, color: str) -> int:
    """The number of pixels of a plot that have exactly this color: the dots are large enough to have some."""
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB"))
    return int((values == ImageColor.getrgb(color)).all(axis=2).sum())


def test_the_dots_of_the_winner_the_ties_and_the_worse_have_their_colors(tmp_path: Path) -> None:
    """12 trials: number 0 won, 1 to 3 are ties, 8 are worse. The legend has one more dot of each kind."""
    sure = insight().sureness.model_copy(update={"best": BEST, "ties": [1, 2, 3]})
    choice = insight().choice.model_copy(update={"trial": 0})
    drawn = draw(insight(choice=choice, sureness=sure), tmp_path)
    assert [path.name for path in drawn] == ["told_apart.png", "importance.png"]
    winner, ties, worse = (pixels_of(drawn[0], COLORS[kind]) for kind in (WINNER, TIE, WORSE))
    assert winner > 0
    assert 1.5 * winner < ties < 3 * winner  # 4 dots to 2
    assert 1.7 * ties < worse < 3.5 * ties  # 9 dots to 4
    matters, noise = (pixels_of(drawn[1], COLORS[kind]) for kind in (MATTERS, NOISE))
    assert matters > 0
    assert noise > 0


def test_noise_has_no_color_where_everything_matters(tmp_path: Path) -> None:
    bars = [Bar(name="optimizer.lr", share=0.6, low=0.5, high=0.7, noise=False)]
    importance = Importance(epoch=1, groups=[Group(within=None, trials=40, bars=bars)])
    (path,) = draw(insight(sureness=Sureness(), importance=importance), tmp_path)
    assert pixels_of(path, COLORS[MATTERS]) > 0
    assert pixels_of(path, COLORS[NOISE]) == 0


def test_what_was_not_computed_is_not_drawn(tmp_path: Path) -> None:
    assert draw(insight(sureness=Sureness(), importance=Importance()), tmp_path) == []


def test_the_confusion_matrix_is_dark_where_the_images_are(tmp_path: Path) -> None:
    """Nearly all images of each of four classes are predicted to be of the first: one dark column of four."""
    (path,) = draw(insight(sureness=Sureness(), importance=Importance(), scores=hiding_scores()), tmp_path)
    assert path.name == "confusion.png"
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB")).astype(int)
    height, width = values.shape[:2]
    dark = (values[..., 2] - values[..., 0] > 60) & (values[..., 0] < 60)
    columns = np.flatnonzero(dark.sum(0) > 0.5 * height)
    assert 0.1 * width < len(columns) < 0.25 * width
    assert columns.max() < 0.4 * width
