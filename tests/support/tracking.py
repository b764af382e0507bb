"""What tests of the tracker share: trials to record, MLflow's view of them, and clients that fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from search_spaces.protocol import TrialState
from workers.state.recorder import Recorder
from workers.tracking.tracker import Tracker

#: `build(attempt, superseded=..., field=...)`: a tracker of an attempt at such an experiment.
BuildTracker = Callable[..., Tracker]


def record_trials(recorder: Recorder, numbers: range, epochs: int = 3) -> None:
    for number in numbers:
        recorder.record_suggestion(number, {}, {"lr": 0.1 * (number + 1), "momentum": "n/a"})
        train(recorder, number, epochs)


def train(recorder: Recorder, number: int, epochs: int) -> None:
    first = recorder.table.trials[number].epoch + 1
    for epoch in range(first, first + epochs):
        outcome = (TrialState.COMPLETED, "all epochs done") if epoch == first + epochs - 1 else None
        recorder.record_epoch(number, epoch, {"validation_accuracy": epoch / 10, "lr": 0.1}, outcome)


def trial_runs(client: MlflowClient) -> dict[int, Run]:
    found: Any = client.get_experiment_by_name("driver")
    runs = client.search_runs([found.experiment_id], "tags.`mlflow.parentRunId` LIKE '%'", max_results=1000)
    assert len(runs) == len({run.data.tags["rung.trial_id"] for run in runs}), "a trial has two runs"
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) <= 1, "there are two parents"
    return {int(run.data.tags["rung.trial_id"]): run for run in runs}


def assert_delivered(client: MlflowClient, recorder: Recorder) -> None:
    """Every (run, metric, step) stands once, with its value, and nothing else does."""
    runs = trial_runs(client)
    assert set(runs) == set(recorder.table.trials)
    for number, trial in recorder.table.trials.items():
        for name in ("validation_accuracy", "lr"):
            points = client.get_metric_history(runs[number].info.run_id, name)
            assert Counter(point.step for point in points) == Counter(range(1, trial.epoch + 1)), (number, name)
            if name == "validation_accuracy":
                assert [point.value for point in sorted(points, key=lambda point: point.step)] == trial.curve


class LosingClient:
    """A real client of which some calls fail: before they are done, or after, when only the answer is lost."""

    def __init__(self, real: MlflowClient, method: str, on: int, after: bool) -> None:
        self._real, self._method, self._on, self._after = real, method, on, after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._method:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls != self._on:
                return real(*arguments, **named)
            if self._after:
                real(*arguments, **named)
            raise MlflowException("Connection reset by peer")

        return call


class HangingClient:
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


class FlakyClient:
    """A real client of which a share of all calls fail, by chance: every second of them after its work is done."""

    def __init__(self, real: MlflowClient, share: float, seed: int = 5) -> None:
        self._real, self._share = real, share
        self._random = Random(seed)
        self.calls: Counter[str] = Counter()
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            fails = self._random.random() < self._share
            self.failed += fails
            if fails and self.failed % 2:
                raise MlflowException("API request failed with error code 500")
            answer = real(*arguments, **named)
            if fails:
                raise MlflowException("API request failed with error code 500")
            return answer

        return call
