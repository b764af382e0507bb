"""Trials that exceed their share of a GPU: each is tried again with a GPU for itself, and the others continue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.controls import Controls
from search_spaces.protocol import Directives, ErrorKind
from search_spaces.resources import slots_of_gpu
from tests.support.pausing import Pausing
from tests.support.searches import Search
from tests.support.workers import BuildSpec, Stopwatch
from workers.failures.classification import TrialError
from workers.search.tune_run import trial_resources, with_whole_gpu

QUARTER = {"resources": {"gpus_per_trial": 0.25}}
EXCEEDED = TrialError(ErrorKind.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory", exceeds_share=True)


@pytest.fixture
def searching(search: Callable[..., Search]) -> Callable[..., Search]:
    """An attempt whose trials are a quarter of a GPU each, with eight slots."""

    def begin(attempt: int = 1, slots: int = 8, **changes: Any) -> Search:
        now = search(attempt, **(QUARTER | changes))
        now.service.directives = Directives(slots=slots)
        return now

    return begin


def exceed(now: Search, folder: Path) -> None:
    """Trial 0 trains an epoch and exceeds its share in the next, beside trial 1."""
    first, second = now.tune.start(), now.tune.start()
    for trial in (first, second):
        now.tune.report(trial, 1, 0.5)
    now.tune.fail(first, EXCEEDED, folder)
    now.callback.poll(now.tune)


def test_it_continues_on_a_whole_gpu_and_nothing_counts_as_a_failure(
    searching: Callable[..., Search], tmp_path: Path
) -> None:
    now = searching(max_restarts=0, budget={"failures": 1})
    exceed(now, tmp_path)
    assert now.states() == ["PENDING", "RUNNING"], "its neighbor lives on"
    row = now.recorder.update_of(0)
    assert (row.slots, row.restarts, row.error_kind, row.epoch) == (4, 0, "OUT_OF_MEMORY", 1)
    assert now.callback.notice() == (
        "trial 0 needs more memory than a share of a GPU has, and a GPU without other trials"
    )
    again = now.tune.start()
    assert again.config == {"trial": 0, "epoch": 1, "data": None, "slots": 4}
    now.tune.report(again, 2, 0.6)
    assert now.callback.outcome is None
    for epoch in (3, 4):
        now.tune.report(again, epoch, 0.6)
    assert (now.trials[0].state, now.callback.notice()) == ("COMPLETED", "")


def test_it_gets_a_whole_gpu_and_all_of_its_memory(experiment: BuildSpec) -> None:
    resources = trial_resources(experiment(resources={"gpus_per_trial": 0.25, "cpus_per_trial": 2}))
    assert (resources, with_whole_gpu(resources)) == ({"CPU": 2.0, "GPU": 0.25}, {"CPU": 2.0, "GPU": 1.0})


def test_what_exceeds_a_whole_gpu_is_restarted_as_any_other(searching: Callable[..., Search], tmp_path: Path) -> None:
    now = searching(max_restarts=1)
    exceed(now, tmp_path)
    for state in ("PENDING", "ERROR"):
        now.tune.fail(now.tune.start(), TrialError(ErrorKind.OUT_OF_MEMORY, "out of memory"), tmp_path)
        assert now.trials[0].state == state
    assert now.trials[0].stop_reason == "OUT_OF_MEMORY after 1 restart: out of memory"


def test_it_waits_until_there_is_room_and_nobody_overtakes_it(searching: Callable[..., Search], tmp_path: Path) -> None:
    now = searching(slots=5)
    first, *others = (now.tune.start() for _ in range(5))
    for trial in others:
        now.tune.report(trial, 1, 0.5)
    now.tune.fail(first, EXCEEDED, tmp_path)
    now.callback.poll(now.tune)
    assert now.tune.start() is None
    assert now.states() == ["PENDING", *["RUNNING"] * 4], "the others end their epoch"
    for trial in others[:3]:
        assert now.tune.start() is None
        now.tune.report(trial, 2, 0.5)
    assert now.states() == ["PENDING", "PAUSED", "PAUSED", "PAUSED", "RUNNING"]
    assert now.tune.start().config["trial"] == 0
    assert now.tune.start() is None, "the GPU is full"
    assert now.tune.report(others[3], 2, 0.5) == "CONTINUE"


def test_several_do_not_take_turns(searching: Callable[..., Search], tmp_path: Path) -> None:
    now = searching(slots=5)
    for trial in [now.tune.start() for _ in range(2)]:
        now.tune.fail(trial, EXCEEDED, tmp_path)
    first = now.tune.start()
    assert (now.states(), now.tune.start()) == (["RUNNING", "PENDING"], None)
    for epoch in (1, 2, 3):
        assert now.tune.report(first, epoch, 0.5) == "CONTINUE"
        now.callback.poll(now.tune)
    assert now.tune.report(first, 4, 0.5) == "STOP"
    assert (now.trials[0].state, now.tune.start().config["trial"]) == ("COMPLETED", 1)


def test_while_its_share_is_less_than_a_gpu_the_others_continue(
    searching: Callable[..., Search], tmp_path: Path
) -> None:
    now = searching(slots=3)
    exceed(now, tmp_path)
    assert [now.tune.start().config["trial"] for _ in range(2)] == [2, 3]
    assert now.tune.start() is None
    for trial in list(now.tune.live):
        now.tune.finish(trial, 0.5)
    while (trial := now.tune.start()) is not None:
        now.tune.finish(trial, 0.5)
    assert not now.searcher.done, "one is left, and its slots may come"
    now.service.directives = Directives(slots=4)
    now.tune.finish(now.tune.start(), 0.5)
    assert now.tune.start() == "FINISHED"
    assert now.states() == ["COMPLETED"] * 12


def test_a_limit_of_trials_does_not_keep_it_from_its_slots(
    searching: Callable[..., Search], experiment: BuildSpec, tmp_path: Path
) -> None:
    now = searching(resources={"gpus_per_trial": 0.25, "max_concurrent_trials": 2})
    exceed(now, tmp_path)
    neighbor = now.tune.live[0]
    assert now.tune.start().config["trial"] == 0
    assert now.tune.start() is None, "two trials"
    assert now.tune.report(neighbor, 2, 0.5) == "CONTINUE"
    now.tune.fail(neighbor, EXCEEDED, tmp_path)
    now.callback.poll(now.tune)
    assert now.tune.start().config["trial"] == 1, "two again, each on a GPU"
    assert now.tune.start() is None


@pytest.mark.parametrize("samples", [2, 9])
def test_one_that_a_rule_paused_gets_a_whole_gpu_once_nothing_else_is_left(
    search: Callable[..., Search], tmp_path: Path, samples: int
) -> None:
    """Also where the space has no further configurations, and the trials at a time are fewer than slots of a GPU."""
    now = search(
        rule=Pausing(),
        resources={"gpus_per_trial": 0.25, "max_concurrent_trials": 2},
        searcher={"kind": "random", "num_samples": samples},
        search_space={"batch_size": {"choice": [32, 64]}},
        max_epochs=2,
    )
    now.service.directives = Directives(slots=8)
    now.tune.fail(now.tune.start(), EXCEEDED, tmp_path)
    for number in (0, 1):
        trial = now.tune.start()
        assert trial.config["trial"] == number
        assert now.tune.report(trial, 1, 0.5) == "STOP"
    assert (now.states(), now.trials[0].slots) == (["PAUSED", "PAUSED"], 4)
    for _ in range(2):
        now.tune.finish(now.tune.start(), 0.5)
    assert now.states() == ["COMPLETED", "COMPLETED"]
    assert now.tune.start() == "FINISHED"


def test_slots_that_are_taken_back_are_counted_as_slots(searching: Callable[..., Search], tmp_path: Path) -> None:
    now = searching()
    exceed(now, tmp_path)
    whole = now.tune.start()
    now.service.directives = Directives(slots=3, stop_epochs=True)
    for _ in range(2):
        now.callback.poll(now.tune)
        assert now.states() == ["PAUSED", "RUNNING"], "the other one would not be enough"
    assert now.trials[0].slots == 4
    assert whole not in now.tune.live


def test_a_journal_remembers_it_and_counts_all_of_its_slots(
    searching: Callable[..., Search], tmp_path: Path, stopwatch: Stopwatch
) -> None:
    now = searching()
    stopwatch.seconds += 10
    first = now.tune.start()
    stopwatch.seconds += 100
    now.tune.fail(first, EXCEEDED, tmp_path)
    assert now.recorder.clock.slot_seconds() == 100
    again = now.tune.start()
    stopwatch.seconds += 50
    assert now.recorder.clock.slot_seconds() == 100 + 4 * 50
    now.tune.report(again, 1, 0.5)
    stopwatch.seconds += 10
    assert now.recorder.clock.slot_seconds() == 100 + 4 * 60
    entry = next(
        one
        for one in map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
        if one["event"] == "retried"
    )
    assert {name: entry[name] for name in ("restarts", "slots", "kind")} == {
        "restarts": 0,
        "slots": 4,
        "kind": "OUT_OF_MEMORY",
    }
    after = searching(2)
    assert after.recorder.clock.slot_seconds() == 100 + 4 * 50, "up to the newest event"
    assert after.tune.start().config == {"trial": 0, "epoch": 1, "data": None, "slots": 4}
    stopwatch.seconds += 1
    assert after.recorder.clock.slot_seconds() == 100 + 4 * 51


def test_its_idle_neighbors_release_their_part_of_the_gpu(searching: Callable[..., Search], tmp_path: Path) -> None:
    now = searching()
    exceed(now, tmp_path)
    assert now.callback._decide().release_idle
    now.tune.finish(now.tune.start(), 0.5)
    assert not now.callback._decide().release_idle


@pytest.mark.parametrize(
    ("gpus", "slots"), [(0, 1), (0.01, 99), (0.25, 4), (0.3333, 3), (0.4, 3), (0.5, 2), (0.6, 2), (1, 1), (2, 1)]
)
def test_slots_of_a_gpu(gpus: float, slots: int) -> None:
    assert slots_of_gpu(gpus) == slots


def test_controls_of_a_changed_limit_apply(searching: Callable[..., Search], tmp_path: Path) -> None:
    """Fewer trials at a time than slots of a GPU: the trial still gets it, and then the limit holds again."""
    now = searching()
    exceed(now, tmp_path)
    now.service.directives = Directives(slots=8, controls=Controls(num_samples=12, max_concurrent_trials=1))
    assert now.tune.report(now.tune.live[0], 2, 0.5) == "STOP"
    now.tune.finish(now.tune.start(), 0.5)
    assert now.states() == ["COMPLETED", "PAUSED"]
    assert now.tune.start().config["trial"] == 1
    assert now.tune.start() is None
