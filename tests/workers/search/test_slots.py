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
