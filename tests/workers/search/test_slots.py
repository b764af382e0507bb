"""Slots: how many trials may run, which one yields its slot, and what happens to an idle process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.tune.schedulers import TrialScheduler

from search_spaces.controls import Controls
from search_spaces.protocol import Directives
from search_spaces.storage.folder import FolderStorage
from tests.support.searches import Search
from tests.support.workers import Stopwatch
from workers.ray_patches import idle_actors


@pytest.mark.parametrize(
    "fewer",
    [{"slots": 1}, {"slots": 3, "controls": Controls(num_samples=12, max_concurrent_trials=1)}],
    ids=["granted", "requested"],
)
def test_with_fewer_slots_the_trial_whose_epoch_ends_first_yields_its_slot(
    search: Callable[..., Search], tmp_path: Path, fewer: dict[str, Any]
) -> None:
    now = search()
    first, second, third = (now.tune.start() for _ in range(3))
    now.tune.report(first, 1, 0.5)
    now.service.directives = Directives(**fewer)
    now.callback.poll(now.tune)
    assert now.tune.live == [first, second, third], "no unfinished epoch is lost"
    assert now.tune.report(second, 1, 0.6) == TrialScheduler.STOP
    assert now.tune.report(first, 2, 0.6) == TrialScheduler.STOP
    assert now.tune.report(third, 1, 0.7) == TrialScheduler.CONTINUE
    assert now.states() == ["PAUSED", "PAUSED", "RUNNING"]
    assert now.tune.live == [third]
    assert now.tune.start() is None
    now.recorder.close()
    after = search(2)
    assert [after.tune.start().config["trial"] for _ in range(4)] == [0, 1, 2, 3]
    assert [entry["trial"] for entry in FolderStorage(tmp_path).journal.entries() if entry["event"] == "released"] == [
        1,
        0,
    ]
    assert after.verdict_on_the_worst() == now.verdict_on_the_worst() != ""


def test_a_trial_that_ends_with_its_epoch_does_not_yield(search: Callable[..., Search]) -> None:
    now = search(max_epochs=1)
    trials = [now.tune.start() for _ in range(3)]
    now.service.directives = Directives(slots=1)
    for trial in trials:
        now.tune.report(trial, 1, 0.5)
    assert now.states() == ["COMPLETED"] * 3


def test_surplus_trials_without_a_slot_are_withdrawn_first(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    running, *waiting = now.tune.start(), now.tune.start(waits=True), now.tune.start(waits=True)
    size = (tmp_path / "journal.jsonl").stat().st_size
    now.service.directives = Directives(slots=2)
    now.callback.poll(now.tune)
    assert now.tune.live == [running, waiting[0]]
    assert now.states() == ["RUNNING", "RUNNING", "PENDING"]
    now.service.directives = Directives(slots=0)
    now.callback.poll(now.tune)
    assert now.tune.live == [running]
    assert (tmp_path / "journal.jsonl").stat().st_size == size
    now.service.directives = Directives(slots=4)
    assert [now.tune.start().config["trial"] for _ in range(3)] == [1, 2, 3]


def test_trials_that_had_time_to_end_their_epoch_leave_it(search: Callable[..., Search], tmp_path: Path) -> None:
    """The youngest, which have trained the least; only as many as there are too many."""
    now = search()
    first, *others = (now.tune.start() for _ in range(3))
    now.tune.report(first, 1, 0.5)
    now.service.directives = Directives(slots=1)
    now.callback.poll(now.tune)
    assert now.tune.live == [first, *others], "they may still end it"
    now.service.directives = Directives(slots=1, stop_epochs=True)
    now.callback.poll(now.tune)
    assert now.tune.live == [first]
    assert now.states() == ["RUNNING", "PAUSED", "PAUSED"]
    assert [now.files(trial).stop.exists() for trial in (first, *others)] == [False, True, True]
    now.service.directives = Directives(slots=3)
    assert [now.tune.start().config["trial"] for _ in range(2)] == [1, 2], "before new ones"
    released = [entry["trial"] for entry in FolderStorage(tmp_path).journal.entries() if entry["event"] == "released"]
    assert released == [1, 2]


def test_no_trial_leaves_its_epoch_for_one_that_only_waited(search: Callable[..., Search]) -> None:
    now = search()
    running, _ = now.tune.start(), now.tune.start(waits=True)
    now.service.directives = Directives(slots=1, stop_epochs=True)
    now.callback.poll(now.tune)
    assert now.tune.live == [running]
    assert now.states() == ["RUNNING", "PENDING"]
    assert not now.files(running).stop.exists()


def test_the_budget_of_time_stands_still_while_a_search_has_no_slot(
    search: Callable[..., Search], stopwatch: Stopwatch, tmp_path: Path
) -> None:
    now = search(budget={"wall_clock": 100})
    trial = now.tune.start()
    stopwatch.seconds += 60
    now.service.directives = Directives(slots=0)
    now.tune.report(trial, 1, 0.5)
    assert now.tune.start() is None
    stopwatch.seconds += 1000
    assert now.tune.start() is None
    now.service.directives = Directives(slots=1)
    trial = now.tune.start()
    stopwatch.seconds += 30
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    stopwatch.seconds += 15
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.reason == "budget.wall_clock is used up: 105 of 100 s"


def test_a_canceled_trial_gives_its_slot_to_one_that_waits(search: Callable[..., Search]) -> None:
    """With fewer slots and a canceled trial in one heartbeat, no other trial is withdrawn and none yields."""
    now = search()
    trials = [now.tune.start(), now.tune.start(), now.tune.start(waits=True), now.tune.start(waits=True)]
    now.service.directives = Directives(slots=3, cancel_trials=[0])
    assert now.tune.report(trials[1], 1, 0.5) == TrialScheduler.CONTINUE, "before the next poll"
    now.callback.poll(now.tune)
    assert now.states() == ["CANCELED", "RUNNING", "RUNNING", "RUNNING"]
    assert now.tune.live == trials[1:]


@pytest.mark.parametrize(("wanted", "releases"), [(3, 0), (2, 1)])
def test_an_idle_process_is_released_if_no_trial_will_use_it(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, wanted: int, releases: int
) -> None:
    now = search(searcher={"kind": "random", "num_samples": wanted})
    trial, _ = now.tune.start(), now.tune.start()
    now.callback.poll(now.tune)
    now.tune.finish(trial, 0.5)
    now.service.directives = Directives(slots=2)
    released: list[Any] = []
    monkeypatch.setattr(idle_actors, "release_idle_actors", released.append)
    now.callback.on_step_end(1, [])
    assert released == [now.tune] * releases


def test_an_idle_process_is_kept_for_a_waiting_trial(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = search(searcher={"kind": "random", "num_samples": 1})
    now.callback.poll(now.tune)
    now.tune.fail(now.tune.start(), ActorDiedError(), tmp_path)
    released: list[Any] = []
    monkeypatch.setattr(idle_actors, "release_idle_actors", released.append)
    now.callback.on_step_end(1, [])
    assert released == []
