"""A superseded driver: whenever it learns of its successor, it stops its trials and touches no folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from search_spaces.protocol import Directives
from tests.support.searches import Search


def test_a_superseded_attempt_stops_its_trials_and_writes_nothing(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search()
    now.tune.start()
    size = (tmp_path / "journal.jsonl").stat().st_size
    now.fence.close()
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.superseded
    assert now.tune.live == []
    assert now.states() == ["PAUSED"]
    assert (tmp_path / "journal.jsonl").stat().st_size == size
    assert list(tmp_path.rglob("stop")) == [], "the folder is the later attempt's"


@pytest.fixture
def two(search: Callable[..., Search]) -> tuple[Search, Any, Path]:
    """An attempt that does not know yet of a later one; its trial; the later one's `stop` in the same folder."""
    old = search(1)
    trial = old.tune.start()
    old.tune.report(trial, 1, 0.5)
    later = search(2)
    taken = later.tune.start()
    assert taken.config["trial"] == trial.config["trial"]
    return old, trial, later.files(taken).stop


def test_a_trial_that_a_later_attempt_asked_to_stop_is_abandoned(two: tuple[Search, Any, Path]) -> None:
    """Its process left the epoch and reports the one before again: a further step would train in the other's folder."""
    old, trial, _ = two
    assert old.tune.report(trial, 1, 0.5) == TrialScheduler.STOP
    assert old.callback.outcome is not None
    assert old.callback.outcome.superseded
    assert old.tune.live == []


@pytest.mark.parametrize("directives", [{"stop": "cancel"}, {"stop": "pause"}, {"cancel_trials": [0]}])
def test_a_superseded_attempt_that_learns_late_stops_no_trial_of_its_successor(
    two: tuple[Search, Any, Path], directives: dict[str, Any]
) -> None:
    old, _, stop = two
    before = stop.stat().st_mtime_ns
    old.service.directives = Directives(slots=4, **directives)
    old.callback.poll(old.tune)
    assert old.callback.outcome is not None
    assert old.callback.outcome.superseded
    assert old.tune.live == []
    assert stop.stat().st_mtime_ns == before


def test_a_trial_without_a_slot_is_not_stopped_in_the_successors_folder(search: Callable[..., Search]) -> None:
    """Releasing a slot that it never held needs no entry in the journal."""
    old = search(1)
    old.tune.start(waits=True)
    later = search(2)
    stop = later.files(later.tune.start()).stop
    before = stop.stat().st_mtime_ns
    old.service.directives = Directives(slots=4, stop="pause")
    old.callback.poll(old.tune)
    assert stop.stat().st_mtime_ns == before
