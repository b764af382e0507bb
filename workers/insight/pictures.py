"""Pictures: an insight as plots: which trials can be distinguished from the winner, what matters, and which classes the
winner takes for which.

Owns what is in them; `workers.plots.figures` draws them. It must not know how an insight is computed.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.insight import Group, Insight, Interval
from search_spaces.phrases import counted
from search_spaces.replicates import run_name
from search_spaces.scores import Scores
from workers.plots import figures
from workers.plots.figures import Row

MOST_BARS = 20  # of one group: more cannot be read

WINNER, TIE, WORSE = "the winner", "cannot be distinguished from it", "worse"
EXPECTED, TEST = "expected of such a choice", "the winner on the test set"
MATTERS, NOISE = "more than chance", "no more than chance"
COLORS = {
    WINNER: figures.START,
    TIE: figures.LINE,
    WORSE: figures.EDGE,
    EXPECTED: "#7d3ac1",
    TEST: "#d87a1c",
    MATTERS: figures.LINE,
    NOISE: figures.EDGE,
}


def draw(insight: Insight, out: Path) -> list[Path]:
    """Write the plots for which the insight has figures into `out`."""
    drawn = []
    if insight.sureness.best:
        drawn.append(_told_apart(insight, out / "told_apart.png"))
    if insight.importance.groups:
        drawn.append(_importance(insight, out / "importance.png"))
    if insight.scores and insight.scores.test.confusion:
        drawn.append(_confusion(insight.scores, out / "confusion.png"))
    return drawn


def _told_apart(insight: Insight, path: Path) -> Path:
    """The best trials with intervals, and below them what is expected of the winner and what the test set says."""
    sure = insight.sureness
    rows = []
    for ranked in sure.best:
        kind = WINNER if ranked.trial == insight.choice.trial else TIE if ranked.tie else WORSE
        rows.append(_row(f"trial {ranked.trial}", ranked.accuracy, kind))
    rows += [_row("expected", sure.expected, EXPECTED)] if sure.expected else []
    rows += [_row("test", sure.test, TEST)] if sure.test else []
    ties = len(sure.ties or ())
    caption = (
        f"{ties} of {counted(max(0, sure.compared - 1), 'other trial')} cannot be distinguished from trial "
        f"{insight.choice.trial} on {counted(sure.validation_images or 0, 'validation image')}"
    )
    if insight.replication:
        caption += ", finalists by their fresh seeds"
    if sure.compared > len(sure.best):
        caption += f"; the best {len(sure.best)} are shown"
    return figures.intervals([("", rows)], COLORS, caption, "accuracy, with 95 % intervals", path)


def _confusion(scores: Scores, path: Path) -> Path:
    """The test images by true and predicted class."""
    found = scores.test
    caption = (
        f"The winner ({run_name(scores.trial)}) on {counted(found.images, 'test image')}: accuracy "
        f"{found.accuracy:.4f}, balanced accuracy {found.balanced_accuracy:.4f}, macro F1 {found.macro_f1:.4f}. Each "
        "row is a class; the color is the share of its images"
    )
    return figures.matrix(found.confusion or [], scores.classes, caption, ("predicted class", "true class"), path)


def _row(label: str, found: Interval, kind: str) -> Row:
    return Row(label, found.value, found.low, found.high, kind)


def _importance(insight: Insight, path: Path) -> Path:
    """A panel for each group of trials."""
    caption = (
        f"Share of the differences at epoch {insight.importance.epoch} that each hyperparameter explains by itself"
    )
    panels = [(_title(group), _bars(group)) for group in insight.importance.groups]
    return figures.intervals(panels, COLORS, caption, "share, with 80 % of the repetitions", path, from_zero=True)


def _title(group: Group) -> str:
    return f"{group.within or 'all'}: {counted(group.trials, 'trial')}"


def _bars(group: Group) -> list[Row]:
    return [
        Row(bar.name, bar.share, bar.low, bar.high, NOISE if bar.noise else MATTERS) for bar in group.bars[:MOST_BARS]
    ]
