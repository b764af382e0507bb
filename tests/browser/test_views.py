"""MLflow's own pages in Chromium: the prepared view of an experiment, and the comparison of two."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from search_spaces.mlflow_view import charts_path, comparison_path
from search_spaces.objective import Objective
from tests.support.chromium import Page
from tests.support.shown_searches import PICTURES, SIZES, Shown

BEST = "best_validation_accuracy"
SEARCHED = [
    *("optimizer.kind", "optimizer.lr", "normalization.kind", "scheduler.kind", "batch_size", "model.width"),
    *("optimizer.weight_decay", "scheduler.factor"),
]
COLUMNS = ["Run Name", "Created", BEST, *SEARCHED, "rung.trial_state", "rung.stop_reason", "best_epoch"]
#: Runs that the view draws; MLflow loads a hundred at a time.
DRAWN, LOADED = 20, 100
#: One line and its points for each run, in each chart.
PLOTS = "[...document.querySelectorAll('.js-plotly-plot')]"
LINES = f"{PLOTS}.map(plot => plot.querySelectorAll('.scatterlayer .trace').length)"
HEADERS = "[...document.querySelectorAll('.ag-header-cell')].map(cell => cell.innerText.trim()).filter(Boolean)"
TEXT = "document.body?.innerText ?? ''"


def picture(page: Page, name: str) -> None:
    """A screenshot for the documentation, without MLflow's assistant."""
    if PICTURES:
        page.evaluate("document.querySelector('[aria-label=\"Close\"]')?.click()")
        time.sleep(3)  # for the charts to be drawn again
        page.screenshot(Path(PICTURES) / name)


def names(page: Page) -> Sequence[str]:
    found: str = page.evaluate(TEXT)
    return [line for line in found.splitlines() if line.startswith("trial-")]


@pytest.mark.parametrize("size", SIZES)
def test_the_view_shows_curves_of_the_best_trials(shown: Shown, page: Page, size: int) -> None:
    began = time.monotonic()
    page.open(shown.view(size))
    drawn = min(size, DRAWN)
    page.wait_for(f"{LINES}.filter(count => count >= {drawn}).length >= 3", 120)
    print(f"\n{size} trials: curves are drawn {time.monotonic() - began:.1f} s after the page was opened")
    text = page.evaluate(TEXT)
    assert f"{min(size, LOADED)} matching runs" in text
    assert f"digits-quick (of{size})" in text
    for title, charts in (("Curves", 3), ("Hyperparameters", 6)):
        assert re.search(rf"{title}\s*\({charts}\)", text)
    assert names(page)
    page.wait_for("document.querySelectorAll('.js-plotly-plot').length >= 4")
    assert not page.errors
    picture(page, f"mlflow-view-{size}.png")


@pytest.mark.parametrize("size", SIZES[-1:])
def test_the_table_has_the_objective_the_searched_values_and_the_reasons(shown: Shown, page: Page, size: int) -> None:
    page.open(shown.view(size, "TABLE"), width=3600)
    page.wait_for(f"{HEADERS}.includes('best_epoch')", 120)
    found = page.evaluate(HEADERS)
    assert [column for column in COLUMNS if column not in found] == []
    assert set(found) <= {*COLUMNS, "Duration"}
    values = page.evaluate(
        f"[...document.querySelectorAll('.ag-row [col-id*=\"{BEST}\"]')].map(cell => cell.innerText)"
    )
    assert len(values) > 5
    assert values == sorted(values, reverse=True), "the best first"
    picture(page, f"mlflow-table-{size}.png")


def test_two_experiments_are_compared(shown: Shown, page: Page) -> None:
    one, other = (shown.searches[size] for size in SIZES[:2])
    homes, runs = [str(ids.experiment) for ids in (one, other)], [str(ids.parent) for ids in (one, other)]
    page.open(shown.address + comparison_path(homes, runs))
    text = page.wait_for(f"({TEXT}).includes('space.optimizer.lr') && ({TEXT})", 120)
    for part in ("Comparing 2 Runs", f"digits-quick (of{SIZES[0]})", BEST, "trials_early_stopped"):
        assert part in text
    trials = [run for ids in (one, other) for run in list(ids.runs.values())[:5]]
    page.open(shown.address + charts_path(homes, trials, Objective()))
    page.wait_for(f"{LINES}.filter(count => count >= 10).length >= 3", 120)
    assert "10 matching runs" in page.evaluate(TEXT)
    assert len(names(page)) >= 5
    picture(page, "mlflow-compare.png")
