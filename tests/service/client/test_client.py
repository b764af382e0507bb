"""The SDK against the real service: what it sends, what it gives back, and how it fails."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from search_spaces.protocol import Heartbeat, TrialState, TrialUpdate, Winner
from service.checkup import examinations
from service.client import Client
from service.client.transport import PAGE
from service.contract.errors import (
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
    ValidationFailedError,
)
from service.contract.states import State
from service.scheduling.reconciler import Reconciler
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher

SPEC = {"name": "first", "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}}}


def line(trial: int, value: float, state: TrialState = TrialState.COMPLETED) -> TrialUpdate:
    parameters: dict[str, Any] = {"optimizer.kind": "adam", "optimizer.lr": 0.001 * (trial + 1)}
    metrics: dict[str, float | None] = {"validation_accuracy": value, "validation_loss": 1 - value}
    return TrialUpdate(
        trial=trial, state=state, epoch=8, best_value=value, metrics=metrics, parameters=parameters, started_at=1.0
    )


class TypedDriver(Driver):
    def beat(self, phase: Any, *trials: TrialUpdate, winner: Winner | None = None) -> None:
        self.send(Heartbeat(phase=phase, trials=list(trials), winner=winner)).raise_for_status()


@pytest.fixture
def drive(client: httpx.Client, reconciler: Reconciler, launcher: MemoryLauncher) -> Any:
    """Launch an experiment that was submitted, and give its driver."""

    def begin(experiment_id: str) -> TypedDriver:
        reconciler.reconcile_once()
        (launch,) = (config for config in launcher.launches.values() if config.experiment_id == experiment_id)
        return TypedDriver(client, launch)

    return begin


def test_validating_stores_nothing(rung: Client) -> None:
    checked = rung.submit(SPEC, validate_only=True)
    assert checked.num_samples == 20
    assert checked.spec["dataset"]["name"] == "digits"
    assert list(rung.list()) == []


def test_an_invalid_spec_raises_its_problems(rung: Client) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        rung.submit({"name": "x", "search_space": {"optimizer": {"kind": "adma"}, "batch_size": 100}})
    assert [problem.field for problem in caught.value.problems] == [
        "search_space.optimizer.kind",
        "search_space.batch_size",
    ]
    assert "did you mean 'adam'" in caught.value.problems[0].rule
    assert caught.value.problems[1].value == 100
    with pytest.raises(ValidationFailedError, match="finite"):
        rung.submit({"name": "x", "search_space": {"label_smoothing": float("nan")}})


def test_lists_request_all_pages(rung: Client) -> None:
    ids = [rung.submit({"name": f"n{index}", "project": "many"}).id for index in range(PAGE + 2)]
    assert [view.id for view in rung.list(project="many")] == ids[::-1]
    assert [view.id for view in rung.list(limit=3)] == ids[:-4:-1]
    assert [view.name for view in rung.list(name="n10", state=State.QUEUED)] == ["n101", "n100", "n10"]
    assert list(rung.list(limit=0)) == []
    with pytest.raises(ValidationFailedError, match="state"):
        list(rung.list(state="SLEEPING"))


def test_an_experiment_from_its_submission_to_its_winner(rung: Client, drive: Any) -> None:
    experiment = rung.submit(SPEC)
    driver = drive(experiment.id)
    driver.beat("searching", *(line(trial, value) for trial, value in enumerate([0.5, 0.9, 0.7])))
    assert [line.trial for line in rung.trials(experiment.id, sort="-best_value")] == [1, 2, 0]
    assert [line.trial for line in rung.trials(experiment.id, sort="validation_accuracy", limit=2)] == [0, 2]
    assert list(rung.trials(experiment.id, state="ERROR")) == []
    assert rung.trial(experiment.id, 1).metrics["validation_accuracy"] == 0.9
    with pytest.raises(ValidationFailedError, match="sort"):
        list(rung.trials(experiment.id, sort="validation_acuracy"))

    driver.beat("completed", winner=Winner(trial=1, value=0.9, test_accuracy=0.88, test_loss=0.3))
    view = rung.wait(experiment.id, timeout_s=10)
    assert view.state is State.COMPLETED
    assert view.best is not None
    assert (view.best.trial, view.best.value) == (1, 0.9)
    assert view.winner is not None
    assert view.winner["test_accuracy"] == 0.88
    with pytest.raises(ConflictError):
        rung.cancel(experiment.id)


def test_watching_ends_with_the_last_view(rung: Client) -> None:
    experiment = rung.submit(SPEC)
    seen = []
    for view in rung.watch(experiment.id, interval_s=0.01):
        seen.append(view.state)
        if len(seen) == 2:
            rung.cancel(experiment.id)
    assert seen == [State.QUEUED, State.QUEUED, State.CANCELED]


def test_waiting_ends_at_its_timeout(rung: Client) -> None:
    experiment = rung.submit(SPEC)
    with pytest.raises(TimeoutError, match="QUEUED after"):
        rung.wait(experiment.id, timeout_s=0.05, interval_s=0.02)


def test_what_may_be_asked(rung: Client) -> None:
    assert rung.schema()["properties"]["search_space"]
    names = [preset.name for preset in rung.presets()]
    assert "digits-quick" in names
    preset = rung.preset("digits-quick")
    assert preset.yaml.startswith("#")
    assert rung.submit(preset.yaml, validate_only=True).num_samples == 32
    with pytest.raises(NotFoundError, match="digits-quick"):
        rung.preset("digit-quick")
    with pytest.raises(NotFoundError):
        rung.preset("../../schema")


def test_the_service_and_its_cluster(rung: Client, reconciler: Reconciler) -> None:
    reconciler.reconcile_once()
    health = rung.health()
    assert health.ready
    assert not health.mlflow.ok
    assert [node.name for node in rung.cluster().nodes] == ["small", "large"]


def test_every_request_has_the_token() -> None:
    seen = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        seen.set()
        return httpx.Response(200, json=[])

    with Client("http://rung.test", "secret", transport=httpx.MockTransport(answer)) as rung:
        assert rung.presets() == ()
    assert seen.is_set()


def test_every_change_is_a_method(rung: Client, drive: Any) -> None:
    experiment = rung.submit({**SPEC, "searcher": {"kind": "random", "num_samples": 2}})
    paused = rung.pause(experiment.id, revision=experiment.revision)
    assert (paused.state, paused.revision) == (State.PAUSED, experiment.revision + 1)
    with pytest.raises(PreconditionFailedError, match=f'If-Match is "{experiment.revision}"'):
        rung.change(experiment.id, revision=experiment.revision, priority=3)
    changed = rung.change(experiment.id, num_samples=3, budget={"slot_hours": 2})
    assert (changed.num_samples, changed.controls["budget"]["slot_hours"]) == (3, 2)
    assert rung.change(experiment.id, {"budget": None}).controls["budget"]["slot_hours"] is None
    with pytest.raises(ValidationFailedError, match="did you mean 'goal'"):
        rung.change(experiment.id, gaol=1)
    assert rung.wait(experiment.id, timeout_s=10).state is State.PAUSED, "it waits for a person, so nobody waits for it"
    rung.resume(experiment.id)
    driver = drive(experiment.id)
    driver.beat("searching", line(0, 0.5), line(1, 0.6, TrialState.RUNNING))
    with pytest.raises(PreconditionFailedError, match=f'If-Match is "{experiment.revision}"'):
        rung.cancel_trial(experiment.id, 1, revision=experiment.revision)
    assert rung.trial(experiment.id, 1).cancel_asked_at is None
    assert rung.cancel_trial(experiment.id, 1, revision=rung.get(experiment.id).revision).cancel_asked_at is not None
    with pytest.raises(ConflictError):
        rung.cancel_trial(experiment.id, 0)
    with pytest.raises(ConflictError, match="cancel it first"):
        rung.delete(experiment.id)
    driver.beat("completed")
    continuation = rung.continue_from(experiment.id, {"searcher": {"num_samples": 5}})
    assert (continuation.source_id, continuation.num_samples) == (experiment.id, 6)
    rung.archive(experiment.id)
    assert [view.id for view in rung.list()] == [continuation.id]
    assert [view.id for view in rung.list(archived=True)] == [experiment.id]
    assert [view.id for view in rung.list(archived=None)] == [continuation.id, experiment.id]
    assert rung.unarchive(experiment.id).archived_at is None
    rung.cancel(continuation.id)
    assert rung.delete(experiment.id).state is State.DELETING


def test_the_nodes_have_more_time_to_answer_than_the_service_itself() -> None:
    """The service waits for them, by its own limit; the client must wait longer."""
    waits: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        waits[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={"at": "2026-12-01T00:00:00Z", "version": "1", "findings": []})

    with Client("http://rung.test", "secret", timeout_s=5.0, transport=httpx.MockTransport(answer)) as rung:
        rung.checkup()
        rung.checkup_nodes()
    assert waits["/api/v1/checkup"] == 5.0
    assert waits["/api/v1/checkup/nodes"] > examinations.NODES_S
