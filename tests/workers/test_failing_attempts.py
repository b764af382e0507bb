"""Attempts that cannot run to their end: what is reported, what is kept, and what is not written."""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import ErrorKind, Phase, TrialState
from search_spaces.storage.folder import FolderStorage
from tests.support.attempts import (
    Attempted,
    journal_of,
    no_trials,
    one_trial,
)
from workers import driver, nodes
from workers.search.stop_conditions import Outcome
from workers.search.tune_callbacks import TuneCallback
from workers.state.recorder import Recorder


@pytest.mark.parametrize("behind", [False, True], ids=["itself", "behind Tune's error"])
def test_a_full_disk_blocks_the_experiment(attempt: Callable[..., Attempted], service: Any, behind: bool) -> None:
    def fill(recorder: Recorder, callback: TuneCallback) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/x/experiment_state.json")
        if behind:
            raise RuntimeError("Traceback\nRuntimeError: saving failed") from full
        raise full

    assert not attempt(fill).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason.startswith("the disk is full: ")


def test_a_disk_that_is_full_at_the_start_blocks_the_experiment(
    attempt: Callable[..., Attempted], service: Any, small_disk: Path
) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file:
        assert file.write(bytes(2**21)) < 2**21
    assert not attempt(no_trials, storage=str(small_disk)).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert final.reason.startswith("the disk is full: the journal cannot be opened: ")
    (small_disk / "filler").unlink()
    journal_of(small_disk).close()


def test_a_journal_that_cannot_be_opened_fails_the_attempt(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    assert not attempt(no_trials).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True), "another attempt would find the same"
    assert final.reason.startswith("the journal cannot be opened: ")


def test_the_journal_of_another_experiment_is_not_taken_for_its_own(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    other = Recorder(FolderStorage(tmp_path).journal, ExperimentSpec(name="x").objective, 1, experiment="exp-2")
    other.record_suggestion(0, {}, {})
    other.record_end(0, TrialState.COMPLETED, "done")
    other.close()
    assert not attempt(no_trials, attempt=2, trials=1).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert final.reason == (
        f"the journal in {tmp_path} cannot be used: it is the journal of experiment exp-2. "
        "Put that of this experiment back, then resume."
    )


def test_a_folder_without_the_known_trials_is_not_written(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    assert not attempt(no_trials, trials=3).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert (
        final.reason
        == f"there is no journal in {tmp_path}, although the service has 3 trials of this experiment. Check "
        "that RUNG_STORAGE_ROOT is correct and mounted on this node."
    )
    assert list(tmp_path.glob("journal*")) == []


def test_trials_that_the_journal_lost_are_logged(
    attempt: Callable[..., Attempted], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(recorder: Recorder, callback: TuneCallback) -> None:
        """All known trials have ended."""

    before = journal_of(tmp_path, 1)
    before.record_suggestion(0, {}, {})
    before.record_end(0, TrialState.COMPLETED, "done")
    before.close()
    attempt(nothing, attempt=2, trials=3)
    assert "2 of 3 trials are missing from the damaged journal; they will be proposed again" in caplog.text
    caplog.clear()
    attempt(nothing, attempt=3, trials=1)
    assert "were lost" not in caplog.text


def test_another_error_fails_only_this_attempt(attempt: Callable[..., Attempted], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        raise ValueError("Traceback\n  ...\nno cluster")

    assert not attempt(fail).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.reason) == ("paused", False, "ValueError: no cluster")


@pytest.mark.parametrize("wrong", ["version", "marker"])
def test_a_driver_on_a_node_that_cannot_be_used_blocks_the_experiment(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "VISIBLE_PAUSE_S", 0.0)
    given = {"version": "0.0.1"} if wrong == "version" else {"marker": "that of the service"}
    assert not attempt(no_trials, **given).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason.startswith(f"node {platform.node()} ")
    assert ("the experiment runs with 0.0.1" if wrong == "version" else "RUNG_STORAGE_ROOT") in final.reason
    assert not (tmp_path / "journal.jsonl").exists()


@pytest.mark.parametrize("through_tune", [False, True])
def test_a_driver_whose_storage_is_gone_blocks_the_experiment(
    attempt: Callable[..., Attempted],
    service: Any,
    tmp_path: Path,
    through_tune: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "VISIBLE_PAUSE_S", 0.0)
    root = tmp_path / "root"
    storage = FolderStorage(root / "x")
    storage.root.mkdir(parents=True)
    storage.artifacts.write(NAMES.marker, b"m")

    def lose(recorder: Recorder, callback: TuneCallback) -> None:
        root.rename(tmp_path / "elsewhere")
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "spec.json")
        raise RuntimeError(f"Traceback\nFileNotFoundError: {missing}") if through_tune else missing

    assert not attempt(lose, storage=str(storage.root), marker="m").succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True), "another attempt would find the same"
    assert final.reason.startswith(f"node {platform.node()} does not see RUNG_STORAGE_ROOT {root}: ")


def test_a_driver_that_does_not_see_its_launch_file_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = tmp_path / "abc"
    with pytest.raises(SystemExit) as exited:
        driver.main([str(storage), "1"])
    assert exited.value.code == 1
    assert caplog.messages == [
        f"node {platform.node()} does not see RUNG_STORAGE_ROOT {tmp_path}: {storage}/launch-a1.json: "
        "No such file or directory"
    ]
    assert not storage.exists()


def test_a_search_that_was_interrupted_is_paused(attempt: Callable[..., Attempted], service: Any) -> None:
    def suggest(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(0, {}, {})

    assert not attempt(suggest).succeeded
    final = service.heard[-1]
    assert (final.phase, final.reason) == ("paused", "the search was interrupted: 0 of 1 trial has ended")


def test_no_trial_is_reported_as_running_after_a_failure(attempt: Callable[..., Attempted], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        for number in range(3):
            recorder.record_suggestion(number, {}, {})
        for number in range(2):
            recorder.mark_started(number)
        recorder.mark_slot_taken(0)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert not attempt(fail).succeeded
    reported = {update.trial: update.state for said in service.heard for update in said.trials}
    assert reported == {0: "PAUSED", 1: "PENDING", 2: "PENDING"}


def test_an_attempt_that_starts_after_a_later_one_says_so(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """The service ignores it from an attempt that it has replaced; otherwise its database is older than the journal."""
    journal_of(tmp_path, 40).close()
    assert not attempt(no_trials, attempt=9).succeeded
    (final,) = service.heard
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert final.reason == (
        f"the journal cannot be used: {tmp_path / 'journal.jsonl'}: writer 40 has started, so writer 9 must not write "
        "any more. "
        "The service's database is older than RUNG_STORAGE_ROOT: restore both from the same time, then resume."
    )
    assert [entry["number"] for entry in FolderStorage(tmp_path).journal.entries()] == [40]


def test_an_attempt_that_is_superseded_in_the_journal_sends_no_final_heartbeat(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """It learns so from the journal, before the service says it."""

    def supersede(recorder: Recorder, callback: TuneCallback) -> None:
        one_trial(recorder, callback)
        journal_of(tmp_path, 2).close()

    assert not attempt(supersede).succeeded
    assert {said.phase for said in service.heard} <= {"starting", "searching", "finalizing"}


def test_a_missing_source_blocks_the_experiment(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    assert not attempt(no_trials, source=str(tmp_path / "gone")).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason.startswith("cannot import the trials of the source experiment: its journal is missing. ")
    assert "gone" not in final.reason, "the source may be another team's"


def test_trials_with_which_the_experiment_failed_are_tried_again_once(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """A person has resumed it. What a person canceled, and what fails from then on, stays as it is."""

    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        for number in range(4):
            recorder.record_suggestion(number, {}, {})
        recorder.record_retry(0, ErrorKind.LOST, "the node died")
        recorder.record_end(0, TrialState.ERROR, "LOST after 1 restart: the node died", ErrorKind.LOST)
        recorder.record_end(1, TrialState.CANCELED, "canceled on request")
        callback.outcome = Outcome(Phase.FAILED, "budget.failures of 1 is used up")

    assert not attempt(fail).succeeded
    assert service.heard[-1].phase == "failed"
    states: list[list[str]] = []

    def again(recorder: Recorder, callback: TuneCallback) -> None:
        rows = recorder.table.trials.values()
        states.append([row.state for row in rows])
        assert [row.restarts for row in rows] == [0] * 4
        assert [row.ended_at is None for row in rows] == [True, False, True, True]
        recorder.record_end(0, TrialState.ERROR, "ValueError: still", ErrorKind.CODE)
        raise RuntimeError("the driver dies")

    attempt(again, attempt=2, failed_attempt=1)
    assert states == [["PENDING", "CANCELED", "PAUSED", "PAUSED"]]

    def once(recorder: Recorder, callback: TuneCallback) -> None:
        states.append([row.state for row in recorder.table.trials.values()])

    attempt(once, attempt=3, failed_attempt=1)
    assert states[1] == ["ERROR", "CANCELED", "PAUSED", "PAUSED"], "it failed after the experiment was resumed"


def test_without_a_resumption_failed_trials_stay_failed(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(0, {}, {})
        recorder.record_end(0, TrialState.ERROR, "ValueError: no", ErrorKind.CODE)

    attempt(fail)
    attempt(lambda recorder, callback: None, attempt=2)
    after = journal_of(tmp_path)
    assert after.table.trials[0].state == "ERROR"
    after.close()
