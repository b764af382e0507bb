"""The SDK against the real service: what it sends, what it gives back, and how it fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from search_spaces.protocol import Heartbeat, TrialState, TrialUpdate, Winner
from service.client import Client, UnreachableError
from service.client.client import PAGE
from service.contract.errors import (
    ConflictError,
    InternalError,
    NotFoundError,
    PreconditionFailedError,
    RungError,
    UnavailableError,
    ValidationFailedError,
)
from service.contract.states import State
from service.scheduling.reconciler import Reconciler
from tests.support.memory_launcher import MemoryLauncher

SPEC = {"name": "first", "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}}}


@pytest.fixture
def rung(client: httpx.Client) -> Iterator[Client]:
    with Client(str(client.base_url)) as rung:
        yield rung


def line(trial: int, value: float, state: TrialState = TrialState.COMPLETED) -> TrialUpdate:
    parameters: dict[str, Any] = {"optimizer.kind": "adam", "optimizer.lr": 0.001 * (trial + 1)}
    metrics: dict[str, float | None] = {"validation_accuracy": value, "validation_loss": 1 - value}
    return TrialUpdate(
        trial=trial, state=state, epoch=8, best_value=value, metrics=metrics, parameters=parameters, started_at=1.0
    )


class Driver:
    """The far end of the heartbeat, played by hand."""

    def __init__(self, client: httpx.Client, launch: Any) -> None:
        self._client, self._launch = client, launch

    def beat(self, phase: Any, *trials: TrialUpdate, winner: Winner | None = None) -> None:
        message = Heartbeat(phase=phase, trials=list(trials), winner=winner)
        response = self._client.post(
            f"/api/v1/attempts/{self._launch.attempt_id}/heartbeat",
            headers={"Authorization": f"Bearer {self._launch.token}", "Content-Type": "application/json"},
            content=message.model_dump_json(),
        )
        response.raise_for_status()


@pytest.fixture
def drive(client: httpx.Client, reconciler: Reconciler, launcher: MemoryLauncher) -> Any:
    """Launch an experiment that was submitted, and give its driver."""

    def begin(experiment_id: str) -> Driver:
        reconciler.reconcile_once()
        (launch,) = (one for one in launcher.launches.values() if one.experiment_id == experiment_id)
        return Driver(client, launch)

    return begin


@pytest.mark.parametrize("form", ["mapping", "text", "yaml file", "json file"])
def test_specs_come_in_four_forms(rung: Client, tmp_path: Path, form: str) -> None:
    text = "name: first  # a comment\nsearcher: {kind: random, num_samples: 3}\n"
    data = {"name": "first", "searcher": {"kind": "random", "num_samples": 3}}
    (tmp_path / "spec.yaml").write_text(text)
    (tmp_path / "spec.json").write_text(json.dumps(data))
    specs: dict[str, Any] = {
        "mapping": data,
        "text": text,
        "yaml file": tmp_path / "spec.yaml",
        "json file": tmp_path / "spec.json",
    }
    view = rung.submit(specs[form])
    assert (view.name, view.state, view.num_samples) == ("first", State.QUEUED, 3)
    assert rung.get(view.id) == view


def test_checking_stores_nothing(rung: Client) -> None:
    checked = rung.submit(SPEC, validate_only=True)
    assert checked.num_samples == 20
    assert checked.spec["dataset"]["name"] == "digits"
    assert list(rung.list()) == []


def test_a_bad_spec_raises_its_problems(rung: Client) -> None:
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


@pytest.mark.parametrize("experiment_id", ["22222222", "../../readyz", "a/b", "ä", "%"])
def test_an_id_that_does_not_exist(rung: Client, experiment_id: str) -> None:
    calls: list[Any] = [
        rung.get,
        rung.cancel,
        lambda one: list(rung.trials(one)),
        lambda one: rung.trial(one, 0),
        lambda one: rung.curves(one, 0),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call(experiment_id)


def test_lists_go_over_pages(rung: Client) -> None:
    ids = [rung.submit({"name": f"n{index}", "project": "many"}).id for index in range(PAGE + 2)]
    assert [one.id for one in rung.list(project="many")] == ids[::-1]
    assert [one.id for one in rung.list(limit=3)] == ids[:-4:-1]
    assert [one.name for one in rung.list(name="n10", state=State.QUEUED)] == ["n101", "n100", "n10"]
    assert list(rung.list(limit=0)) == []
    with pytest.raises(ValidationFailedError, match="state"):
        list(rung.list(state="SLEEPING"))


def test_from_submission_to_winner(rung: Client, drive: Any) -> None:
    experiment = rung.submit(SPEC)
    driver = drive(experiment.id)
    driver.beat("searching", *(line(trial, value) for trial, value in enumerate([0.5, 0.9, 0.7])))
    assert [one.trial for one in rung.trials(experiment.id, sort="-best_value")] == [1, 2, 0]
    assert [one.trial for one in rung.trials(experiment.id, sort="validation_accuracy", limit=2)] == [0, 2]
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


def test_waiting_has_an_end(rung: Client) -> None:
    experiment = rung.submit(SPEC)
    with pytest.raises(TimeoutError, match="QUEUED after"):
        rung.wait(experiment.id, timeout_s=0.05, interval_s=0.02)


def test_what_may_be_asked(rung: Client) -> None:
    assert rung.schema()["properties"]["search_space"]
    names = [preset.name for preset in rung.presets()]
    assert "digits-quick" in names
    preset = rung.preset("digits-quick")
    assert preset.yaml.startswith("#")
    assert rung.submit(preset.yaml, validate_only=True).num_samples == 24
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


def test_nobody_there_names_the_address_and_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nothing answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as rung, pytest.raises(UnreachableError) as caught:
            rung.health()
    assert url in caught.value.detail
    assert "`rung up`" in caught.value.detail


@pytest.mark.parametrize(
    "url", ["no-scheme", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://nowhere.invalid"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UnreachableError), Client(url) as rung:
        rung.health()


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (200, {"content-type": "text/html"}, b"<html>", UnreachableError),
        (200, {"content-type": "application/json"}, b"{}", UnreachableError),
        (200, {"content-type": "application/json"}, b"[1]", UnreachableError),
        (502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>", InternalError),
        (503, {"content-type": "text/html"}, b"busy", UnavailableError),
        (422, {"content-type": "application/problem+json"}, b"not json", UnreachableError),
        (422, {"content-type": "application/problem+json"}, b'["odd"]', ValidationFailedError),
        (404, {"content-type": "application/json"}, b'{"detail": "Not Found"}', NotFoundError),
    ],
)
def test_other_services_at_the_address(status: int, headers: Any, body: bytes, error: type[RungError]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, headers=headers, content=body))
    with Client("http://rung.test", transport=transport) as rung, pytest.raises(error):
        rung.get("22222222")


def test_the_token_goes_with_every_request() -> None:
    seen = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        seen.set()
        return httpx.Response(200, json=[])

    with Client("http://rung.test", "secret", transport=httpx.MockTransport(answer)) as rung:
        assert rung.presets() == ()
    assert seen.is_set()


def test_every_change_is_a_method(rung: Client, drive: Any) -> None:
    one = rung.submit({**SPEC, "searcher": {"kind": "random", "num_samples": 2}})
    paused = rung.pause(one.id, revision=one.revision)
    assert (paused.state, paused.revision) == (State.PAUSED, one.revision + 1)
    with pytest.raises(PreconditionFailedError, match=f'asks for "{one.revision}"'):
        rung.change(one.id, revision=one.revision, priority=3)
    changed = rung.change(one.id, num_samples=3, budget={"slot_hours": 2})
    assert (changed.num_samples, changed.controls["budget"]["slot_hours"]) == (3, 2)
    assert rung.change(one.id, {"budget": None}).controls["budget"]["slot_hours"] is None
    with pytest.raises(ValidationFailedError, match="did you mean 'goal'"):
        rung.change(one.id, gaol=1)
    assert rung.wait(one.id, timeout_s=10).state is State.PAUSED, "it waits for a person, so nobody waits for it"
    rung.resume(one.id)
    driver = drive(one.id)
    driver.beat("searching", line(0, 0.5), line(1, 0.6, TrialState.RUNNING))
    with pytest.raises(PreconditionFailedError, match=f'asks for "{one.revision}"'):
        rung.cancel_trial(one.id, 1, revision=one.revision)
    assert rung.trial(one.id, 1).cancel_asked_at is None
    assert rung.cancel_trial(one.id, 1, revision=rung.get(one.id).revision).cancel_asked_at is not None
    with pytest.raises(ConflictError):
        rung.cancel_trial(one.id, 0)
    with pytest.raises(ConflictError, match="cancel it first"):
        rung.delete(one.id)
    driver.beat("completed")
    fork = rung.continue_from(one.id, {"searcher": {"num_samples": 5}})
    assert (fork.source_id, fork.num_samples) == (one.id, 6)
    rung.archive(one.id)
    assert [view.id for view in rung.list()] == [fork.id]
    assert [view.id for view in rung.list(archived=True)] == [one.id]
    assert [view.id for view in rung.list(archived=None)] == [fork.id, one.id]
    assert rung.unarchive(one.id).archived_at is None
    rung.cancel(fork.id)
    assert rung.delete(one.id).state is State.DELETING


class Losing(httpx.BaseTransport):
    """A way to the service on which requests and answers get lost, in the order given."""

    def __init__(self, *losses: str) -> None:
        self._losses = list(losses)
        self._inner = httpx.HTTPTransport()
        self.keys: list[str] = []
        self.late: Callable[[], object] = lambda: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers.get("idempotency-key", ""))
        loss = self._losses.pop(0) if self._losses else ""
        if loss == "refused":
            raise httpx.ConnectError("connection refused")
        if loss == "starting":
            return httpx.Response(503, text="starting")
        response = self._inner.handle_request(request)
        if loss == "late":
            response.close()
            self.late()
            raise httpx.ReadTimeout("timed out")
        if loss == "answer":
            response.close()
            raise httpx.ReadError("connection reset")
        return response

    def close(self) -> None:
        self._inner.close()


def test_a_submission_survives_a_service_that_is_started_again(client: httpx.Client, rung: Client) -> None:
    lossy = Losing("answer", "refused", "starting", "answer")
    with Client(str(client.base_url), transport=lossy) as shaky:
        first = shaky.submit(SPEC)
        second = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [second.id, first.id]
    assert len(set(lossy.keys[:5])) == 1
    assert lossy.keys[5] not in {"", lossy.keys[0]}, "each submission has a key of its own"


def test_a_continuation_survives_it_too(client: httpx.Client, rung: Client) -> None:
    source = rung.submit(SPEC)
    rung.cancel(source.id)
    lossy = Losing("answer", "refused", "starting")
    with Client(str(client.base_url), transport=lossy) as shaky:
        fork = shaky.continue_from(source.id)
    assert [view.id for view in rung.list()] == [fork.id, source.id]
    assert len(lossy.keys) == 4
    assert len(set(lossy.keys)) == 1


def test_a_submission_that_times_out_is_found_again(
    client: httpx.Client, rung: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out takes as long as the patience; what the service stored just then is no second experiment."""
    clock = [0.0]
    monkeypatch.setattr(
        "service.client.transport.time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None)
    )
    lossy = Losing("late")
    lossy.late = lambda: clock.append(clock.pop() + 30)
    with Client(str(client.base_url), transport=lossy) as shaky:
        made = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [made.id]
    assert len(lossy.keys) == 2
    assert len(set(lossy.keys)) == 1


def test_the_patience_of_a_submission_has_an_end(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.client.SUBMIT_PATIENCE_S", 0.5)
    lossy = Losing(*["refused"] * 50)
    with Client(str(client.base_url), transport=lossy) as shaky, pytest.raises(UnreachableError):
        shaky.submit(SPEC)
    assert 1 < len(lossy.keys) < 50


def test_what_is_refused_is_not_sent_again(client: httpx.Client) -> None:
    way = Losing()
    with Client(str(client.base_url), transport=way) as rung, pytest.raises(ValidationFailedError):
        rung.submit({"name": 7})
    assert len(way.keys) == 1


def test_watching_bears_a_service_that_is_away(client: httpx.Client) -> None:
    """Two of three requests fail; the view comes all the same."""
    count = iter(range(100))
    inner = httpx.HTTPTransport()

    class Shaky(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "GET" and next(count) % 3 < 2:
                raise httpx.ConnectError("away")
            return inner.handle_request(request)

    with Client(str(client.base_url), transport=Shaky()) as rung:
        experiment = rung.submit(SPEC)
        view = next(rung.watch(experiment.id, interval_s=0.01))
        assert view.id == experiment.id
    inner.close()
