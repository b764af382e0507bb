"""What a person reads of the runs in MLflow: names, parameters, best values, and the progress of the whole search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import RestException

from search_spaces.mlflow_view import read_view
from search_spaces.protocol import ErrorKind, Phase, TrialState, Winner
from search_spaces.replicates import replicate_number
from tests.support.tracking import BuildTracker, FlakyClient, assert_delivered, record_trials, train, trial_runs
from tests.support.workers import OpenRecorder, Stopwatch
from workers.state.recorder import Recorder
from workers.tracking import mlflow_writer
from workers.tracking.summary import summarize
from workers.tracking.tracker import Tracker

SEARCHED = ["optimizer.kind", "optimizer.lr", "batch_size", "label_smoothing", "optimizer.momentum"]
ADAM = {
    "batch_size": 64,
    "label_smoothing": 0.1,
    "model.kind": "cnn",
    "model.width": 8,
    "optimizer.kind": "adam",
    "optimizer.lr": 0.00123456,
    "optimizer.momentum": "n/a",
}
SGD = {**ADAM, "optimizer.kind": "sgd", "optimizer.lr": 0.5, "optimizer.momentum": 0.9, "batch_size": 128.0}


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is reported whenever it has changed."""
    monkeypatch.setattr(mlflow_writer, "REPORT_S", 0.0)


def parent_run(client: MlflowClient, tracker: Tracker) -> Run:
    return client.get_run(str(tracker.ids().parent))


def epoch(recorder: Recorder, trial: int, number: int, accuracy: float, state: TrialState | None = None) -> None:
    metrics = {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy, "lr": 0.1}
    recorder.record_epoch(trial, number, metrics, (state, f"because {state}") if state else None)


def points(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_a_run_is_named_by_its_searched_values_and_has_them_first(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    recorder.record_suggestion(0, {}, ADAM)
    recorder.record_suggestion(1, {}, SGD)
    assert tracker().deliver()
    runs = trial_runs(client)
    assert [runs[number].info.run_name for number in (0, 1)] == [
        "trial-0000 adam lr=0.00123 batch_size=64 label_smoothing=0.1",
        "trial-0001 sgd lr=0.5 batch_size=128 label_smoothing=0.1 momentum=0.9",
    ]
    for run in runs.values():
        assert list(run.data.params) == [*SEARCHED, "model.kind", "model.width"]
    assert runs[0].data.params["optimizer.lr"] == "0.00123456"


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("validation_accuracy", (0.5, 0.7, 0.6), (0.7, 2)), ("validation_loss", (0.4, 0.3, 0.6), (pytest.approx(0.4), 3))],
)
def test_a_run_has_the_best_value_of_the_objective_and_its_epoch(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, metric: str, values: Any, best: Any
) -> None:
    """In the same request as its curves."""
    recorder.record_suggestion(0, {}, ADAM)
    for number, value in enumerate(values, 1):
        epoch(recorder, 0, number, value, TrialState.COMPLETED if number == 3 else None)
    one = tracker(objective={"metric": metric})
    counting: Any = FlakyClient(client, 0.0)
    one.connection._client = counting
    assert one.deliver()
    run = trial_runs(client)[0]
    assert (run.data.metrics[f"best_{metric}"], run.data.metrics["best_epoch"]) == best
    assert points(client, run, "best_epoch") == [(best[1], best[1])]
    parent = parent_run(client, one)
    assert (parent.data.metrics[f"best_{metric}"], parent.data.metrics["best_value"]) == (best[0], best[0])
    assert counting.calls["log_batch"] == 2, "the trial's, and the parent's"


def test_the_best_value_grows_with_the_curve_and_a_diverged_epoch_is_never_the_best(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    recorder.record_suggestion(0, {}, ADAM)
    recorder.record_suggestion(1, {}, SGD)
    one = tracker()
    for number, value in enumerate((0.5, 0.4, 0.8), 1):
        epoch(recorder, 0, number, value)
        assert one.deliver()
    epoch(recorder, 1, 1, 0.9, TrialState.DIVERGED)
    assert one.deliver()
    runs = trial_runs(client)
    assert points(client, runs[0], "best_validation_accuracy") == [(1, 0.5), (3, 0.8)]
    assert "best_validation_accuracy" not in runs[1].data.metrics
    later = open_recorder(2)
    two = tracker(2)
    for number, value in enumerate((0.7, 0.85), 4):
        epoch(later, 0, number, value)
        assert two.deliver()
    assert points(client, trial_runs(client)[0], "best_validation_accuracy") == [(1, 0.5), (3, 0.8), (5, 0.85)]
    assert parent_run(client, two).data.metrics["best_validation_accuracy"] == 0.85


def test_the_parent_shows_the_space_and_how_far_the_search_is(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, stopwatch: Stopwatch
) -> None:
    one = tracker()
    recorder.record_suggestion(0, {}, ADAM)
    epoch(recorder, 0, 1, 0.5)
    recorder.record_suggestion(1, {}, SGD)
    recorder.record_suggestion(2, {}, SGD)
    recorder.record_retry(2, ErrorKind.LOST, "its node was lost")
    assert one.deliver()
    parent = parent_run(client, one)
    params = parent.data.params
    assert list(params)[:5] == [f"space.{name}" for name in SEARCHED]
    assert params["space.optimizer.kind"] == "adam | sgd"
    assert params["space.optimizer.lr"] == "loguniform(0.0001, 0.1) | loguniform(0.001, 1.0)"
    assert params["space.model.width"] == "8"
    assert (params["max_epochs"], params["searcher.kind"], params["early_stopping.kind"]) == ("4", "random", "asha")
    changeable = {"priority", "max_restarts", "searcher.num_samples", "objective.goal", "budget.gpu_hours"}
    assert not changeable & set(params)
    assert (parent.info.status, parent.data.tags["rung.state"]) == ("RUNNING", "RUNNING")
    counts = {name: value for name, value in parent.data.metrics.items() if name.startswith("trials_") and value}
    assert counts == {"trials_running": 3}
    assert next(iter(parent.data.metrics)) == "best_value", "MLflow's comparison of runs begins with it"
    assert parent.info.run_name == "tested (abc)"
    assert (parent.data.metrics["best_value"], parent.data.tags["rung.best_trial"]) == (0.5, "0")
    assert parent.data.tags["rung.best_run_id"] == one.ids().runs[0]

    for number in (1, 2):
        stopwatch.seconds += 5.0
        epoch(recorder, number, 1, 0.6 + number / 10, TrialState.EARLY_STOPPED)
        assert one.deliver()
    recorder.record_end(0, TrialState.ERROR, "no memory", ErrorKind.OUT_OF_MEMORY)
    one.finish()
    winner = Winner(trial=2, value=0.8, test_accuracy=0.75, test_loss=None)
    one.end_parent_run(
        summarize(Phase.COMPLETED, "all done", recorder.table, one.ids().runs, winner, "validation_accuracy")
    )
    parent = parent_run(client, one)
    assert points(client, parent, "best_value") == [(0, 0.5), (1, 0.7), (2, 0.8), (3, 0.8)]
    counts = {name: value for name, value in parent.data.metrics.items() if name.startswith("trials_") and value}
    assert counts == {"trials_early_stopped": 2, "trials_error": 1}
    assert (parent.info.status, parent.data.tags["rung.state"]) == ("FINISHED", "COMPLETED")


def test_the_note_says_what_the_experiment_is_and_where_rung_has_it(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker(description="Why we search.")
    assert one.deliver()
    note = parent_run(client, one).data.tags["mlflow.note.content"]
    assert note.startswith("Why we search.\n\nExperiment `abc` of Rung: ")
    for part in ("`random` proposes 12 trials of at most 4 epochs", "`optimizer.lr`", "`rung show abc`"):
        assert part in note
    assert "(http://127.0.0.1:9/api/v1/experiments/abc)" in note
    assert f"(#/experiments/{one.ids().experiment}/runs?viewStateShareKey=rung-abc&compareRunsMode=CHART)" in note
    long = tracker(description="d" * 9000)._writer()._runs._description.note("7")
    assert len(long) == 5000
    assert long.endswith("`rung show abc`")


def test_what_matters_is_on_the_parent_run_and_first_in_the_view(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    recorder.record_suggestion(0, {}, ADAM)
    epoch(recorder, 0, 1, 0.8, TrialState.COMPLETED)
    one.finish()
    important = {"batch_size": 0.7, "optimizer": 0.2}
    runs = one.ids().runs
    one.end_parent_run(summarize(Phase.COMPLETED, "", recorder.table, runs, None, "validation_accuracy", important))
    parent = parent_run(client, one)
    shares = {name: value for name, value in parent.data.metrics.items() if name.startswith("importance/")}
    assert shares == {"importance/batch_size": 0.7, "importance/optimizer": 0.2}
    tags = client.get_experiment(str(one.ids().experiment)).tags
    view = read_view(tags["mlflow.sharedViewState.rung-abc"])
    assert view["selectedColumns"][1:3] == ["params.`batch_size`", "params.`optimizer.kind`"]


def test_a_replicate_is_a_run_of_its_own_kind_below_that_of_its_trial(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    number = replicate_number(0, 1)
    recorder.record_suggestion(0, {}, ADAM)
    epoch(recorder, 0, 1, 0.8, TrialState.COMPLETED)
    recorder.record_suggestion(number, {}, ADAM)
    epoch(recorder, number, 1, 0.9, TrialState.COMPLETED)
    one.finish()
    runs = one.ids().runs
    run = client.get_run(runs[number])
    assert (run.data.tags["mlflow.parentRunId"], run.data.tags["rung.role"]) == (runs[0], "replicate")
    assert run.data.tags["rung.replicate_of"] == "0"
    assert str(run.info.run_name).startswith("replicate-0000-1 adam")
    assert (run.info.status, run.data.metrics["best_validation_accuracy"]) == ("FINISHED", 0.9)
    one.end_parent_run(summarize(Phase.COMPLETED, "", recorder.table, runs, None, "validation_accuracy"))
    parent = parent_run(client, one)
    assert (parent.data.metrics["best_value"], parent.data.metrics["trials_completed"]) == (0.8, 1)


def test_the_note_has_each_remark_once_and_keeps_what_a_person_wrote(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    recorder.record_suggestion(0, {}, {"optimizer.lr": 0.1})
    epoch(recorder, 0, 1, 0.8, TrialState.COMPLETED)
    one.finish()
    client.set_tag(parent_run(client, one).info.run_id, "mlflow.note.content", "My own words.")
    winner = Winner(trial=0, value=0.8, test_accuracy=0.77, test_balanced_accuracy=0.29, test_loss=None)
    runs = one.ids().runs
    ended = summarize(
        Phase.COMPLETED, "", recorder.table, runs, winner, "validation_accuracy", remarks=("images leak", "a tie")
    )
    for _ in range(2):
        one.end_parent_run(ended)
    parent = parent_run(client, one)
    hidden = "the test accuracy of 0.77 hides a balanced accuracy of 0.29"
    added = "".join(f"\n\n**Note:** {remark}." for remark in (hidden, "images leak", "a tie"))
    assert parent.data.tags["mlflow.note.content"] == f"My own words.{added}"
    assert parent.data.metrics["test_balanced_accuracy"] == 0.29


def test_the_experiment_has_a_view_of_its_trials(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    """Written once by each attempt."""
    one = tracker()
    counting: Any = FlakyClient(client, 0.0)
    one.connection._client = counting
    assert one.ids().view is None
    for number in range(2):
        record_trials(recorder, range(number, number + 1))
        assert one.deliver()
    assert one.ids().view == "rung-abc"
    assert counting.calls["set_experiment_tag"] == 1
    home = client.get_experiment(str(one.ids().experiment))
    tag = home.tags["mlflow.sharedViewState.rung-abc"]
    assert json.loads(tag)["name"] == "tested (abc)"
    view = read_view(tag)
    assert [column for column in view["selectedColumns"] if column.startswith("params")] == [
        f"params.`{name}`" for name in SEARCHED
    ]
    shown = client.search_runs([home.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"])
    assert {run.info.run_id for run in shown} == set(one.ids().runs.values())
    open_recorder(2)
    two = tracker(2)
    assert two.deliver()
    assert two.ids().view == "rung-abc"


def test_an_mlflow_that_refuses_the_view_costs_only_the_view(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    class Refusing:
        def __getattr__(self, name: str) -> Any:
            if name == "set_experiment_tag":
                raise RestException({"error_code": "PERMISSION_DENIED", "message": "may not edit the experiment"})
            return getattr(client, name)

    one = tracker()
    refusing: Any = Refusing()
    one.connection._client = refusing
    record_trials(recorder, range(1))
    assert one.deliver()
    assert one.ids().view is None
    assert parent_run(client, one).data.metrics["trials_completed"] == 1


def test_a_paused_trial_and_a_paused_experiment_say_so(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, open_recorder: OpenRecorder
) -> None:
    record_trials(recorder, range(1), epochs=1)
    recorder.record_suggestion(1, {}, SGD)
    epoch(recorder, 1, 1, 0.3)
    recorder.mark_started(1)
    recorder.mark_slot_taken(1)
    recorder.record_release(1, "rung at epoch 1")
    one = tracker()
    assert one.deliver()
    assert trial_runs(client)[1].data.tags["rung.trial_state"] == "PAUSED"
    assert parent_run(client, one).data.metrics["trials_paused"] == 1
    one.pause("paused on request")
    parent = parent_run(client, one)
    assert parent.info.status == "SCHEDULED"
    assert (parent.data.tags["rung.state"], parent.data.tags["rung.reason"]) == ("PAUSED", "paused on request")

    later = open_recorder(2)
    two = tracker(2)
    epoch(later, 1, 2, 0.4)
    assert two.deliver()
    assert trial_runs(client)[1].data.tags["rung.trial_state"] == "RUNNING"
    parent = parent_run(client, two)
    assert (parent.info.status, parent.data.tags["rung.state"]) == ("RUNNING", "RUNNING")
    assert (parent.data.tags["rung.reason"], parent.data.metrics["trials_paused"]) == ("", 0)


def test_a_pause_does_not_wait_for_an_mlflow_that_refuses(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    tracker().pause("no run was created")
    one = tracker()
    assert one.deliver()
    broken: Any = FlakyClient(client, 1.0)
    one.connection._client = broken
    one.pause("paused on request")
    assert broken.failed == 1


def test_the_progress_is_not_reported_more_often_than_needed(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tracker()
    counting: Any = FlakyClient(client, 0.0)
    one.connection._client = counting
    assert one.deliver()
    assert one.deliver()
    assert counting.calls["log_batch"] == 1, "nothing has changed"
    monkeypatch.setattr(mlflow_writer, "REPORT_S", 3600.0)
    for number in range(5):
        record_trials(recorder, range(number, number + 1))
        assert one.deliver()
    assert counting.calls["log_batch"] == 1 + 5


def test_an_experiment_of_an_older_version_continues_in_its_runs(
    client: MlflowClient,
    tracker: BuildTracker,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its parent may have parameters that are written in another way, and its trials' runs have no best values."""
    first = open_recorder()
    first.record_suggestion(0, {}, ADAM)
    epoch(first, 0, 1, 0.5, TrialState.COMPLETED)
    first.record_suggestion(1, {}, SGD)
    epoch(first, 1, 1, 0.6)
    home: Any = client.get_experiment_by_name("driver")
    tags = {"rung.experiment_id": "abc"}
    parent = client.create_run(home.experiment_id, 1_000_000, tags | {"rung.role": "experiment"}, "tested").info.run_id
    client.log_param(parent, "space.batch_size", "64, 128")
    runs = []
    for number, (parameters, accuracy) in enumerate(((ADAM, 0.5), (SGD, 0.6))):
        more = {"mlflow.parentRunId": parent, "rung.trial_id": str(number), "rung.trial_state": "RUNNING"}
        run = client.create_run(home.experiment_id, 1_000_000, tags | more, f"trial-{number:04d}").info.run_id
        metrics = {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy, "lr": 0.1}
        client.log_batch(
            run,
            [Metric(name, value, 1_000_000, 1) for name, value in metrics.items()],
            [Param(name, str(value)) for name, value in sorted(parameters.items())],
        )
        runs.append(run)
    client.set_terminated(runs[0], "FINISHED")
    first.close()
    cursor = {"offset": (tmp_path / "journal.jsonl").stat().st_size, "mark": None, "writer": 1}
    cursor |= {"experiment": home.experiment_id, "parent": parent, "runs": {"0": runs[0], "1": runs[1]}}
    (tmp_path / "tracking.json").write_text(json.dumps(cursor))

    later = open_recorder(2)
    two = tracker(2)
    epoch(later, 1, 2, 0.55, TrialState.COMPLETED)
    later.record_suggestion(2, {}, ADAM)
    train(later, 2, 1)
    assert two.deliver()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    after = trial_runs(client)
    assert [after[number].info.run_id for number in (0, 1)] == runs
    assert after[1].info.run_name == "trial-0001"
    assert after[1].data.metrics["best_validation_accuracy"] == 0.6
    assert {frozenset(run.data.params) for run in after.values()} == {frozenset(ADAM)}
    found = parent_run(client, two)
    assert found.info.run_id == parent
    assert found.data.params["space.batch_size"] == "64, 128"
    assert found.data.params["space.optimizer.kind"] == "adam | sgd"
    assert found.data.metrics["trials_completed"] == 3
    assert points(client, after[1], "validation_accuracy") == [(1, 0.6), (2, 0.55)]
    assert_delivered(client, later)
