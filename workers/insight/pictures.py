"""Pictures: an insight as plots: which trials can be distinguished from the winner, and what matters.

Owns what is in them; `workers.plots.figures` draws them. It must not know how an insight is computed.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.insight import Group, Insight
from search_spaces.phrases import counted
from workers.plots import figures
from workers.plots.figures import Row

MOST_BARS = 20  # of one group: more cannot be read


def draw(insight: Insight, out: Path) -> list[Path]:
    """Write the plots for which the insight has figures into `out`."""
    drawn = []
    if insight.sureness.best:
        drawn.append(_told_apart(insight, out / "told_apart.png"))
    if insight.importance.groups:
        drawn.append(_importance(insight, out / "importance.png"))
    return drawn


def _told_apart(insight: Insight, path: Path) -> Path:
    """The best trials with intervals, and below them what is expected of the winner and what the test set says."""
    sure = insight.sureness
    rows = []
    for ranked in sure.best:
        kind = "the winner" if ranked.trial == insight.choice.trial else "cannot be distinguished from it"
        accuracy = ranked.accuracy
        name = f"trial {ranked.trial}"
        rows.append(Row(name, accuracy.value, accuracy.low, accuracy.high, kind if ranked.tie else "worse"))
    if sure.expected:
        rows.append(
            Row("expected", sure.expected.value, sure.expected.low, sure.expected.high, "the winner, without luck")
        )
    if sure.test:
        rows.append(Row("test", sure.test.value, sure.test.low, sure.test.high, "the winner on the test set"))
    ties = len(sure.ties or ())
    caption = (
        f"{ties} of {counted(max(0, sure.compared - 1), 'other trial')} cannot be distinguished from trial "
        f"{insight.choice.trial} on {counted(sure.validation_images or 0, 'validation image')}"
    )
    if sure.compared > len(sure.best):
        caption += f"; the best {len(sure.best)} are shown"
    return figures.intervals([("", rows)], caption, "accuracy, with 95 % intervals", path)


def _importance(insight: Insight, path: Path) -> Path:
    """A panel for each group of trials."""
    caption = (
        f"Share of the differences at epoch {insight.importance.epoch} that each hyperparameter explains by itself"
    )
    panels = [(_title(group), _bars(group)) for group in insight.importance.groups]
    return figures.intervals(panels, caption, "share, with 80 % of the repetitions", path, from_zero=True)


def _title(group: Group) -> str:
    return f"{group.within or 'all'}: {counted(group.trials, 'trial')}"


def _bars(group: Group) -> list[Row]:
    return [
        Row(bar.name, bar.share, bar.low, bar.high, "no more than chance" if bar.noise else "more than chance")
        for bar in group.bars[:MOST_BARS]
    ]
