"""The tracker of a superseded attempt: it writes nothing that belongs to its successor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search_spaces.protocol import RunStatus
from search_spaces.storage.folder_journal import FolderJournalWriter
from tests.support.tracking import (
    BuildTracker,
    HangingClient,
    assert_delivered,
    record_trials,
    train,
    trial_runs,
)
from tests.support.workers import OpenRecorder
from workers.state.recorder import Recorder
from workers.tracking.connection import SupersededError
from workers.tracking.summary import Summary


def test_a_fenced_tracker_writes_nothing(client: MlflowClient, tracker: BuildTracker, recorder: Recorder) -> None:
    record_trials(recorder, range(1))
    old = tracker(superseded=lambda: True)
    assert not old.deliver()
    with pytest.raises(SupersededError):
        old.end_parent_run(Summary(RunStatus.FINISHED, {}, {}))
    assert trial_runs(client) == {}


def test_entries_of_a_superseded_driver_are_not_sent(
    client: MlflowClient,
    tracker: BuildTracker,
    recorder: Recorder,
    open_recorder: OpenRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It writes at a moment at which it cannot know yet.
    monkeypatch.setattr(FolderJournalWriter, "_check_not_fenced", lambda *_: None)
    record_trials(recorder, range(1))
    assert tracker().deliver()
    new = open_recorder(2)
    record_trials(recorder, range(1, 3))
    new.record_suggestion(1, {}, {"lr": 9.0, "momentum": "n/a"})
    train(new, 1, 2)
    assert tracker(2).deliver()
    assert_delivered(client, new)


def test_entries_of_a_successor_are_left_to_it(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    """The old driver does not know yet that it is superseded."""
    old = tracker()
    record_trials(recorder, range(1))
    assert old.deliver()
    cursor = (tmp_path / "tracking.json").read_bytes()
    new = open_recorder(2)
    record_trials(new, range(1, 2))
    assert not old.deliver()
    for write in (old.finish, lambda: old.end_parent_run(Summary(RunStatus.FINISHED, {}, {}))):
        with pytest.raises(SupersededError):
            write()
    assert set(trial_runs(client)) == {0}
    assert (tmp_path / "tracking.json").read_bytes() == cursor
    successor = tracker(2)
    assert successor.deliver()
    assert_delivered(client, new)
    assert not tracker(1).deliver(), "nor by one that starts after its successor's delivery"


def test_nothing_is_written_after_it_is_closed(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, tmp_path: Path
) -> None:
    """MLflow hangs while the driver stops, and answers when another attempt may run."""
    one = tracker()
    record_trials(recorder, range(1))
    assert one.deliver()
    cursor = (tmp_path / "tracking.json").read_bytes()
    hanging: Any = HangingClient(client, "log_batch")
    one.connection._client = hanging
    record_trials(recorder, range(1, 4))
    one.start()
    hanging.waits.wait()
    one.close()  # returns although the request is pending
    hanging.released.set()
    with pytest.raises(SupersededError):
        one.finish()
    runs = trial_runs(client)
    assert set(runs) == {0, 1}, "what was sent before is all there is"
    assert runs[1].info.status == "RUNNING"
    assert (tmp_path / "tracking.json").read_bytes() == cursor
    assert tracker(2).deliver()
    assert_delivered(client, recorder)
