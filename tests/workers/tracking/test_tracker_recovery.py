"""The tracker after a crash: the cursor or entries of the journal are lost, and MLflow has no duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search_spaces.protocol import RunStatus
from search_spaces.storage.folder import FolderStorage
from tests.support.tracking import (
    BuildTracker,
    assert_delivered,
    record_trials,
    train,
    trial_runs,
)
from tests.support.workers import OpenRecorder
from workers.state.recorder import Recorder
from workers.tracking.summary import Summary


def test_a_crash_between_sending_and_saving_the_cursor_leaves_no_duplicates(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, tmp_path: Path
) -> None:
    cursor = tmp_path / "tracking.json"
    record_trials(recorder, range(2))
    assert tracker().deliver()
    older = cursor.read_text()
    record_trials(recorder, range(2, 4))
    assert tracker(1).deliver()
    beyond = json.dumps(json.loads(older) | {"offset": 2**63 - 1})
    for stale in (older, "{ torn", json.dumps(["no cursor"]), "[" * 200_000, beyond, None):
        if stale is None:
            cursor.unlink()
        else:
            cursor.write_text(stale)
        assert tracker(2).deliver()
        assert_delivered(client, recorder)


@pytest.mark.parametrize(("lost", "cursor"), [("tail", "kept"), ("middle", "kept"), ("all", "kept"), ("tail", "lost")])
def test_epochs_that_the_journal_lost_are_not_sent_twice(
    client: MlflowClient,
    tracker: BuildTracker,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    lost: str,
    cursor: str,
) -> None:
    """A power failure takes its last lines, or damage all from a line on; they are trained again, and later."""
    path = tmp_path / "journal.jsonl"
    first = open_recorder()
    record_trials(first, range(3))
    first.record_suggestion(3, {}, {"lr": 0.4, "momentum": "n/a"})
    first.record_epoch(3, 1, {"validation_accuracy": 0.1, "lr": 0.1})
    assert tracker().deliver()
    runs = {number: run.info.run_id for number, run in trial_runs(client).items()}
    first.close()
    lines = path.read_bytes().splitlines(keepends=True)
    keep = {"tail": len(lines) - 1, "middle": 7, "all": 1}[lost]
    left = b"".join(lines[:keep]) + (b"" if lost == "tail" else b"damaged\n") + b"".join(lines[keep + 1 :])
    for file in (path, FolderStorage(tmp_path).journal.copy):
        file.write_bytes(left)
    if cursor == "lost":
        (tmp_path / "tracking.json").unlink()
    for attempt in (2, 3):  # the second attempt is cut short as well
        recorder = open_recorder(attempt)
        for number in range(4):
            if number not in recorder.table.trials:
                recorder.record_suggestion(number, {}, {"lr": 0.1 * (number + 1), "momentum": "n/a"})
            if not recorder.table.trials[number].ended and attempt == 3:
                train(recorder, number, 3 - recorder.table.trials[number].epoch)
        assert tracker(attempt).deliver()
        assert tracker(attempt).deliver()
    assert_delivered(client, recorder)
    assert {number: run.info.run_id for number, run in trial_runs(client).items()} == runs


def test_the_run_of_a_configuration_that_the_journal_lost_is_replaced(
    client: MlflowClient, tracker: BuildTracker, open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    first = open_recorder()
    record_trials(first, range(2))
    assert tracker().deliver()
    before = trial_runs(client)
    first.close()
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for file in (path, FolderStorage(tmp_path).journal.copy):
        file.write_bytes(b"".join([*lines[:5], b"damaged\n", *lines[6:]]))
    recorder = open_recorder(2)
    recorder.record_suggestion(1, {}, {"lr": 7.0, "momentum": "n/a"})
    train(recorder, 1, 2)
    assert tracker(2).deliver()
    assert_delivered(client, recorder)
    after = trial_runs(client)
    assert (after[0].info.run_id, after[1].data.params["lr"]) == (before[0].info.run_id, "7.0")
    assert client.get_run(before[1].info.run_id).info.lifecycle_stage == "deleted"


def test_runs_after_the_first_block_are_found(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, tmp_path: Path
) -> None:
    """The cursor is lost, and the journal is longer than what is read at once."""
    record_trials(recorder, range(6))
    assert tracker(block_bytes=700).deliver()
    (tmp_path / "tracking.json").unlink()
    assert tracker(2, block_bytes=700).deliver()
    assert_delivered(client, recorder)


def test_a_run_of_a_trial_that_the_journal_lost_is_deleted_at_the_end(
    client: MlflowClient, tracker: BuildTracker, open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    first = open_recorder()
    record_trials(first, range(3))
    assert tracker().deliver()
    first.close()
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for file in (path, FolderStorage(tmp_path).journal.copy):
        file.write_bytes(b"".join([*lines[:9], b"damaged\n", *lines[10:]]))
    recorder = open_recorder(2)
    assert set(recorder.table.trials) == {0, 1}
    one = tracker(2)
    one.finish()
    one.end_parent_run(Summary(RunStatus.FINISHED, {}, {}))
    assert_delivered(client, recorder)
    assert set(one.ids().runs) == {0, 1}
