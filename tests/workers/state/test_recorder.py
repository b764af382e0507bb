"""Recorder: the table of trials equals the fold over the journal, at any point of an experiment's life."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.objective import Objective
from search_spaces.protocol import ErrorKind, TrialState, Winner
from search_spaces.storage.base import WriterFencedError
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import OpenRecorder, Stopwatch
from workers.state.events import EpochFinished, TrialEnded, TrialSuggested
from workers.state.recorder import MissingEpochError, Recorder

MAX, MIN = Objective(), Objective.model_validate({"metric": "validation_loss"})


def accuracy(value: float, seconds: float = 1.0) -> dict[str, float]:
    return {"validation_accuracy": value, "epoch_seconds": seconds}


def test_a_trials_life(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {"lr": 0.1}, {"lr": 0.1})
    assert [trial.number for trial in recorder.table.waiting()] == [0]
    recorder.mark_started(0)
    assert recorder.table.trials[0].state == TrialState.RUNNING
    assert recorder.record_epoch(0, 1, accuracy(0.5))
    assert recorder.record_epoch(0, 2, accuracy(0.4), (TrialState.COMPLETED, "done"))
    trial = recorder.table.trials[0]
    assert (trial.state, trial.stop_reason, trial.curve, trial.best_value) == ("COMPLETED", "done", [0.5, 0.4], 0.5)
    assert trial.ended_at is not None
    assert list(recorder.table.waiting()) == []


def test_an_epoch_counts_once(tmp_path: Path, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    assert recorder.record_epoch(0, 1, accuracy(0.5))
    assert not recorder.record_epoch(0, 1, accuracy(0.9))
    assert recorder.table.trials[0].curve == [0.5]
    recorder.record_end(0, TrialState.CANCELED, "enough")
    assert not recorder.record_epoch(0, 2, accuracy(0.9), (TrialState.COMPLETED, "late"))
    recorder.record_end(0, TrialState.ERROR, "later")
    assert (recorder.table.trials[0].state, recorder.table.trials[0].stop_reason) == ("CANCELED", "enough")
    assert sum(entry["event"] == "epoch" for entry in FolderStorage(tmp_path).journal.entries()) == 1


def test_results_are_synced_before_anything_follows_from_them(
    tmp_path: Path, open_recorder: OpenRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints survive a power failure, so epochs must. The journal's copy is made up from it."""
    recorder, stored = open_recorder(), Counter[int]()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        stored[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", noted)
    file = tmp_path / "journal.jsonl"
    recorder.record_suggestion(0, {}, {})
    assert stored == {}, "what can be proposed again need not wait for the disk"
    for tell in (
        lambda: recorder.record_epoch(0, 1, accuracy(0.5)),
        lambda: recorder.record_end(0, TrialState.CANCELED, "enough"),
        lambda: recorder.record_winner(Winner(trial=0, value=0.5, test_accuracy=0.5, test_loss=1.0)),
    ):
        tell()
        assert stored == {file.stat().st_ino: file.stat().st_size}


@pytest.mark.parametrize(("objective", "best"), [(MAX, 1), (MIN, 0)])
def test_best_is_the_earlier_of_equals(open_recorder: OpenRecorder, objective: Objective, best: int) -> None:
    recorder = open_recorder(objective=objective)
    for number, value in enumerate((0.1, 0.9, 0.9, 0.1, math.nan)):
        recorder.record_suggestion(number, {}, {})
        recorder.record_epoch(number, 1, {objective.metric: value})
    found = recorder.table.best()
    assert found is not None
    assert found.number == best


def test_a_diverged_epoch_is_never_the_best(open_recorder: OpenRecorder) -> None:
    """Its accuracy may be finite, but there are no weights to go with it."""
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    recorder.record_epoch(0, 1, accuracy(0.1), (TrialState.DIVERGED, "the loss was not finite"))
    assert recorder.table.best() is None
    assert [math.isnan(value) for _, _, value in recorder.table.history()] == [True]
    recorder.close()
    assert open_recorder(2).table.best() is None


def test_updates_have_null_for_values_that_are_not_finite(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {"lr": 1.0})
    recorder.record_epoch(0, 1, accuracy(math.nan) | {"train_loss": math.inf}, (TrialState.DIVERGED, "nan"))
    line = recorder.update_of(0)
    assert line.metrics == {"validation_accuracy": None, "epoch_seconds": 1.0, "train_loss": None}
    assert (line.best_value, line.best_epoch, line.epoch, line.parameters) == (None, None, 1, {"lr": 1.0})


@pytest.mark.parametrize(("objective", "best_epoch"), [(MAX, 3), (MIN, 4)])
def test_an_update_names_the_epoch_of_its_best_value(
    open_recorder: OpenRecorder, objective: Objective, best_epoch: int
) -> None:
    recorder = open_recorder(objective=objective)
    recorder.record_suggestion(0, {}, {})
    assert recorder.update_of(0).best_epoch is None
    for epoch, value in enumerate((0.4, math.nan, 0.9, 0.2, 0.9, 0.2), start=1):
        recorder.record_epoch(0, epoch, {objective.metric: value})
    assert recorder.update_of(0).best_epoch == best_epoch


def test_an_epoch_after_a_missing_one_is_not_recorded(tmp_path: Path, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    recorder.record_epoch(0, 1, accuracy(0.5))
    size = (tmp_path / "journal.jsonl").stat().st_size
    with pytest.raises(MissingEpochError, match="trial 0 reports epoch 3, but never reported epoch 2"):
        recorder.record_epoch(0, 3, accuracy(0.7))
    assert recorder.table.trials[0].curve == [0.5]
    assert (tmp_path / "journal.jsonl").stat().st_size == size


def test_a_trial_that_released_its_slot_waits_first(open_recorder: OpenRecorder) -> None:
    """Also after a crash. One that waited for a slot gave none back."""
    recorder = open_recorder()
    for number in range(4):
        recorder.record_suggestion(number, {}, {})
    for number in (1, 3):
        recorder.mark_started(number)
        recorder.mark_slot_taken(number)
        recorder.record_epoch(number, 1, accuracy(0.5))
        recorder.record_release(number)
    for number in (0, 3):
        recorder.mark_started(number)
        recorder.record_release(number)
    for known in (recorder, open_recorder(2)):
        assert [known.table.trials[number].state for number in range(4)] == ["PENDING", "PAUSED", "PENDING", "PAUSED"]
        assert [trial.number for trial in known.table.waiting()] == [1, 3, 0, 2]


def test_a_trial_starts_when_it_takes_a_slot(open_recorder: OpenRecorder, stopwatch: Stopwatch) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    recorder.mark_started(0)
    stopwatch.seconds += 60
    assert (recorder.update_of(0).started_at, recorder.clock.elapsed_s()) == (None, 0.0)
    recorder.mark_slot_taken(0)
    stopwatch.seconds += 5
    assert (recorder.update_of(0).started_at, recorder.clock.elapsed_s()) == (1060.0, 5.0)


def test_only_the_time_of_drivers_counts(open_recorder: OpenRecorder, stopwatch: Stopwatch) -> None:
    first = open_recorder()
    for number in range(2):
        first.record_suggestion(number, {}, {})
        first.mark_started(number)
    stopwatch.seconds += 100  # no slot is free
    first.mark_slot_taken(0)
    stopwatch.seconds += 10
    first.record_epoch(0, 1, accuracy(0.5, seconds=8.0))
    stopwatch.seconds += 3
    first.mark_slot_taken(1)
    assert first.clock.elapsed_s() == 13
    first.record_release(0)
    stopwatch.seconds += 4  # of which nobody knows when this driver dies
    assert first.clock.elapsed_s() == 17
    second = open_recorder(400)  # days later
    assert second.clock.elapsed_s() == 13
    stopwatch.seconds += 6
    assert second.clock.elapsed_s() == 19
    second.record_epoch(0, 2, accuracy(0.5))
    assert open_recorder(401).clock.elapsed_s() == 19


def test_no_time_passes_while_the_search_has_no_slot(open_recorder: OpenRecorder, stopwatch: Stopwatch) -> None:
    first = open_recorder()
    first.rest(True)  # before the first trial nothing is counted, and nothing is written
    for number in range(2):
        first.record_suggestion(number, {}, {})
    first.mark_started(0)
    first.mark_slot_taken(0)
    stopwatch.seconds += 5
    first.record_epoch(0, 1, accuracy(0.5))
    first.record_release(0)
    stopwatch.seconds += 2
    first.rest(True)
    stopwatch.seconds += 100
    first.rest(True)
    assert first.clock.elapsed_s() == 7
    first.rest(False)
    stopwatch.seconds += 3
    assert first.clock.elapsed_s() == 10
    first.rest(True)
    stopwatch.seconds += 50
    first.record_end(1, TrialState.CANCELED, "canceled on request")
    first.rest(True)
    stopwatch.seconds += 50
    assert first.clock.elapsed_s() == 10
    assert open_recorder(2).clock.elapsed_s() == 10, "the journal has it all"


def test_setting_the_wall_clock_changes_no_time(tmp_path: Path, stopwatch: Stopwatch) -> None:
    """Ahead by an hour within an attempt, and back by days before the next."""
    journal, now = FolderStorage(tmp_path).journal, 1e9
    recorder = Recorder(journal, MAX, 1, lambda: now, stopwatch)
    recorder.record_suggestion(0, {}, {})
    recorder.mark_slot_taken(0)
    now += 3600
    stopwatch.seconds += 5
    recorder.record_epoch(0, 1, accuracy(0.5))
    recorder.close()
    now -= 1e6
    again = Recorder(journal, MAX, 2, lambda: now, stopwatch)
    stopwatch.seconds += 2
    again.record_epoch(0, 2, accuracy(0.5))
    again.close()
    third = Recorder(journal, MAX, 3, lambda: now, stopwatch)
    third.close()
    assert third.clock.elapsed_s() == 7
    times = [entry["at"] for entry in journal.entries() if entry["event"] == "epoch"]
    assert times == [1e9 + 5, 1e9 + 7]


def test_changed_trials_are_taken_once_and_put_back(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    assert recorder.take_changed() == {0}
    assert recorder.take_changed() == set()
    recorder.record_suggestion(1, {}, {})
    recorder.put_back({0})
    assert recorder.take_changed() == {0, 1}
    recorder.mark_started(1)
    recorder.record_release(1)
    assert recorder.take_changed() == {1}
    assert recorder.table.trials[1].state == TrialState.PENDING


def test_after_a_crash_all_trials_count_as_changed_and_none_runs(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    for number in range(3):
        recorder.record_suggestion(number, {}, {})
        recorder.mark_started(number)
    recorder.record_end(1, TrialState.ERROR, "out of memory")
    recorder.close()
    again = open_recorder(2)
    assert again.take_changed() == {0, 1, 2}
    assert [trial.number for trial in again.table.waiting()] == [0, 2]


def test_a_retried_trial_waits_again(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    recorder.mark_started(0)
    recorder.record_retry(0, ErrorKind.LOST, "the node was lost")
    recorder.record_retry(0, ErrorKind.OUT_OF_MEMORY, "CUDA out of memory")
    assert [trial.number for trial in recorder.table.waiting()] == [0]
    recorder.record_end(0, TrialState.ERROR, "no such layer", ErrorKind.CODE)
    recorder.record_retry(0, ErrorKind.LOST, "late")
    for known in (recorder, open_recorder(2)):
        line = known.update_of(0)
        assert (line.restarts, line.error_kind, line.state) == (2, ErrorKind.CODE, "ERROR")


def test_a_slot_is_held_from_start_to_end_of_its_process(open_recorder: OpenRecorder, stopwatch: Stopwatch) -> None:
    """Epochs in flight, lost epochs and waiting for the first step count; waiting for a slot does not."""
    recorder = open_recorder()
    for number in range(3):
        recorder.record_suggestion(number, {}, {})
        recorder.mark_started(number)
    stopwatch.seconds += 100
    recorder.mark_slot_taken(0)
    recorder.mark_slot_taken(1)
    stopwatch.seconds += 10
    assert recorder.clock.slot_seconds() == 20
    recorder.record_epoch(0, 1, accuracy(0.5, seconds=3.0))
    recorder.record_retry(1, ErrorKind.LOST, "its node was lost")
    stopwatch.seconds += 5
    assert recorder.clock.slot_seconds() == 25
    recorder.record_end(0, TrialState.CANCELED, "enough")
    recorder.mark_started(1)
    recorder.mark_slot_taken(1)
    stopwatch.seconds += 2
    recorder.record_release(1)
    stopwatch.seconds += 50
    assert recorder.clock.slot_seconds() == 27
    again = open_recorder(2)
    assert again.clock.slot_seconds() == 27
    again.mark_started(1)
    again.mark_slot_taken(1)
    stopwatch.seconds += 1
    again.record_epoch(1, 1, accuracy(0.5))
    stopwatch.seconds += 1000  # nobody knows of the epoch that was in flight when this driver died
    assert open_recorder(3).clock.slot_seconds() == 28


def test_the_winner_is_restored(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    winner = Winner(trial=3, value=0.9, test_accuracy=0.8, test_loss=0.1, model_uri="models:/a/1")
    recorder.record_winner(winner)
    recorder.close()
    assert open_recorder(2).table.winner == winner


def test_a_superseded_driver_changes_nothing(open_recorder: OpenRecorder) -> None:
    old = open_recorder()
    old.record_suggestion(0, {"x": 1}, {})
    new = open_recorder(2)
    new.record_suggestion(1, {"x": 2}, {})
    with pytest.raises(WriterFencedError):
        old.record_suggestion(1, {"x": 3}, {})
    with pytest.raises(WriterFencedError):
        old.record_epoch(0, 1, accuracy(0.3))
    new.record_epoch(0, 1, accuracy(0.4))
    with pytest.raises(WriterFencedError):
        old.record_end(0, TrialState.CANCELED, "fenced")
    third = open_recorder(3)
    assert third.table.trials[0].curve == [0.4]
    assert third.table.trials[0].state == TrialState.PENDING
    assert third.table.trials[1].sample == {"x": 2}


def test_trials_are_imported_all_or_none(tmp_path: Path, open_recorder: OpenRecorder) -> None:
    events = [
        TrialSuggested(at=5.0, trial=0, source="old/3", sample={"x": 1}, parameters={}),
        EpochFinished(at=7.0, trial=0, source="old/3", epoch=1, metrics=accuracy(0.5)),
        TrialEnded(at=8.0, trial=0, source="old/3", state=TrialState.COMPLETED, reason="done"),
    ]
    recorder = open_recorder()
    recorder.record_import(events)
    recorder.close()
    journal = FolderStorage(tmp_path).journal
    whole = journal.path.read_bytes()
    again = open_recorder(2)
    assert again.table.trials == recorder.table.trials
    assert (again.table.trials[0].source, again.clock.slot_seconds(), again.clock.elapsed_s()) == ("old/3", 0.0, 0.0)
    assert list(again.table.history()) == [(0, 1, 0.5)]
    assert [entry["event"] for entry in journal.entries()][:4] == ["attempt", "suggested", "epoch", "ended"]
    for file in (journal.path, journal.copy):
        file.write_bytes(whole[:-20])
    assert open_recorder(2).table.trials == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("sessserdhl"), st.floats(width=16)), max_size=60))
def test_replay_equals_the_table(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, float]]) -> None:
    folder = tmp_path_factory.mktemp("fold")
    recorder = Recorder(FolderStorage(folder).journal, MAX)
    for number, kind, value in steps:
        if number not in recorder.table.trials:
            recorder.record_suggestion(number, {"x": number}, {"x": number})
        epoch = recorder.table.trials[number].epoch + 1
        match kind:
            case "s":
                recorder.record_epoch(number, epoch, accuracy(value))
            case "e":
                recorder.record_epoch(number, epoch, accuracy(value), (TrialState.EARLY_STOPPED, "rung"))
            case "r" if not recorder.table.trials[number].ended:
                recorder.record_retry(number, ErrorKind.OUT_OF_MEMORY, "again")
            case "h":
                recorder.mark_started(number)
                recorder.mark_slot_taken(number)
            case "l":
                recorder.record_release(number)
            case "d":
                recorder.record_epoch(number, epoch, accuracy(value), (TrialState.DIVERGED, "diverged"))
    for trial in list(recorder.table.waiting()):
        recorder.record_release(trial.number)
    for trial in recorder.table.trials.values():
        if trial.state == TrialState.RUNNING:
            recorder.record_release(trial.number)
        trial.started_at = None  # of a hand-out, which is not journaled
    again = Recorder(FolderStorage(folder).journal, MAX, 2)
    for trial in again.table.trials.values():
        trial.started_at = None
    assert repr(again.table.trials) == repr(recorder.table.trials)
    assert repr(list(again.table.history())) == repr(list(recorder.table.history()))
    assert again.table.counts() == recorder.table.counts()
    assert repr(again.table.best()) == repr(recorder.table.best())
    recorder.close()
    again.close()
