"""Progress: the table of trials equals the fold over the journal, at any point of an experiment's life."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.experiment import Objective
from search_spaces.protocol import ErrorKind, TrialState, Winner
from workers.state import journal
from workers.state.trial_table import Gap, Progress

MAX, MIN = Objective(), Objective.model_validate({"metric": "validation_loss"})


OpenProgress = Callable[..., Progress]


def accuracy(value: float, seconds: float = 1.0) -> dict[str, float]:
    return {"validation_accuracy": value, "epoch_seconds": seconds}


def test_a_trials_life(open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {"lr": 0.1}, {"lr": 0.1})
    assert [trial.number for trial in progress.waiting()] == [0]
    progress.started(0)
    assert progress.trials[0].state == TrialState.RUNNING
    assert progress.epoch(0, 1, accuracy(0.5))
    assert progress.epoch(0, 2, accuracy(0.4), (TrialState.COMPLETED, "done"))
    trial = progress.trials[0]
    assert (trial.state, trial.stop_reason, trial.curve, trial.best_value) == ("COMPLETED", "done", [0.5, 0.4], 0.5)
    assert trial.ended_at is not None
    assert list(progress.waiting()) == []


def test_an_epoch_counts_once(tmp_path: Path, open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {})
    assert progress.epoch(0, 1, accuracy(0.5))
    assert not progress.epoch(0, 1, accuracy(0.9))
    assert progress.trials[0].curve == [0.5]
    progress.ended(0, TrialState.CANCELED, "enough")
    assert not progress.epoch(0, 2, accuracy(0.9), (TrialState.COMPLETED, "late"))
    progress.ended(0, TrialState.ERROR, "later")
    assert (progress.trials[0].state, progress.trials[0].stop_reason) == ("CANCELED", "enough")
    assert sum(entry["event"] == "epoch" for entry in journal.entries(tmp_path / "journal.jsonl")) == 1


def test_what_trials_told_is_stored_before_anybody_acts_on_it(
    tmp_path: Path, open_progress: OpenProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints survive a power failure, so epochs must. The journal's copy is made up from it."""
    progress, stored = open_progress(), Counter[int]()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        stored[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", noted)
    file = tmp_path / "journal.jsonl"
    progress.suggested(0, {}, {})
    assert stored == {}, "what can be proposed again need not wait for the disk"
    for tell in (
        lambda: progress.epoch(0, 1, accuracy(0.5)),
        lambda: progress.ended(0, TrialState.CANCELED, "enough"),
        lambda: progress.won(Winner(trial=0, value=0.5, test_accuracy=0.5, test_loss=1.0)),
    ):
        tell()
        assert stored == {file.stat().st_ino: file.stat().st_size}


@pytest.mark.parametrize(("objective", "best"), [(MAX, 1), (MIN, 0)])
def test_best_is_the_earlier_of_equals(open_progress: OpenProgress, objective: Objective, best: int) -> None:
    progress = open_progress(objective=objective)
    for number, value in enumerate((0.1, 0.9, 0.9, 0.1, math.nan)):
        progress.suggested(number, {}, {})
        progress.epoch(number, 1, {objective.metric: value})
    found = progress.best()
    assert found is not None
    assert found.number == best


def test_a_diverged_epoch_is_never_the_best(open_progress: OpenProgress) -> None:
    """Its accuracy may be finite, but there are no weights to go with it."""
    progress = open_progress()
    progress.suggested(0, {}, {})
    progress.epoch(0, 1, accuracy(0.1), (TrialState.DIVERGED, "the loss was not finite"))
    assert progress.best() is None
    assert [math.isnan(value) for _, _, value in progress.history()] == [True]
    progress.close()
    assert open_progress(2).best() is None


def test_lines_carry_null_for_what_is_not_finite(open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {"lr": 1.0})
    progress.epoch(0, 1, accuracy(math.nan) | {"train_loss": math.inf}, (TrialState.DIVERGED, "nan"))
    line = progress.line(0)
    assert line.metrics == {"validation_accuracy": None, "epoch_seconds": 1.0, "train_loss": None}
    assert (line.best_value, line.best_epoch, line.epoch, line.parameters) == (None, None, 1, {"lr": 1.0})


@pytest.mark.parametrize(("objective", "best_epoch"), [(MAX, 3), (MIN, 4)])
def test_a_line_names_the_epoch_of_its_best(open_progress: OpenProgress, objective: Objective, best_epoch: int) -> None:
    progress = open_progress(objective=objective)
    progress.suggested(0, {}, {})
    assert progress.line(0).best_epoch is None
    for epoch, value in enumerate((0.4, math.nan, 0.9, 0.2, 0.9, 0.2), start=1):
        progress.epoch(0, epoch, {objective.metric: value})
    assert progress.line(0).best_epoch == best_epoch


def test_an_epoch_after_a_gap_is_not_recorded_as_another(tmp_path: Path, open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {})
    progress.epoch(0, 1, accuracy(0.5))
    size = (tmp_path / "journal.jsonl").stat().st_size
    with pytest.raises(Gap, match="trial 0 tells of epoch 3, and epoch 2 was never told"):
        progress.epoch(0, 3, accuracy(0.7))
    assert progress.trials[0].curve == [0.5]
    assert (tmp_path / "journal.jsonl").stat().st_size == size


def test_a_trial_that_gave_its_slot_back_is_the_first_in_line(open_progress: OpenProgress) -> None:
    """Also after a crash. One that waited for a slot gave none back."""
    progress = open_progress()
    for number in range(4):
        progress.suggested(number, {}, {})
    for number in (1, 3):
        progress.started(number)
        progress.took_slot(number)
        progress.epoch(number, 1, accuracy(0.5))
        progress.released(number)
    for number in (0, 3):
        progress.started(number)
        progress.released(number)
    for known in (progress, open_progress(2)):
        assert [known.trials[number].state for number in range(4)] == ["PENDING", "PAUSED", "PENDING", "PAUSED"]
        assert [trial.number for trial in known.waiting()] == [1, 3, 0, 2]


def test_a_trial_begins_when_it_takes_a_slot(open_progress: OpenProgress, stopwatch: Any) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {})
    progress.started(0)
    stopwatch.seconds += 60
    assert (progress.line(0).started_at, progress.elapsed_s()) == (None, 0.0)
    progress.took_slot(0)
    stopwatch.seconds += 5
    assert (progress.line(0).started_at, progress.elapsed_s()) == (1060.0, 5.0)


def test_only_the_time_of_drivers_counts(open_progress: OpenProgress, stopwatch: Any) -> None:
    first = open_progress()
    for number in range(2):
        first.suggested(number, {}, {})
        first.started(number)
    stopwatch.seconds += 100  # no slot is free
    first.took_slot(0)
    stopwatch.seconds += 10
    first.epoch(0, 1, accuracy(0.5, seconds=8.0))
    stopwatch.seconds += 3
    first.took_slot(1)
    assert first.elapsed_s() == 13
    first.released(0)
    stopwatch.seconds += 4  # of which nobody knows when this driver dies
    assert first.elapsed_s() == 17
    second = open_progress(400)  # days later
    assert second.elapsed_s() == 13
    stopwatch.seconds += 6
    assert second.elapsed_s() == 19
    second.epoch(0, 2, accuracy(0.5))
    assert open_progress(401).elapsed_s() == 19


def test_a_clock_that_is_set_changes_no_time(tmp_path: Path, stopwatch: Any) -> None:
    """Ahead by an hour within an attempt, and back by days before the next."""
    path, now = tmp_path / "journal.jsonl", 1e9
    progress = Progress(path, MAX, 1, lambda: now, stopwatch)
    progress.suggested(0, {}, {})
    progress.took_slot(0)
    now += 3600
    stopwatch.seconds += 5
    progress.epoch(0, 1, accuracy(0.5))
    progress.close()
    now -= 1e6
    again = Progress(path, MAX, 2, lambda: now, stopwatch)
    stopwatch.seconds += 2
    again.epoch(0, 2, accuracy(0.5))
    again.close()
    third = Progress(path, MAX, 3, lambda: now, stopwatch)
    third.close()
    assert third.elapsed_s() == 7
    times = [entry["at"] for entry in journal.entries(path) if entry["event"] == "epoch"]
    assert times == [1e9 + 5, 1e9 + 7]


def test_changed_lines_are_told_once_and_put_back(open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {})
    assert progress.take_changed() == {0}
    assert progress.take_changed() == set()
    progress.suggested(1, {}, {})
    progress.put_back({0})
    assert progress.take_changed() == {0, 1}
    progress.started(1)
    progress.released(1)
    assert progress.take_changed() == {1}
    assert progress.trials[1].state == TrialState.PENDING


def test_after_a_crash_all_lines_are_new_and_no_trial_runs(open_progress: OpenProgress) -> None:
    progress = open_progress()
    for number in range(3):
        progress.suggested(number, {}, {})
        progress.started(number)
    progress.ended(1, TrialState.ERROR, "out of memory")
    progress.close()
    again = open_progress(2)
    assert again.take_changed() == {0, 1, 2}
    assert [trial.number for trial in again.waiting()] == [0, 2]


def test_a_failed_trial_waits_again(open_progress: OpenProgress) -> None:
    progress = open_progress()
    progress.suggested(0, {}, {})
    progress.started(0)
    progress.retried(0, ErrorKind.LOST, "the node was lost")
    progress.retried(0, ErrorKind.OUT_OF_MEMORY, "CUDA out of memory")
    assert [trial.number for trial in progress.waiting()] == [0]
    progress.ended(0, TrialState.ERROR, "no such layer", ErrorKind.CODE)
    progress.retried(0, ErrorKind.LOST, "late")
    for known in (progress, open_progress(2)):
        line = known.line(0)
        assert (line.restarts, line.error_kind, line.state) == (2, ErrorKind.CODE, "ERROR")


def test_a_slot_is_held_from_start_to_end_of_its_process(open_progress: OpenProgress, stopwatch: Any) -> None:
    """Epochs in flight, lost epochs and waiting for the first step count; waiting for a slot does not."""
    progress = open_progress()
    for number in range(3):
        progress.suggested(number, {}, {})
        progress.started(number)
    stopwatch.seconds += 100
    progress.took_slot(0)
    progress.took_slot(1)
    stopwatch.seconds += 10
    assert progress.slot_seconds() == 20
    progress.epoch(0, 1, accuracy(0.5, seconds=3.0))
    progress.retried(1, ErrorKind.LOST, "its node was lost")
    stopwatch.seconds += 5
    assert progress.slot_seconds() == 25
    progress.ended(0, TrialState.CANCELED, "enough")
    progress.started(1)
    progress.took_slot(1)
    stopwatch.seconds += 2
    progress.released(1)
    stopwatch.seconds += 50
    assert progress.slot_seconds() == 27
    again = open_progress(2)
    assert again.slot_seconds() == 27
    again.started(1)
    again.took_slot(1)
    stopwatch.seconds += 1
    again.epoch(1, 1, accuracy(0.5))
    stopwatch.seconds += 1000  # nobody knows of the epoch that was in flight when this driver died
    assert open_progress(3).slot_seconds() == 28


def test_the_winner_is_kept(open_progress: OpenProgress) -> None:
    progress = open_progress()
    winner = Winner(trial=3, value=0.9, test_accuracy=0.8, test_loss=0.1, model_uri="models:/a/1")
    progress.won(winner)
    progress.close()
    assert open_progress(2).winner == winner


def test_a_driver_that_was_given_up_changes_nothing(open_progress: OpenProgress) -> None:
    old = open_progress()
    old.suggested(0, {"x": 1}, {})
    new = open_progress(2)
    new.suggested(1, {"x": 2}, {})
    with pytest.raises(journal.Overtaken):
        old.suggested(1, {"x": 3}, {})
    with pytest.raises(journal.Overtaken):
        old.epoch(0, 1, accuracy(0.3))
    new.epoch(0, 1, accuracy(0.4))
    with pytest.raises(journal.Overtaken):
        old.ended(0, TrialState.CANCELED, "fenced")
    third = open_progress(3)
    assert third.trials[0].curve == [0.4]
    assert third.trials[0].state == TrialState.PENDING
    assert third.trials[1].sample == {"x": 2}


def test_trials_are_taken_over_all_or_none(tmp_path: Path, open_progress: OpenProgress) -> None:
    entries = [
        {"at": 5.0, "event": "suggested", "trial": 0, "sample": {"x": 1}, "parameters": {}, "source": "old/3"},
        {"at": 7.0, "event": "epoch", "trial": 0, "epoch": 1, "metrics": accuracy(0.5), "source": "old/3"},
        {"at": 8.0, "event": "ended", "trial": 0, "state": "COMPLETED", "reason": "done", "source": "old/3"},
    ]
    progress = open_progress()
    progress.taken_over(entries)
    progress.close()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    again = open_progress(2)
    assert again.trials == progress.trials
    assert (again.trials[0].source, again.trials[0].held_s, again.elapsed_s()) == ("old/3", 0.0, 0.0)
    assert list(again.history()) == [(0, 1, 0.5)]
    assert [entry["event"] for entry in journal.entries(path)][:4] == ["attempt", "suggested", "epoch", "ended"]
    for file in (path, journal.copy_of(path)):
        file.write_bytes(whole[:-20])
    assert open_progress(2).trials == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("sessserdhl"), st.floats(width=16)), max_size=60))
def test_replay_equals_the_table(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, float]]) -> None:
    folder = tmp_path_factory.mktemp("fold")
    progress = Progress(folder / "journal.jsonl", MAX)
    for number, kind, value in steps:
        if number not in progress.trials:
            progress.suggested(number, {"x": number}, {"x": number})
        epoch = progress.trials[number].epoch + 1
        match kind:
            case "s":
                progress.epoch(number, epoch, accuracy(value))
            case "e":
                progress.epoch(number, epoch, accuracy(value), (TrialState.EARLY_STOPPED, "rung"))
            case "r" if not progress.trials[number].ended:
                progress.retried(number, ErrorKind.OUT_OF_MEMORY, "again")
            case "h":
                progress.started(number)
                progress.took_slot(number)
            case "l":
                progress.released(number)
            case "d":
                progress.epoch(number, epoch, accuracy(value), (TrialState.DIVERGED, "diverged"))
    for trial in list(progress.waiting()):
        progress.released(trial.number)
    for trial in progress.trials.values():
        if trial.state == TrialState.RUNNING:
            progress.released(trial.number)
        trial.started_at = None  # of a hand-out, which is not journaled
    again = Progress(folder / "journal.jsonl", MAX, 2)
    for trial in again.trials.values():
        trial.started_at = None
    assert repr(again.trials) == repr(progress.trials)
    assert repr(list(again.history())) == repr(list(progress.history()))
    assert again.counts() == progress.counts()
    assert repr(again.best()) == repr(progress.best())
    progress.close()
    again.close()
