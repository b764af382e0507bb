"""Tracking against MLflow's own SQLite store: every point once, whatever was lost on the way."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import ErrorKind, LaunchConfig, TrialState
from workers.state.journal import Journal, copy_of
from workers.state.recorder import Recorder
from workers.tracking.connection import SupersededError
from workers.tracking.tracker import Tracker

OpenRecorder = Callable[..., Recorder]
ADDED = {"rung.continued_from", "rung.restarts", "rung.error_kind"}


@pytest.fixture
def tracker(
    tmp_path: Path, client: MlflowClient, launch: Callable[..., LaunchConfig], experiment: Callable[..., ExperimentSpec]
) -> Callable[..., Tracker]:
    def build(attempt: int = 1, **changes: Any) -> Tracker:
        told = launch(attempt=attempt, mlflow_tracking_uri=client.tracking_uri)
        fenced = changes.pop("fenced", lambda: False)
        return Tracker(told, experiment(**changes), tmp_path / "journal.jsonl", fenced, interval_s=0.01)

    return build


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Recorder:
    return open_recorder()


def search(recorder: Recorder, numbers: range, epochs: int = 3) -> None:
    for number in numbers:
        recorder.record_suggestion(number, {}, {"lr": 0.1 * (number + 1), "momentum": "n/a"})
        train(recorder, number, epochs)


def train(recorder: Recorder, number: int, epochs: int) -> None:
    first = recorder.table.trials[number].epoch + 1
    for epoch in range(first, first + epochs):
        outcome = (TrialState.COMPLETED, "all epochs done") if epoch == first + epochs - 1 else None
        recorder.record_epoch(number, epoch, {"validation_accuracy": epoch / 10, "lr": 0.1}, outcome)


def children(client: MlflowClient) -> dict[int, Run]:
    found = client.get_experiment_by_name("driver")
    runs = client.search_runs([found.experiment_id], "tags.`mlflow.parentRunId` LIKE '%'", max_results=1000)
    assert len(runs) == len({run.data.tags["rung.trial_id"] for run in runs}), "a trial has two runs"
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) <= 1, "there are two parents"
    return {int(run.data.tags["rung.trial_id"]): run for run in runs}


def assert_told(client: MlflowClient, recorder: Recorder) -> None:
    """Every (run, metric, step) stands once, with its value, and nothing else does."""
    runs = children(client)
    assert set(runs) == set(recorder.table.trials)
    for number, trial in recorder.table.trials.items():
        for name in ("validation_accuracy", "lr"):
            points = client.get_metric_history(runs[number].info.run_id, name)
            assert Counter(point.step for point in points) == Counter(range(1, trial.epoch + 1)), (number, name)
            if name == "validation_accuracy":
                assert [point.value for point in sorted(points, key=lambda point: point.step)] == trial.curve


def test_curves_params_tags_and_statuses(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, stopwatch: Any
) -> None:
    recorder.record_suggestion(0, {}, {"lr": 0.1, "momentum": "n/a"})
    stopwatch.seconds += 3.0
    train(recorder, 0, 3)
    search(recorder, range(1, 2))
    ends = {
        2: (TrialState.EARLY_STOPPED, "FINISHED"),
        3: (TrialState.DIVERGED, "FINISHED"),
        4: (TrialState.ERROR, "FAILED"),
        5: (TrialState.CANCELED, "KILLED"),
    }
    for number, (state, _) in ends.items():
        recorder.record_suggestion(number, {}, {"lr": 1.0, "momentum": 0.9})
        recorder.record_end(number, state, f"because {number}")
    recorder.record_suggestion(6, {}, {"lr": 2.0, "momentum": 0.9})
    assert tracker(description="d" * 9000, labels=["a, 'b' & ü"]).deliver()
    runs = children(client)
    assert_told(client, recorder)
    assert {frozenset(run.data.params) for run in runs.values()} == {frozenset({"lr", "momentum"})}
    assert runs[0].data.params == {"lr": "0.1", "momentum": "n/a"}
    for number, (state, status) in ends.items():
        tags = runs[number].data.tags
        assert (runs[number].info.status, tags["rung.trial_state"]) == (status, state)
        assert tags["rung.stop_reason"] == f"because {number}"
        assert tags["rung.experiment_id"] == "abc"
    assert (runs[6].info.status, runs[6].data.tags["rung.trial_state"]) == ("RUNNING", "RUNNING")
    entry = runs[0].info
    assert entry.start_time < entry.end_time < 10_000_000  # the journal's clock, whenever MLflow heard of it


def test_values_that_are_not_finite_are_kept(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    recorder.record_suggestion(0, {}, {})
    figures = {"validation_accuracy": float("nan"), "train_loss": float("inf")}
    recorder.record_epoch(0, 1, figures, (TrialState.DIVERGED, "nan"))
    one = tracker()
    assert one.deliver()
    run = children(client)[0].info.run_id
    assert np.isnan(client.get_metric_history(run, "validation_accuracy")[0].value)
    assert client.get_metric_history(run, "train_loss")[0].value > 1e300


def test_a_crash_between_sending_and_keeping_the_place_doubles_nothing(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, tmp_path: Path
) -> None:
    place = tmp_path / "tracking.json"
    search(recorder, range(2))
    assert tracker().deliver()
    older = place.read_text()
    search(recorder, range(2, 4))
    assert tracker(1).deliver()
    for stale in (older, "{ torn", json.dumps(["no place"]), None):
        if stale is None:
            place.unlink()
        else:
            place.write_text(stale)
        assert tracker(2).deliver()
        assert_told(client, recorder)


@pytest.mark.parametrize("place", ["kept", "lost"])
@pytest.mark.parametrize("lost", ["tail", "middle", "all"])
def test_epochs_that_the_journal_lost_are_not_told_twice(
    client: MlflowClient,
    tracker: Callable[..., Tracker],
    open_recorder: OpenRecorder,
    tmp_path: Path,
    lost: str,
    place: str,
) -> None:
    """A power failure takes its last lines, or damage all from a line on; they are trained again, and later."""
    path = tmp_path / "journal.jsonl"
    first = open_recorder()
    search(first, range(3))
    first.record_suggestion(3, {}, {"lr": 0.4, "momentum": "n/a"})
    first.record_epoch(3, 1, {"validation_accuracy": 0.1, "lr": 0.1})
    assert tracker().deliver()
    runs = {number: run.info.run_id for number, run in children(client).items()}
    first.close()
    lines = path.read_bytes().splitlines(keepends=True)
    keep = {"tail": len(lines) - 1, "middle": 7, "all": 1}[lost]
    left = b"".join(lines[:keep]) + (b"" if lost == "tail" else b"damaged\n") + b"".join(lines[keep + 1 :])
    for file in (path, copy_of(path)):
        file.write_bytes(left)
    if place == "lost":
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
    assert_told(client, recorder)
    assert {number: run.info.run_id for number, run in children(client).items()} == runs


def test_a_run_of_a_configuration_that_the_journal_lost_makes_room(
    client: MlflowClient, tracker: Callable[..., Tracker], open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    first = open_recorder()
    search(first, range(2))
    assert tracker().deliver()
    before = children(client)
    first.close()
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for file in (path, copy_of(path)):
        file.write_bytes(b"".join([*lines[:5], b"damaged\n", *lines[6:]]))
    recorder = open_recorder(2)
    recorder.record_suggestion(1, {}, {"lr": 7.0, "momentum": "n/a"})
    train(recorder, 1, 2)
    assert tracker(2).deliver()
    assert_told(client, recorder)
    after = children(client)
    assert (after[0].info.run_id, after[1].data.params["lr"]) == (before[0].info.run_id, "7.0")
    assert client.get_run(before[1].info.run_id).info.lifecycle_stage == "deleted"


def test_runs_beyond_the_first_block_are_found_again(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, tmp_path: Path, monkeypatch: Any
) -> None:
    """The place is lost, and the journal is longer than what is read at once."""
    monkeypatch.setattr("workers.state.journal.read.__defaults__", (0, 0, 700))
    search(recorder, range(6))
    assert tracker().deliver()
    (tmp_path / "tracking.json").unlink()
    assert tracker(2).deliver()
    assert_told(client, recorder)


@pytest.mark.parametrize("after", [True, False], ids=["answer lost", "call lost"])
@pytest.mark.parametrize(
    ("method", "on"),
    [("create_run", 1), ("create_run", 3), ("log_batch", 2), ("set_terminated", 1), ("get_experiment_by_name", 1)],
)
def test_an_outage_loses_and_doubles_nothing(
    client: MlflowClient,
    losing: Callable[..., Any],
    tracker: Callable[..., Tracker],
    recorder: Recorder,
    method: str,
    on: int,
    after: bool,
) -> None:
    one = tracker()
    broken: Any = losing(client, method, on, after)
    one.connection._client = broken
    search(recorder, range(3))
    assert not one.deliver()
    search(recorder, range(3, 4))
    assert one.deliver()
    assert broken.calls > on
    assert_told(client, recorder)
    assert all(run.info.status == "FINISHED" for run in children(client).values())


def test_an_answer_lost_with_the_process_makes_no_second_run(
    client: MlflowClient, losing: Callable[..., Any], tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    one = tracker()
    broken: Any = losing(client, "create_run", 2, after=True)
    one.connection._client = broken
    search(recorder, range(2))
    assert not one.deliver()
    assert tracker(2).deliver()
    assert_told(client, recorder)


def test_what_mlflow_refuses_is_left_out_and_holds_up_nothing(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record_suggestion(0, {}, {"lr": 0.1, "bad;key": 1.0, "momentum": 0.9})
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.1, "lr": 0.1, "bad;metric": 1.0})
    train(recorder, 0, 2)
    search(recorder, range(1, 3))
    assert tracker().deliver()
    assert_told(client, recorder)
    assert children(client)[0].data.params == {"lr": "0.1", "momentum": "0.9"}
    said = [record.getMessage() for record in caplog.records if record.name == "rung.tracking"]
    assert sorted(text.split(" of run")[0] for text in said) == [
        "MLflow refuses ['bad;key']",
        "MLflow refuses ['bad;metric']",
    ]


def test_a_reason_that_no_database_may_hold_is_told_without_it(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    recorder.record_suggestion(0, {}, {})
    recorder.record_end(0, TrialState.ERROR, "a\0b\ud800c é")
    one = tracker()
    assert one.deliver()
    assert children(client)[0].data.tags["rung.stop_reason"] == "ab?c é"
    one.end_parent_run("FAILED", {}, {"rung.reason": "x\0y"})
    assert client.get_run(str(one.ids().parent)).data.tags["rung.reason"] == "xy"


def test_a_run_that_somebody_deleted_holds_up_nothing(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    one = tracker()
    search(recorder, range(2), epochs=1)
    recorder.record_suggestion(2, {}, {})
    assert one.deliver()
    client.delete_run(one.ids().runs[2])
    train(recorder, 2, 3)
    search(recorder, range(3, 4))
    assert one.deliver()
    assert set(children(client)) == {0, 1, 3}


def test_a_fenced_tracker_writes_nothing(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    search(recorder, range(1))
    old = tracker(fenced=lambda: True)
    assert not old.deliver()
    with pytest.raises(SupersededError):
        old.end_parent_run("FINISHED", {}, {})
    assert children(client) == {}


def test_what_a_superseded_driver_wrote_is_not_told(
    client: MlflowClient,
    tracker: Callable[..., Tracker],
    recorder: Recorder,
    open_recorder: OpenRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Journal, "_check_not_fenced", lambda *_: None
    )  # it writes in the moment in which it cannot know yet
    search(recorder, range(1))
    assert tracker().deliver()
    new = open_recorder(2)
    search(recorder, range(1, 3))
    new.record_suggestion(1, {}, {"lr": 9.0, "momentum": "n/a"})
    train(new, 1, 2)
    assert tracker(2).deliver()
    assert_told(client, new)


def test_what_a_successor_wrote_is_its_own_to_tell(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    """The old driver has not heard yet that it was given up."""
    old = tracker()
    search(recorder, range(1))
    assert old.deliver()
    place = old._place_path.read_bytes()
    new = open_recorder(2)
    search(new, range(1, 2))
    assert not old.deliver()
    for write in (old.finish, lambda: old.end_parent_run("FINISHED", {}, {})):
        with pytest.raises(SupersededError):
            write()
    assert set(children(client)) == {0}
    assert old._place_path.read_bytes() == place
    successor = tracker(2)
    assert successor.deliver()
    assert_told(client, new)
    assert not tracker(1).deliver(), "nor one that begins behind what its successor told"


class Hanging:
    """A real client of which one method waits until it is `released`, and does its work then."""

    def __init__(self, real: MlflowClient, method: str) -> None:
        self._real, self._method = real, method
        self.waits, self.released = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._method:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.waits.set()
            self.released.wait()
            return real(*arguments, **named)

        return call


def test_after_the_last_word_nothing_is_written(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    """MLflow hangs while a stop is obeyed, and answers when another attempt may run."""
    one = tracker()
    search(recorder, range(1))
    assert one.deliver()
    place = one._place_path.read_bytes()
    hanging: Any = Hanging(client, "log_batch")
    one.connection._client = hanging
    search(recorder, range(1, 4))
    one.start()
    hanging.waits.wait()
    one.close()
    assert one.is_alive(), "nobody waits for it"
    hanging.released.set()
    one.join()
    runs = children(client)
    assert set(runs) == {0, 1}, "what was sent before is all there is"
    assert runs[1].info.status == "RUNNING"
    assert one._place_path.read_bytes() == place
    with pytest.raises(SupersededError):
        one.finish()
    assert tracker(2).deliver()
    assert_told(client, recorder)


def test_a_run_of_a_trial_that_the_journal_lost_is_deleted_at_the_end(
    client: MlflowClient, tracker: Callable[..., Tracker], open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    first = open_recorder()
    search(first, range(3))
    assert tracker().deliver()
    first.close()
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for file in (path, copy_of(path)):
        file.write_bytes(b"".join([*lines[:9], b"damaged\n", *lines[10:]]))
    recorder = open_recorder(2)
    assert set(recorder.table.trials) == {0, 1}
    one = tracker(2)
    one.finish()
    one.end_parent_run("FINISHED", {}, {})
    assert_told(client, recorder)
    assert set(one.ids().runs) == {0, 1}


def test_runs_that_were_ended_meanwhile_go_on_with_their_trials(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    search(recorder, range(1))
    for number in (1, 2):
        recorder.record_suggestion(number, {}, {"lr": 0.3, "momentum": "n/a"})
        recorder.record_epoch(number, 1, {"validation_accuracy": 0.1, "lr": 0.1})
    one = tracker()
    one.finish()
    for run in children(client).values():
        if run.info.status == "RUNNING":
            client.set_tag(run.info.run_id, "rung.trial_state", "CANCELED")
            client.set_terminated(run.info.run_id, "KILLED", 1_500_000)
    client.set_terminated(str(one.ids().parent), "KILLED", 1_500_000)
    more = open_recorder(2)
    two = tracker(2)
    assert two.deliver()
    told = {number: (run.info.status, run.data.tags["rung.trial_state"]) for number, run in children(client).items()}
    assert told == {0: ("FINISHED", "COMPLETED"), 1: ("RUNNING", "RUNNING"), 2: ("RUNNING", "RUNNING")}
    assert client.get_run(str(two.ids().parent)).info.status == "RUNNING"
    train(more, 1, 2)
    assert two.deliver()
    assert children(client)[1].info.status == "FINISHED"
    two._place_path.unlink()
    client.set_terminated(two.ids().runs[2], "KILLED", 1_500_000)
    three = open_recorder(3)
    assert tracker(3).deliver(), "without its place it finds them"
    assert [children(client)[number].info.status for number in (0, 1, 2)] == ["FINISHED", "FINISHED", "RUNNING"]
    assert_told(client, three)


def test_the_thread_follows_and_finish_delivers_the_rest(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    one = tracker()
    one.start()
    search(recorder, range(2))
    one.finish()
    assert_told(client, recorder)
    search(recorder, range(2, 3))
    one.finish()
    assert_told(client, recorder)


def test_what_is_left_when_mlflow_is_away_is_delivered_later(
    client: MlflowClient, losing: Callable[..., Any], tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    search(recorder, range(1))
    one = tracker()
    broken: Any = losing(client, "get_experiment_by_name", 1, after=False)
    one.connection._client = broken
    with pytest.raises(MlflowException, match="reset by peer"):
        one.finish()
    one.finish()
    assert_told(client, recorder)


def test_closing_the_parent_twice_leaves_one_summary(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    search(recorder, range(2))
    for attempt in (1, 2):
        if attempt == 2:
            open_recorder(2)
        one = tracker(attempt)
        assert one.deliver()
        one.end_parent_run("FINISHED", {"best_value": 0.3}, {"rung.state": "COMPLETED"})
    parent = client.get_run(str(one.ids().parent))
    assert (parent.info.status, parent.data.tags["rung.state"]) == ("FINISHED", "COMPLETED")
    assert parent.data.tags["rung.role"] == "experiment"
    assert len(client.get_metric_history(parent.info.run_id, "best_value")) == 1
    assert parent.info.start_time <= min(run.info.start_time for run in children(client).values())


def test_an_experiment_that_is_extended_goes_on_in_its_runs(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    search(recorder, range(2))
    one = tracker()
    one.finish()
    one.end_parent_run("FINISHED", {"best_value": 0.3}, {}, 2)
    runs = {number: run.info.run_id for number, run in children(client).items()}
    more = open_recorder(2)
    longer = tracker(2)
    assert longer.deliver()
    parent = str(longer.ids().parent)
    assert client.get_run(parent).info.status == "RUNNING"
    search(more, range(2, 3), epochs=4)
    longer.finish()
    longer.end_parent_run("FINISHED", {"best_value": 0.4}, {}, 3)
    run = client.get_run(parent)
    assert (run.info.status, run.data.metrics["best_value"]) == ("FINISHED", 0.4)
    assert [point.step for point in client.get_metric_history(parent, "best_value")] == [2, 3]
    assert_told(client, more)
    assert runs.items() <= {number: run.info.run_id for number, run in children(client).items()}.items()


def test_restarts_failures_and_sources_are_tags(
    client: MlflowClient, tracker: Callable[..., Tracker], recorder: Recorder
) -> None:
    recorder.record_import(
        [
            {"at": 5.0, "event": "suggested", "trial": 0, "sample": {}, "parameters": {"lr": 1.0}, "source": "old/7"},
            {"at": 6.0, "event": "epoch", "trial": 0, "epoch": 1, "source": "old/7", "state": "COMPLETED",
             "reason": "done", "metrics": {"validation_accuracy": 0.5, "lr": 0.1}},
        ]
    )  # fmt: skip
    for number in (1, 2):
        recorder.record_suggestion(number, {}, {"lr": 2.0})
    recorder.record_retry(1, ErrorKind.LOST, "its node was lost")
    recorder.record_retry(1, ErrorKind.LOST, "its node was lost")
    recorder.record_end(2, TrialState.ERROR, "no such layer", ErrorKind.CODE)
    assert tracker().deliver()
    assert_told(client, recorder)
    told = {
        number: {name: value for name, value in run.data.tags.items() if name in ADDED}
        for number, run in children(client).items()
    }
    assert told == {
        0: {"rung.continued_from": "old/7"},
        1: {"rung.restarts": "2", "rung.error_kind": "LOST"},
        2: {"rung.error_kind": "CODE"},
    }
