"""An MLflow whose database was replaced by another one: nothing is taken for delivered until the old one is back."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from tests.support.tracking import BuildTracker, assert_delivered, record_trials, train, trial_runs
from workers.state.recorder import Recorder


class ReplacedClient:
    """A real client that knows nothing of what `missing` names, nor of anything if it is None."""

    def __init__(self, real: MlflowClient, missing: set[str] | None = None) -> None:
        self._real, self.missing = real, missing

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if self.missing is None or str(arguments[0]) in self.missing:
                raise RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{arguments[0]} not found"})
            return real(*arguments, **named)

        return call


@pytest.mark.parametrize("attempt", [1, 2])
def test_events_wait_until_the_database_is_back(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder, attempt: int
) -> None:
    record_trials(recorder, range(1))
    recorder.record_suggestion(1, {}, {"lr": 0.3, "momentum": "n/a"})
    one = tracker()
    assert one.deliver()
    replaced: Any = ReplacedClient(client)
    again = one if attempt == 1 else tracker(attempt)
    again.connection._client = replaced
    train(recorder, 1, 3)
    record_trials(recorder, range(2, 4))
    assert not again.deliver()
    assert not again.deliver(), "it would be lost"
    replaced.missing = set()
    assert again.deliver()
    assert_delivered(client, recorder)


def test_a_run_that_somebody_deleted_for_good_blocks_nothing(
    client: MlflowClient, tracker: BuildTracker, recorder: Recorder
) -> None:
    one = tracker()
    record_trials(recorder, range(1))
    recorder.record_suggestion(1, {}, {"lr": 0.3, "momentum": "n/a"})
    assert one.deliver()
    gone = one.ids().runs[1]
    client.delete_run(gone)
    replaced: Any = ReplacedClient(client, {gone})
    one.connection._client = replaced
    train(recorder, 1, 3)
    record_trials(recorder, range(2, 3))
    assert one.deliver()
    assert set(trial_runs(client)) == {0, 2}
