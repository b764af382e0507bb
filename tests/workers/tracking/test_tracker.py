"""The tracker against MLflow's own SQLite store: every point is there exactly once, whatever fails on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search_spaces.protocol import ErrorKind, RunStatus, TrialState
from tests.support.clock import Clock
from tests.support.tracking import (
    BuildTracker,
    LosingClient,
    assert_delivered,
    record_trials,
    train,
    trial_runs,
)
from tests.support.workers import OpenRecorder, Stopwatch
from workers.state.events import EpochFinished, TrialSuggested
from workers.state.recorder import Recorder
from workers.tracking.summary import Summary

ADDED = {"rung.continued_from", "rung.restarts", "rung.error_kind"}


def test_curves_params_tags_and_statuses(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, stopwatch: Stopwatch
) -> None:
    recorder.record_suggestion(0, {}, {"lr": 0.1, "momentum": "n/a"})
    stopwatch.seconds += 3.0
    train(recorder, 0, 3)
    record_trials(recorder, range(1, 2))
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
    runs = trial_runs(client)
    assert_delivered(client, recorder)
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


def test_parameters_of_a_journal_of_version_1_have_the_names_of_new_trials(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    recorder.record_suggestion(0, {"scheduler.epochs": 5.0}, {"scheduler.epochs": 5.0})
    recorder.record_suggestion(1, {"scheduler.t_max": 6.0}, {"scheduler.t_max": 6.0})
    assert tracker().deliver()
    assert {number: run.data.params for number, run in trial_runs(client).items()} == {
        0: {"scheduler.t_max": "5.0"},
        1: {"scheduler.t_max": "6.0"},
    }


def test_values_that_are_not_finite_are_kept(client: MlflowClient, tracker: BuildTracker, recorder: Recorder) -> None:
    recorder.record_suggestion(0, {}, {})
    figures = {"validation_accuracy": float("nan"), "train_loss": float("inf")}
    recorder.record_epoch(0, 1, figures, (TrialState.DIVERGED, "nan"))
    one = tracker()
    assert one.deliver()
    run = trial_runs(client)[0].info.run_id
    assert np.isnan(client.get_metric_history(run, "validation_accuracy")[0].value)
    assert client.get_metric_history(run, "train_loss")[0].value > 1e300


@pytest.mark.parametrize("after", [True, False], ids=["answer lost", "call lost"])
@pytest.mark.parametrize(
    ("method", "on"),
    [("create_run", 1), ("create_run", 3), ("log_batch", 2), ("set_terminated", 1), ("get_experiment_by_name", 1)],
)
def test_an_outage_loses_and_duplicates_nothing(
    client: MlflowClient,
    tracker: BuildTracker,
    recorder: Recorder,
    method: str,
    on: int,
    after: bool,
) -> None:
    one = tracker()
    broken: Any = LosingClient(client, method, on, after)
    one.connection._client = broken
    record_trials(recorder, range(3))
    assert not one.deliver()
    record_trials(recorder, range(3, 4))
    assert one.deliver()
    assert broken.calls > on
    assert_delivered(client, recorder)
    assert all(run.info.status == "FINISHED" for run in trial_runs(client).values())


def test_an_answer_lost_with_the_process_leaves_no_second_run(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    broken: Any = LosingClient(client, "create_run", 2, after=True)
    one.connection._client = broken
    record_trials(recorder, range(2))
    assert not one.deliver()
    assert tracker(2).deliver()
    assert_delivered(client, recorder)


def test_what_mlflow_refuses_is_left_out_and_blocks_nothing(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record_suggestion(0, {}, {"lr": 0.1, "bad;key": 1.0, "momentum": 0.9})
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.1, "lr": 0.1, "bad;metric": 1.0})
    train(recorder, 0, 2)
    record_trials(recorder, range(1, 3))
    assert tracker().deliver()
    assert_delivered(client, recorder)
    assert trial_runs(client)[0].data.params == {"lr": "0.1", "momentum": "0.9"}
    said = [record.getMessage() for record in caplog.records if record.name.startswith("workers.tracking")]
    assert sorted(text.split(" of run")[0] for text in said) == [
        "MLflow refuses ['bad;key']",
        "MLflow refuses ['bad;metric']",
    ]


def test_characters_that_no_database_stores_are_removed(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    recorder.record_suggestion(0, {}, {})
    recorder.record_end(0, TrialState.ERROR, "a\0b\ud800c é")
    one = tracker()
    assert one.deliver()
    assert trial_runs(client)[0].data.tags["rung.stop_reason"] == "ab?c é"
    one.end_parent_run(Summary(RunStatus.FAILED, {}, {"rung.reason": "x\0y"}))
    assert client.get_run(str(one.ids().parent)).data.tags["rung.reason"] == "xy"


def test_a_run_that_somebody_deleted_is_restored_and_loses_nothing(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    record_trials(recorder, range(2), epochs=1)
    recorder.record_suggestion(2, {}, {})
    assert one.deliver()
    client.delete_run(one.ids().runs[2])
    train(recorder, 2, 3)
    record_trials(recorder, range(3, 4))
    assert one.deliver()
    assert set(trial_runs(client)) == {0, 1, 2, 3}
    steps = [point.step for point in client.get_metric_history(one.ids().runs[2], "validation_accuracy")]
    assert sorted(steps) == [1, 2, 3]
    client.delete_run(str(one.ids().parent))
    one.end_parent_run(Summary(RunStatus.FINISHED, {}, {"rung.reason": "done"}))
    assert client.get_run(str(one.ids().parent)).info.lifecycle_stage == "active"


def test_an_mlflow_experiment_that_somebody_deletes_is_restored_and_nothing_is_lost(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    recorder.record_suggestion(0, {}, {})
    for epoch in (1, 2):
        recorder.record_epoch(0, epoch, {"validation_accuracy": 0.1 * epoch, "lr": 0.1})
    assert one.deliver()
    client.delete_experiment(str(one.ids().experiment))
    recorder.record_epoch(0, 3, {"validation_accuracy": 0.5, "lr": 0.1})
    assert one.deliver()
    client.delete_experiment(str(one.ids().experiment))
    record_trials(recorder, range(1, 2))
    assert one.deliver()
    assert set(trial_runs(client)) == {0, 1}
    steps = [point.step for point in client.get_metric_history(one.ids().runs[0], "validation_accuracy")]
    assert sorted(steps) == [1, 2, 3]


def test_runs_that_were_ended_meanwhile_resume_with_their_trials(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    record_trials(recorder, range(1))
    for number in (1, 2):
        recorder.record_suggestion(number, {}, {"lr": 0.3, "momentum": "n/a"})
        recorder.record_epoch(number, 1, {"validation_accuracy": 0.1, "lr": 0.1})
    one = tracker()
    one.finish()
    for run in trial_runs(client).values():
        if run.info.status == "RUNNING":
            client.set_tag(run.info.run_id, "rung.trial_state", "CANCELED")
            client.set_terminated(run.info.run_id, "KILLED", 1_500_000)
    client.set_terminated(str(one.ids().parent), "KILLED", 1_500_000)
    more = open_recorder(2)
    two = tracker(2)
    assert two.deliver()
    told = {number: (run.info.status, run.data.tags["rung.trial_state"]) for number, run in trial_runs(client).items()}
    assert told == {0: ("FINISHED", "COMPLETED"), 1: ("RUNNING", "RUNNING"), 2: ("RUNNING", "RUNNING")}
    assert client.get_run(str(two.ids().parent)).info.status == "RUNNING"
    train(more, 1, 2)
    assert two.deliver()
    assert trial_runs(client)[1].info.status == "FINISHED"
    (tmp_path / "tracking.json").unlink()
    client.set_terminated(two.ids().runs[2], "KILLED", 1_500_000)
    three = open_recorder(3)
    assert tracker(3).deliver(), "without its place it finds them"
    assert [trial_runs(client)[number].info.status for number in (0, 1, 2)] == ["FINISHED", "FINISHED", "RUNNING"]
    assert_delivered(client, three)


def test_the_thread_follows_and_finish_delivers_the_rest(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    one.start()
    record_trials(recorder, range(2))
    one.finish()
    assert_delivered(client, recorder)
    record_trials(recorder, range(2, 3))
    one.finish()
    assert_delivered(client, recorder)


def test_events_during_an_outage_are_delivered_later(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    record_trials(recorder, range(1))
    one = tracker()
    broken: Any = LosingClient(client, "get_experiment_by_name", 1, after=False)
    one.connection._client = broken
    with pytest.raises(MlflowException, match="reset by peer"):
        one.finish()
    one.finish()
    assert_delivered(client, recorder)


def test_for_how_long_mlflow_has_lacked_events(client: MlflowClient, tracker: BuildTracker, recorder: Recorder) -> None:
    clock = Clock()
    one = tracker(monotonic=clock.monotonic)
    one.connection._client = LosingClient(client, "log_batch", 1, after=False)
    record_trials(recorder, range(1))
    clock.sleep(5)
    assert not one.deliver()
    assert one.behind_s == 0, "a usual lag is no backlog"
    clock.sleep(100)
    assert one.behind_s == 105
    assert one.deliver()
    assert one.behind_s == 0
    clock.sleep(100)
    one.finish()
    clock.sleep(1000)
    assert one.behind_s == 0, "nothing more is to come"


def test_ending_the_parent_run_twice_leaves_one_summary(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    record_trials(recorder, range(2))
    for attempt in (1, 2):
        if attempt == 2:
            open_recorder(2)
        one = tracker(attempt)
        assert one.deliver()
        one.end_parent_run(Summary(RunStatus.FINISHED, {"best_value": 0.3}, {"rung.state": "COMPLETED"}, 2))
    parent = client.get_run(str(one.ids().parent))
    assert (parent.info.status, parent.data.tags["rung.state"]) == ("FINISHED", "COMPLETED")
    assert parent.data.tags["rung.role"] == "experiment"
    assert len(client.get_metric_history(parent.info.run_id, "best_value")) == 1
    assert parent.info.start_time <= min(run.info.start_time for run in trial_runs(client).values())


def test_an_extended_experiment_continues_in_its_runs(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    record_trials(recorder, range(2))
    one = tracker()
    one.finish()
    one.end_parent_run(Summary(RunStatus.FINISHED, {"best_value": 0.3}, {}, 2))
    runs = {number: run.info.run_id for number, run in trial_runs(client).items()}
    more = open_recorder(2)
    longer = tracker(2)
    assert longer.deliver()
    parent = str(longer.ids().parent)
    assert client.get_run(parent).info.status == "RUNNING"
    record_trials(more, range(2, 3), epochs=4)
    longer.finish()
    longer.end_parent_run(Summary(RunStatus.FINISHED, {"best_value": 0.4}, {}, 3))
    run = client.get_run(parent)
    assert (run.info.status, run.data.metrics["best_value"]) == ("FINISHED", 0.4)
    assert [point.step for point in client.get_metric_history(parent, "best_value")] == [2, 3]
    assert_delivered(client, more)
    assert runs.items() <= {number: run.info.run_id for number, run in trial_runs(client).items()}.items()


def test_restarts_failures_and_sources_are_tags(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    recorder.record_import(
        [
            TrialSuggested(at=5.0, trial=0, source="old/7", sample={}, parameters={"lr": 1.0}),
            EpochFinished(
                at=6.0,
                trial=0,
                source="old/7",
                epoch=1,
                metrics={"validation_accuracy": 0.5, "lr": 0.1},
                state=TrialState.COMPLETED,
                reason="done",
            ),
        ]
    )
    for number in (1, 2):
        recorder.record_suggestion(number, {}, {"lr": 2.0})
    recorder.record_retry(1, ErrorKind.LOST, "its node was lost")
    recorder.record_retry(1, ErrorKind.LOST, "its node was lost")
    recorder.record_end(2, TrialState.ERROR, "no such layer", ErrorKind.CODE)
    assert tracker().deliver()
    assert_delivered(client, recorder)
    told = {
        number: {name: value for name, value in run.data.tags.items() if name in ADDED}
        for number, run in trial_runs(client).items()
    }
    assert told == {
        0: {"rung.continued_from": "old/7"},
        1: {"rung.restarts": "2", "rung.error_kind": "LOST"},
        2: {"rung.error_kind": "CODE"},
    }


def test_the_run_of_a_trial_that_is_tried_again_runs_again(
    client: MlflowClient, recorder: Recorder, open_recorder: OpenRecorder, tracker: BuildTracker
) -> None:
    recorder.record_suggestion(0, {}, {"lr": 1.0})
    recorder.record_end(0, TrialState.ERROR, "ValueError: no", ErrorKind.CODE)
    assert tracker().deliver()
    assert trial_runs(client)[0].info.status == "FAILED"
    later = open_recorder(2)
    assert later.record_second_chance(1) == 1
    assert tracker(2).deliver()
    run = trial_runs(client)[0]
    assert (run.info.status, run.data.tags["rung.trial_state"]) == ("RUNNING", "RUNNING")
