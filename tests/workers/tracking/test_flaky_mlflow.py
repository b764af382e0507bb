"""An MLflow of which some requests fail: each is repeated by itself, and nothing that was accepted is sent again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search_spaces.protocol import RunStatus, Winner
from tests.support.tracking import BuildTracker, FlakyClient, LosingClient, assert_delivered, record_trials, trial_runs
from workers.state.recorder import Recorder
from workers.tracking import mlflow_writer, repetition
from workers.tracking.parallel import for_each
from workers.tracking.summary import Summary
from workers.tracking.tracker import Tracker

TRIALS = 12
ENDED = Summary(RunStatus.FINISHED, {"best_value": 0.3}, {"rung.state": "COMPLETED"}, TRIALS)
FILES = ("MLmodel", "data/weights.bin", "data/more/code.py", "requirements.txt")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repetition, "PATIENCE_S", 5.0)
    monkeypatch.setattr(repetition, "FIRST_PAUSE_S", 0.001)


def over(tracker: Tracker, client: Any) -> Tracker:
    """The tracker, with its requests sent by `client`."""
    tracker.connection._client = client
    return tracker


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def register_once(tracker: Tracker, model: Path) -> str:
    """As the retrier does: again while it fails."""
    while True:
        with suppress(MlflowException):
            return tracker.register(model, Winner(trial=0, value=0.3, test_accuracy=0.25, test_loss=1.5))


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_requests_that_fail_by_chance_cost_little_and_duplicate_nothing(
    client: MlflowClient,
    tracker: BuildTracker,
    recorder: Recorder,
    model: Path,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlflow_writer, "AT_ONCE", 4)
    flaky = FlakyClient(client, share)
    one = over(tracker(), flaky)
    record_trials(recorder, range(TRIALS))
    assert one.deliver(), "each block is accepted at the first try"
    uri = register_once(one, model)
    one.end_parent_run(ENDED)
    assert flaky.failed >= 3
    assert_delivered(client, recorder)
    assert all(run.info.status == "FINISHED" for run in trial_runs(client).values())
    parent = client.get_run(str(one.ids().parent))
    assert parent.info.status == "FINISHED"
    assert len(client.get_metric_history(parent.info.run_id, "best_value")) == 1
    (logged,) = client.search_logged_models([parent.info.experiment_id])
    (version,) = client.search_model_versions("name = 'driver.tested'")
    assert uri == f"models:/driver.tested/{version.version}"
    assert logged.model_id in str(version.source)
    undisturbed = 3 * TRIALS + len(FILES) + 20
    assert sum(flaky.calls.values()) <= undisturbed / (1 - share) + 2 * flaky.failed, flaky.calls


def test_events_of_a_run_that_were_accepted_are_not_sent_again(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of events has grown when it is sent again, also for a run that had been accepted."""
    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)
    recorder.record_suggestion(0, {}, {"lr": 0.1, "momentum": "n/a"})
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.1, "lr": 0.1})
    record_trials(recorder, range(1, TRIALS))
    losing: Any = LosingClient(client, "log_batch", TRIALS, after=False)
    flaky = FlakyClient(losing, 0.0)
    one = over(tracker(), flaky)
    assert not one.deliver()
    assert flaky.calls["log_batch"] == TRIALS
    recorder.record_epoch(0, 2, {"validation_accuracy": 0.2, "lr": 0.1})
    assert one.deliver()
    assert flaky.calls["log_batch"] == TRIALS + 3, "the last trial's, the new epoch and the progress"
    assert flaky.calls["create_run"] == TRIALS + 1
    assert_delivered(client, recorder)


def test_files_that_were_accepted_are_not_uploaded_again(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)
    record_trials(recorder, range(1))
    losing = LosingClient(client, "log_model_artifact", 3, after=False)
    one = over(tracker(), losing)
    assert one.deliver()
    winner = Winner(trial=0, value=0.3, test_accuracy=0.25, test_loss=1.5)
    with pytest.raises(MlflowException):
        one.register(model, winner)
    answered = one.answered_at
    one.register(model, winner)
    assert losing.calls == len(FILES) + 1
    assert one.answered_at > answered, "each file is progress"
    (logged,) = client.search_logged_models([str(one.ids().experiment)])
    listed = client.list_logged_model_artifacts(logged.model_id)
    assert sorted(item.path for item in listed) == ["MLmodel", "data", "requirements.txt"]


@pytest.mark.parametrize("failing", [3, 10**9], ids=["for a moment", "for long"])
def test_a_repetition_ends_when_its_patience_does(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    now, tries = 0.0, 0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def send() -> str:
        nonlocal tries
        tries += 1
        if tries <= failing:
            raise ConnectionError("refused")
        return "sent"

    class Clock:
        def monotonic(self) -> float:
            return now

    monkeypatch.setattr(repetition, "time", Clock())
    monkeypatch.setattr(repetition, "FIRST_PAUSE_S", 0.05)
    if failing == 3:
        assert repetition.repeat(send, lambda error: True, wait) == "sent"
        assert now == pytest.approx(0.35)
        return
    with pytest.raises(ConnectionError):
        repetition.repeat(send, lambda error: True, wait)
    assert 4.0 < now <= repetition.PATIENCE_S
    assert tries < 15


def test_an_error_of_ours_is_not_repeated() -> None:
    tries: list[int] = []

    def send() -> None:
        tries.append(1)
        raise PermissionError("never")

    with pytest.raises(PermissionError):
        repetition.repeat(send, lambda error: not isinstance(error, PermissionError), lambda seconds: None)
    assert len(tries) == 1


def test_plots_are_uploaded_although_requests_fail(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, model: Path
) -> None:
    record_trials(recorder, range(1))
    one = over(tracker(), FlakyClient(client, 0.3))
    assert one.deliver()
    one.log_folder(model)
    listed = client.list_artifacts(str(one.ids().parent), "model/data")
    assert sorted(item.path for item in listed) == ["model/data/more", "model/data/weights.bin"]


def test_the_first_error_of_several_requests_ends_all_of_them() -> None:
    begun: list[int] = []

    def send(number: int) -> None:
        begun.append(number)
        if number == 3:
            raise ConnectionError("refused")

    with pytest.raises(ConnectionError):
        for_each(range(100), send, 1)
    assert begun == [0, 1, 2, 3]
    begun.clear()
    with pytest.raises(ConnectionError):
        for_each(range(100), send, 4)
    assert len(begun) == len(set(begun))
    begun.clear()
    for_each(range(3), send, 4)
    assert sorted(begun) == [0, 1, 2]
    for_each([], send, 4)


def test_a_trial_takes_three_requests_and_the_end_of_a_search_a_fixed_number(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    counting = FlakyClient(client, 0.0)
    one = over(tracker(), counting)
    record_trials(recorder, range(3 * TRIALS))
    assert one.deliver()
    assert sum(counting.calls.values()) <= 3 * 3 * TRIALS + 4, counting.calls
    counting.calls.clear()
    recorder.record_suggestion(3 * TRIALS, {}, {})
    one.finish()
    one.end_parent_run(ENDED)
    assert sum(counting.calls.values()) <= 4, counting.calls
