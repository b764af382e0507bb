"""Trials that fail, and disks that are full: no error ends Tune's loop."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from search_spaces.protocol import ErrorKind
from search_spaces.storage.folder import FolderArtifacts
from search_spaces.storage.folder_journal import FolderJournalWriter
from tests.support.clock import Clock
from tests.support.nodes import MemoryCluster
from tests.support.searches import Search
from tests.support.workers import launch_config
from workers.failures.classification import TrialError
from workers.nodes import AGAIN_S, Nodes
from workers.search.stop_conditions import with_failures
from workers.state.checkpoints import LAST


def test_failed_trials_use_up_the_failure_budget(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(budget={"failures": 2})
    trials = [now.tune.start() for _ in range(3)]
    now.tune.report(trials[2], 1, 0.5)
    now.tune.fail(trials[0], ValueError("no such layer"), tmp_path)
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    now.tune.fail(trials[1], ValueError("no such layer"), tmp_path)
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.phase == "completed"
    assert now.callback.outcome.reason == (
        "budget.failures of 2 is used up: 2 of 3 trials failed; the first: ValueError: no such layer"
    )
    assert now.states() == ["ERROR", "ERROR", "CANCELED"]


def test_a_search_in_which_every_trial_failed_has_failed(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(budget={"failures": 1})
    now.tune.fail(now.tune.start(), ValueError("no such layer"), tmp_path)
    now.callback.poll(now.tune)
    assert now.callback.outcome is not None
    assert now.callback.outcome.phase == "failed"


def test_a_failed_trial_records_its_cause_and_the_others_continue(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search()
    failed, _ = now.tune.start(), now.tune.start()
    failed.error_file = str(tmp_path / "error.txt")
    Path(failed.error_file).write_bytes(b"Traceback\n  \xff\nValueError: no such layer\n\n")
    now.tune.fail(failed)
    now.callback.poll(now.tune)
    assert now.states() == ["ERROR", "RUNNING"]
    line = now.recorder.update_of(0)
    assert (line.stop_reason, line.error_kind, line.restarts) == ("ValueError: no such layer", "CODE", 0)
    assert now.tune.start().config["trial"] == 2


def test_a_lost_trial_is_restarted_until_its_restarts_are_used_up(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search(max_restarts=2)
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5)
    for restarts in (1, 2):
        now.tune.fail(trial, ActorDiedError(), tmp_path)
        assert (now.states(), now.recorder.update_of(0).restarts) == (["PENDING"], restarts)
        trial = now.tune.start()
        assert trial.config["trial"] == 0
        now.tune.report(trial, 1, 0.5)  # reported again from its checkpoint
        now.tune.report(trial, 1 + restarts, 0.6)
    now.tune.fail(trial, ActorDiedError(), tmp_path)
    line = now.recorder.update_of(0)
    assert (line.state, line.error_kind, line.epoch) == ("ERROR", ErrorKind.LOST, 3)
    assert line.stop_reason.startswith("LOST after 2 restarts: The actor died")
    assert now.verdict_on_the_worst().endswith("the cutoff for 1 earlier trial"), "repeated reports count once"


def test_a_trial_that_fills_the_disk_is_paused_and_blocks_the_experiment(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search()
    trial, other = now.tune.start(), now.tune.start()
    error = TrialError(ErrorKind.DISK_FULL, "OSError: [Errno 28] No space left on device")
    full = RayTaskError("step", "Traceback", error)
    now.tune.fail(trial, full.as_instanceof_cause(), tmp_path)
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == ("paused", True)
    assert outcome.reason == "the disk is full: trial 0: OSError: [Errno 28] No space left on device"
    assert now.states() == ["PAUSED", "PAUSED"]
    assert other not in now.tune.live
    assert search(2).tune.start().config["trial"] == 0


COMMON_CAUSES = {
    ErrorKind.DATA: (
        "DataError: image_folder: 2 damaged images in /data: a/1.png, b/2.png",
        "the data set cannot be used: DataError: image_folder: 2 damaged images in /data: a/1.png, b/2.png",
    ),
    ErrorKind.PLUGIN: (
        "ImportTargetError: model plugin mixer is not installed",
        "a class that the spec names cannot be imported: ImportTargetError: model plugin mixer is not installed",
    ),
}


@pytest.mark.parametrize("kind", COMMON_CAUSES)
@pytest.mark.parametrize(("epochs", "phase", "state"), [(0, "failed", "ERROR"), (1, "paused", "PAUSED")])
def test_what_every_trial_would_meet_ends_the_search_at_the_first_trial(
    search: Callable[..., Search], tmp_path: Path, kind: ErrorKind, epochs: int, phase: str, state: str
) -> None:
    """Where a trial has a value already, it worked once: the search pauses until it does again."""
    now = search(max_epochs=4)
    trial, other = now.tune.start(), now.tune.start()
    for epoch in range(1, epochs + 1):
        now.tune.report(trial, epoch, 0.5)
    why, sentence = COMMON_CAUSES[kind]
    error = TrialError(kind, why)
    now.tune.fail(trial, RayTaskError("step", "Traceback", error).as_instanceof_cause(), tmp_path)
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == (phase, epochs > 0)
    assert outcome.reason == sentence
    assert with_failures(outcome, now.recorder.table) == outcome, "the cause is named once"
    assert now.states()[0] == state
    assert other not in now.tune.live
    assert now.tune.start() == "FINISHED"


def test_a_trial_leaves_a_node_that_cannot_be_used(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(max_restarts=0)
    cluster = MemoryCluster("w1", "w2")
    nodes = Nodes(launch_config(tmp_path), cluster)
    now.callback.attach(now.searcher, nodes, {"CPU": 1.0})
    trial, other = now.tune.start(), now.tune.start()
    now.tune.report(other, 1, 0.5)
    now.tune.fail(trial, TrialError(ErrorKind.NODE, "node w2 does not see RUNG_STORAGE_ROOT /x", "w2"), tmp_path)
    now.callback.poll(now.tune)
    assert now.callback.outcome is None
    assert now.callback.notice() == "node w2 does not see RUNG_STORAGE_ROOT /x"
    assert nodes.excluded() == ["w2"]
    line = now.recorder.update_of(0)
    assert (line.state, line.restarts, line.error_kind) == ("PAUSED", 0, None), "it waits for another node"
    again = now.tune.start()
    assert again.config["trial"] == 0
    now.tune.fail(again, TrialError(ErrorKind.NODE, "node w1 has Rung 0.1.0", "w1"), tmp_path)
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == ("paused", True)
    assert outcome.reason == (
        "no node can run a trial: node w2 does not see RUNG_STORAGE_ROOT /x; node w1 has Rung 0.1.0"
    )
    assert now.states() == ["PAUSED", "PAUSED"]


@pytest.mark.parametrize(
    ("first", "second", "epochs", "phase", "states"),
    [
        (ErrorKind.DATA, ErrorKind.DATA, 0, "failed", ["ERROR", "CANCELED"]),
        (ErrorKind.DATA, ErrorKind.DATA, 1, "paused", ["PAUSED", "PAUSED"]),
        (ErrorKind.NODE, ErrorKind.DATA, 0, "paused", ["PAUSED", "PAUSED"]),
        (ErrorKind.DATA, ErrorKind.DISK_FULL, 0, "paused", ["PAUSED", "PAUSED"]),
    ],
)
def test_a_search_ends_once_no_node_can_load_the_data(
    search: Callable[..., Search],
    tmp_path: Path,
    first: ErrorKind,
    second: ErrorKind,
    epochs: int,
    phase: str,
    states: list[str],
) -> None:
    """As long as no trial has a value nothing would be lost: then it fails, as with data that are damaged."""
    now = search(max_epochs=4, max_restarts=0)
    now.callback.attach(now.searcher, Nodes(launch_config(tmp_path), MemoryCluster("w1", "w2")), {"CPU": 1.0})
    trial, other = now.tune.start(), now.tune.start()
    for epoch in range(1, epochs + 1):
        now.tune.report(other, epoch, 0.5)
    why = "cannot load the data set: cifar10 was not found"
    now.tune.fail(trial, TrialError(first, f"node w2 {why}", "w2"), tmp_path)
    now.callback.poll(now.tune)
    assert (now.callback.outcome, now.states()) == (None, ["PAUSED", "RUNNING"]), "it waits for the other node"
    assert now.callback.notice() == f"node w2 {why}"
    trial = now.tune.start()
    assert trial.config["trial"] == 0
    now.tune.fail(trial, TrialError(second, f"node w1 {why}", "w1"), tmp_path)
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == (phase, phase == "paused")
    assert outcome.reason == f"no node can run a trial: node w2 {why}; node w1 {why}"
    assert now.states() == states
    assert now.recorder.update_of(0).error_kind == (ErrorKind.DATA if phase == "failed" else None)


def test_a_search_uses_a_node_again_that_could_not_load_the_data(search: Callable[..., Search], tmp_path: Path) -> None:
    """While no trial starts, too: the service gives the experiment the slots of that node once it is used."""
    now, clock = search(), Clock()
    now.callback.attach(now.searcher, Nodes(launch_config(tmp_path), MemoryCluster("w1", "w2"), clock.monotonic))
    trial, _ = now.tune.start(), now.tune.start()
    error = TrialError(ErrorKind.DATA, "node w2 cannot load the data set: Stale file handle", "w2")
    now.tune.fail(trial, error, tmp_path)
    now.callback.poll(now.tune)
    assert now.callback.excluded_nodes() == ["w2"]
    clock.sleep(AGAIN_S)
    now.callback.poll(now.tune)
    assert (now.callback.excluded_nodes(), now.callback.notice()) == ([], "")


def test_a_search_ends_once_a_check_leaves_no_node(search: Callable[..., Search], tmp_path: Path) -> None:
    """No trial fails there: it would wait for a slot."""
    now = search()
    cluster = MemoryCluster("w1", "w2")
    cluster.problems = {"w1": "has no Rung", "w2": "has no Rung"}
    cluster.slow = {"w1", "w2"}
    now.callback.attach(now.searcher, Nodes(launch_config(tmp_path), cluster), {"CPU": 1.0})
    now.tune.start(waits=True)
    cluster.slow.clear()
    now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == ("paused", True)
    assert outcome.reason == "no node can run a trial: node w1 has no Rung; node w2 has no Rung"
    assert (now.states(), now.tune.live) == (["PENDING"], [])


def test_checkpoints_that_cannot_be_deleted_stop_nothing_and_are_deleted_later(
    search: Callable[..., Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    now = search(max_epochs=1)
    trial, other = now.tune.start(), now.tune.start()
    for one in (trial, other):
        (now.files(one).root / LAST).write_bytes(b"weights")
    with monkeypatch.context() as patched:
        patched.setattr(FolderArtifacts, "remove", fail)
        now.tune.report(trial, 1, 0.5)
    assert (now.states(), len(list(tmp_path.rglob(LAST)))) == (["COMPLETED", "RUNNING"], 2)
    now.tune.report(other, 1, 0.4)
    assert list(tmp_path.rglob(LAST)) == []


def test_a_journal_that_cannot_be_written_for_now_pauses_the_experiment_and_no_trial_ends(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "journal.jsonl")

    now = search()
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(FolderJournalWriter, "append", refuse)
        now.tune.report(trial, 2, 0.5)
        now.callback.poll(now.tune)
    outcome = now.callback.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.blocked) == ("paused", True)
    assert outcome.reason == "the journal cannot be written: [Errno 30] Read-only file system: 'journal.jsonl'"
    now.recorder.close()
    assert [one.number for one in search(2).recorder.table.waiting()] == [0]


def test_a_full_disk_pauses_the_experiment(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    trial, other = now.tune.start(), now.tune.start()
    size = (tmp_path / "journal.jsonl").stat().st_size + 20  # the kernel writes a part of the line
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        now.tune.report(trial, 1, 0.5)
        now.tune.fail(other)
        now.callback.poll(now.tune)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert now.callback.outcome is not None
    assert (now.callback.outcome.phase, now.callback.outcome.blocked) == ("paused", True)
    assert now.callback.outcome.reason.startswith("the disk is full: the journal: [Errno 28] wrote 20 of ")
    assert trial not in now.tune.live
    now.recorder.close()
    after = search(2)
    assert [trial.number for trial in after.recorder.table.waiting()] == [0, 1]
    assert after.recorder.table.trials[0].curve == []
