"""The Tune callback: directives, goal and budget end the right trials; checkpoints that are not needed go."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from search_spaces.controls import Controls
from search_spaces.protocol import Directives, TrialState
from search_spaces.storage.folder import FolderStorage
from tests.support.searches import Search
from tests.support.workers import BuildSpec, OpenRecorder, Stopwatch
from workers.search import stop_conditions
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.stop_conditions import Outcome
from workers.state import checkpoints
from workers.state.checkpoints import BEST, LAST
from workers.state.trial_table import TrialTable


def test_a_result_is_recorded_with_its_outcome(search: Callable[..., Search]) -> None:
    now = search()
    trial = now.tune.start()
    assert now.tune.report(trial, 1, 0.5) == TrialScheduler.CONTINUE
    for epoch in (2, 3):
        now.tune.report(trial, epoch, 0.6)
    assert now.tune.report(trial, 4, 0.7) == TrialScheduler.STOP
    row = now.recorder.table.trials[0]
    assert (row.state, row.stop_reason, row.curve) == ("COMPLETED", "all 4 epochs done", [0.5, 0.6, 0.6, 0.7])
    assert row.metrics == {"epoch_seconds": 1.0, "validation_accuracy": 0.7}
    assert now.service.changes == 5
    assert now.callback.outcome is None


def test_the_data_of_the_first_epoch_are_those_of_every_later_trial(
    search: Callable[..., Search], open_recorder: OpenRecorder
) -> None:
    """The journal has them: it is not as easily lost as a file that nothing repairs."""
    now = search()
    first, second = now.tune.start(), now.tune.start()
    assert first.config["data"] is None
    digests = {"train": "1", "test": "2"}
    now.tune.report(second, 0, math.nan, data={"train": "of a trial without an epoch"})
    now.tune.report(first, 1, 0.5, data=digests)
    now.tune.report(first, 2, 0.5, data={"train": "3"})
    assert now.tune.start().config["data"] == digests
    now.recorder.close()
    again = open_recorder(2)
    assert again.table.data == digests


def test_epochs_that_are_trained_again_are_in_the_notice(search: Callable[..., Search]) -> None:
    """Of trials whose checkpoints were exchanged, say. A result that is only reported again does not count."""
    now = search()
    first, second, third = (now.tune.start() for _ in range(3))
    for trial in (first, second, third):
        for epoch in (1, 2, 3):
            now.tune.report(trial, epoch, 0.5)
    assert now.callback.notice() == ""
    now.tune.report(first, 3, 0.5)
    now.tune.report(first, 0, math.nan)  # it left its first epoch
    assert now.callback.notice() == ""
    now.tune.report(second, 2, 0.5)
    told = "1 epoch of trial 1 is trained again, because newer checkpoints are missing or cannot be used"
    assert now.callback.notice() == told
    now.tune.report(second, 3, 0.5)
    assert now.callback.notice() == told
    now.tune.report(third, 1, 0.5, resumed_after=0)  # without any checkpoint
    assert now.callback.notice().startswith("4 epochs of 2 trials, the first of them trial 1, are trained again")


def test_a_trial_that_finishes_no_epoch_is_in_the_notice(search: Callable[..., Search], stopwatch: Stopwatch) -> None:
    """A process that is stopped, or a disk that hangs, ends no epoch and raises nothing."""
    now = search()
    first, second = now.tune.start(), now.tune.start()
    stopwatch.seconds = 601.0
    assert now.callback.notice().startswith(
        "trial 0 (and 1 other trial) has finished no epoch for 10 min, where no epoch of the search has ended yet: see "
    )
    now.tune.report(first, 1, 0.5)
    now.tune.report(second, 1, 0.5)
    stopwatch.seconds = 1100.0
    now.tune.report(second, 2, 0.5)
    assert now.callback.notice() == ""
    stopwatch.seconds = 1260.0
    told = (
        "trial 0 has finished no epoch for 11 min, where epochs take 1.0 s: "
        "see its log, or cancel it (`rung cancel ID --trial 0`)"
    )
    assert now.callback.notice() == told
    now.tune.report(first, 2, 0.5)
    assert now.callback.notice() == ""


def test_a_trial_of_long_epochs_has_longer_to_finish_one(search: Callable[..., Search], stopwatch: Stopwatch) -> None:
    now = search()
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5, epoch_seconds=100.0)
    stopwatch.seconds = 999.0
    assert now.callback.notice() == ""
    stopwatch.seconds = 1001.0
    assert now.callback.notice().startswith("trial 0 has finished no epoch for 17 min, where epochs take 100.0 s")


@pytest.mark.parametrize(
    ("stop", "phase", "state"), [("cancel", "canceled", "CANCELED"), ("pause", "paused", "PAUSED")]
)
def test_a_requested_stop_ends_all_trials(
    search: Callable[..., Search], tmp_path: Path, stop: Any, phase: str, state: str
) -> None:
    now = search()
    for _ in range(2):
        now.tune.start()
    now.service.directives = Directives(slots=4, stop=stop)
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert (now.callback.outcome.phase, now.callback.outcome.reason) == (phase, f"{phase} on request")
    assert now.tune.live == []
    assert now.states() == [state, state]
    assert len(list(tmp_path.rglob("stop"))) == 2
    assert now.callback.slots() == 0
    assert now.tune.start() == "FINISHED"


def test_a_requested_stop_is_applied_while_no_trial_runs(search: Callable[..., Search]) -> None:
    now = search()
    now.service.directives = Directives(slots=0)
    assert now.tune.start() is None
    now.service.directives = Directives(slots=0, stop="pause")
    assert now.tune.start() == "FINISHED"
    assert now.callback.outcome is not None
    assert now.callback.outcome.phase == "paused"


def test_one_trial_is_canceled_and_the_search_continues(search: Callable[..., Search]) -> None:
    now = search()
    first, second = now.tune.start(), now.tune.start()
    now.service.directives = Directives(slots=4, cancel_trials=[0, 77])
    now.callback.poll(now.tune)
    assert now.tune.live == [second]
    assert now.states() == ["CANCELED", "RUNNING"]
    assert now.recorder.table.trials[0].stop_reason == "canceled on request"
    assert now.callback.outcome is None
    assert now.files(first).stop.exists()
    assert not now.files(second).stop.exists()
    assert now.tune.start().config["trial"] == 2


def test_a_waiting_trial_is_canceled(search: Callable[..., Search]) -> None:
    now = search()
    now.tune.start()
    now.recorder.record_release(0)
    after = search(2)
    after.service.directives = Directives(slots=4, cancel_trials=[0])
    assert after.tune.start().config["trial"] == 1
    assert after.states() == ["CANCELED", "RUNNING"]


@pytest.mark.parametrize(
    ("objective", "short", "reached"),
    [
        ({"metric": "validation_accuracy", "goal": 0.9}, 0.89, 0.9),
        ({"metric": "validation_loss", "goal": 0.2}, 0.21, 0.2),
    ],
)
def test_reaching_the_goal_ends_the_search(
    search: Callable[..., Search], objective: dict[str, Any], short: float, reached: float
) -> None:
    now = search(objective=objective)
    trial, _ = now.tune.start(), now.tune.start()
    for epoch, value in enumerate((short, math.nan, reached), start=1):
        if math.isfinite(value):
            now.recorder.record_epoch(0, now.recorder.table.trials[0].epoch + 1, {objective["metric"]: value})
        now.callback.poll(now.tune)
        assert (now.callback.outcome is not None) == (value == reached), epoch
    assert now.callback.outcome is not None
    assert now.callback.outcome.phase == "completed"
    assert now.callback.outcome.reason == f"goal {objective['goal']:g} reached: trial 0 has {reached:.4f}"
    assert trial not in now.tune.live
    assert now.states() == ["COMPLETED", "CANCELED"]
    assert now.recorder.table.trials[0].stop_reason == f"goal {objective['goal']:g} reached at epoch 2"


def test_the_trial_that_reaches_the_goal_ends_in_an_entry_of_its_own(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    """So that a replay of the epochs decides as before. A trial that has yielded its slot ends in the same way."""
    now = search(objective={"goal": 0.9})
    trial, _ = now.tune.start(), now.tune.start()
    now.tune.report(trial, 1, 0.5)
    now.service.directives = Directives(slots=1)
    now.tune.report(trial, 2, 0.95)
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert outcome.of_trial(0) == (TrialState.COMPLETED, "goal 0.9 reached at epoch 2")
    assert outcome.of_trial(1) == (TrialState.CANCELED, "goal 0.9 reached: trial 0 has 0.9500")
    assert now.states() == ["PAUSED", "CANCELED"]
    now.recorder.record_end(0, *outcome.of_trial(0))
    entries = [entry for entry in FolderStorage(tmp_path).journal.entries() if entry.get("trial") == 0]
    assert [entry["event"] for entry in entries] == ["suggested", "epoch", "epoch", "released", "ended"]
    assert "state" not in entries[2]


def test_the_epoch_after_the_goal_is_asked_to_stop_before_it_starts(search: Callable[..., Search]) -> None:
    """Tune starts it before the next poll, by which a short epoch would be finished."""
    now = search(objective={"goal": 0.9})
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5)
    assert not now.files(trial).stop.exists()
    assert now.tune.report(trial, 2, 0.95) == TrialScheduler.CONTINUE
    assert now.files(trial).stop.exists()


def test_a_diverged_value_reaches_no_goal(search: Callable[..., Search]) -> None:
    now = search(objective={"goal": 0.5})
    now.tune.report(now.tune.start(), 1, 0.9, diverged=True)
    now.callback.poll(now.tune)
    assert now.states() == ["DIVERGED"]
    assert now.callback.outcome is None


def test_a_spent_wall_clock_ends_the_search(search: Callable[..., Search], stopwatch: Any) -> None:
    now = search(budget={"wall_clock": "1h"})
    stopwatch.seconds += 9999
    now.tune.start()
    stopwatch.seconds += 3599
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    stopwatch.seconds += 2
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.reason == "budget.wall_clock is used up: 3601 of 3600 s"


@pytest.mark.parametrize(("gpus", "spent"), [(0.5, True), (0.25, False), (0, False)])
def test_spent_gpu_hours_end_the_search(
    search: Callable[..., Search], stopwatch: Any, gpus: float, spent: bool
) -> None:
    now = search(budget={"gpu_hours": 1}, resources={"gpus_per_trial": gpus})
    now.tune.start()
    stopwatch.seconds += 7200  # in an unfinished epoch
    now.callback.poll(now.tune)
    assert (now.callback.outcome is not None) == spent
    if now.callback.outcome:
        assert now.callback.outcome.reason == "budget.gpu_hours is used up: 1 of 1 gpu hours"


def test_slot_hours_are_summed_over_trials_and_attempts(search: Callable[..., Search], stopwatch: Any) -> None:
    now = search(budget={"slot_hours": 3})
    for _ in range(2):
        now.tune.start()
    stopwatch.seconds += 3600
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    now.service.directives = Directives(slots=4, stop="pause")
    now.callback.poll(now.tune)
    after = search(2, budget={"slot_hours": 3})
    after.tune.start()
    stopwatch.seconds += 3599
    after.callback.poll(after.tune)
    assert after.callback.outcome is None
    stopwatch.seconds += 1
    after.callback.poll(after.tune)
    assert after.callback.outcome is not None
    assert after.callback.outcome.reason == "budget.slot_hours is used up: 3 of 3 slot hours"


def test_changed_controls_replace_those_of_the_spec_at_once(
    search: Callable[..., Search], experiment: BuildSpec
) -> None:
    now = search(searcher={"kind": "random", "num_samples": 2}, objective={"goal": 0.5})
    asked = Controls.of(experiment(searcher={"kind": "random", "num_samples": 2}, objective={"goal": 0.5}))

    def request(**changes: Any) -> None:
        controls = Controls.model_validate(asked.model_dump() | changes)
        now.service.directives = Directives(slots=4, controls=controls)

    first, second = now.tune.start(), now.tune.start()
    assert now.tune.start() is None  # two were asked for
    request(num_samples=4, goal=0.9)
    third = now.tune.start()
    assert third.config["trial"] == 2
    request(num_samples=4, goal=0.9, max_concurrent_trials=3)
    assert now.tune.start() is None
    request(num_samples=3, goal=0.9)
    assert now.tune.start() is None
    now.tune.report(first, 1, 0.7)  # the goal of the spec, but no longer the goal
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    for trial in (first, second, third):
        now.tune.finish(trial, 0.8)
    assert now.tune.start() == "FINISHED"
    assert now.searcher.done
    assert now.searcher.exhausted()
    request(num_samples=5, goal=0.9)
    assert not now.searcher.exhausted()
    request(num_samples=5, goal=0.75)
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.reason == "goal 0.75 reached: trial 0 has 0.8000"
    request(num_samples=5, goal=0.99)
    now.callback.poll(now.tune)
    assert now.callback.controls.goal == 0.75, "the controls under which the search ended"


def test_a_suggestion_looks_once_at_all_trials(search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    now = search(objective={"goal": 0.99})
    looks: list[TrialTable] = []
    best = TrialTable.best

    def counted(table: TrialTable) -> Any:
        looks.append(table)
        return best(table)

    monkeypatch.setattr(TrialTable, "best", counted)
    now.tune.start()
    assert len(looks) == 1


def test_a_grid_proposes_each_combination_only_once(search: Callable[..., Search], experiment: BuildSpec) -> None:
    changes: dict[str, Any] = {"searcher": "grid", "search_space": {"batch_size": {"choice": [16, 32, 64]}}}
    now = search(**changes)
    controls = Controls.of(experiment(**changes)).model_copy(update={"num_samples": 9})
    now.service.directives = Directives(slots=9, controls=controls)
    assert now.callback.num_samples() == 3
    for trial in [now.tune.start() for _ in range(3)]:
        now.tune.finish(trial, 0.5)
    assert now.tune.start() == "FINISHED"
    assert now.searcher.exhausted()


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_a_search_ends_when_each_configuration_was_tried(search: Callable[..., Search], kind: str) -> None:
    changes: dict[str, Any] = {
        "searcher": {"kind": kind, "num_samples": 9},
        "search_space": {"batch_size": {"choice": [16, 32, 64]}},
    }
    now = search(**changes)
    trials = [now.tune.start() for _ in range(3)]
    assert (now.callback.num_samples(), now.callback.why_fewer()) == (9, "")
    assert now.tune.start() is None, "trials run"
    for trial in trials:
        now.tune.finish(trial, 0.5)
    assert now.tune.start() == "FINISHED"
    assert now.searcher.exhausted()
    for after in (now, search(2, **changes)):
        assert after.tune.start() == "FINISHED"
        assert after.callback.num_samples() == 3
        why = after.callback.why_fewer()
        assert why == "every configuration of the search space was tried: 3 trials of num_samples=9"
        assert stop_conditions.exhausted(after.recorder.table, 3, why) == Outcome(reason=why)


def test_the_stopping_rule_after_a_crash_equals_the_one_before(
    search: Callable[..., Search], open_recorder: OpenRecorder
) -> None:
    """Trials cross, and one diverges with a finite accuracy between two others at the same rung."""
    now = search()
    trials = [now.tune.start() for _ in range(4)]
    now.tune.report(trials[2], 1, 0.6)
    now.tune.report(trials[1], 1, 0.9)
    now.tune.report(trials[3], 1, 0.95, diverged=True)
    now.tune.report(trials[0], 1, 0.1)
    now.tune.report(trials[1], 2, 0.92)
    now.recorder.close()
    after = search(2)
    resumed = after.tune.start()
    assert resumed.config["trial"] == 1  # the others have ended
    assert after.tune.report(resumed, 2, 0.92) == TrialScheduler.CONTINUE
    assert after.recorder.table.trials[1].curve == [0.9, 0.92]
    expected = now.verdict_on_the_worst()
    assert "0.6000, the cutoff for" in expected
    assert expected.endswith("of 4 earlier trials")
    assert after.verdict_on_the_worst() == expected


def test_a_tie_is_decided_by_loss_also_after_a_crash(search: Callable[..., Search]) -> None:
    now = search()
    first, second, third, _ = (now.tune.start() for _ in range(4))
    now.tune.report(first, 1, 0.5, validation_loss=1.0)
    assert now.tune.report(second, 1, 0.5, validation_loss=1.2) == TrialScheduler.STOP
    assert now.tune.report(third, 1, 0.5, validation_loss=1.05) == TrialScheduler.CONTINUE
    now.recorder.close()
    after = search(2)
    resumed = [after.tune.start() for _ in range(3)]
    assert [trial.config["trial"] for trial in resumed] == [0, 2, 3]
    assert after.tune.report(resumed[2], 1, 0.5, validation_loss=1.11) == TrialScheduler.STOP
    row = after.recorder.table.trials[3]
    assert row.state == TrialState.EARLY_STOPPED
    assert row.stop_reason == (
        "rung at epoch 1: validation_accuracy 0.5000 equals the cutoff for the best 1/2 of 3 earlier trials, "
        "and validation_loss 1.1100 is above 1.0500"
    )


def test_patience_counts_the_epochs_before_a_crash(search: Callable[..., Search]) -> None:
    patient = {"early_stopping": {"kind": "none", "patience": 2}, "max_epochs": 9}
    now = search(**patient)
    trial = now.tune.start()
    for epoch, value in enumerate((0.5, 0.7, 0.7), start=1):
        assert now.tune.report(trial, epoch, value) == TrialScheduler.CONTINUE
    now.recorder.close()
    after = search(2, **patient)
    resumed = after.tune.start()
    assert (resumed.config["trial"], resumed.config["epoch"]) == (0, 3)
    assert after.tune.report(resumed, 3, 0.7) == TrialScheduler.CONTINUE  # the epoch that the journal has
    assert after.tune.report(resumed, 4, 0.7) == TrialScheduler.STOP
    row = after.recorder.table.trials[0]
    assert (row.state, row.stop_reason) == (
        TrialState.EARLY_STOPPED,
        "no improvement for 2 epochs: validation_accuracy was 0.7000 at epoch 2",
    )


def test_only_the_best_weights_are_kept(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(max_epochs=1)
    for value in (0.5, 0.7, 0.6, 0.8):
        trial = now.tune.start()
        for name in (LAST, BEST):
            (now.files(trial).root / name).write_bytes(b"weights")
        now.tune.report(trial, 1, value)
    assert [path.parent.name for path in tmp_path.rglob(BEST)] == ["00003"]
    assert list(tmp_path.rglob(LAST)) == []


def test_the_files_of_an_ended_trial_are_looked_at_once(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many trials have ended by then, and also at the end of the search."""
    looked: list[list[int]] = []
    monkeypatch.setattr(checkpoints, "prune", lambda _, numbers, *rest, **named: looked.append(sorted(numbers)))
    now = search(max_epochs=1)
    keeper = CheckpointKeeper(FolderStorage(now.folder.root).artifacts, "best", now.recorder.table)
    for number, value in enumerate((0.5, 0.7, 0.6, 0.8)):
        now.recorder.record_suggestion(number, {}, {})
        now.recorder.record_epoch(number, 1, {"validation_accuracy": value}, (TrialState.COMPLETED, "done"))
        keeper.prune([number])
    keeper.finish(None)
    assert looked == [[0], [0, 1], [1, 2], [1, 3], [3]], "the leading one again, which another may replace"


def test_checkpoints_of_a_running_trial_are_kept(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    trial = now.tune.start()
    folder = now.files(trial).root
    (folder / LAST).write_bytes(b"state")
    now.service.directives = Directives(slots=4, stop="pause")
    now.callback.poll(now.tune)
    assert (folder / LAST).exists()
