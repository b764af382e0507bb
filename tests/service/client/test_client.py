"""The SDK against the real service: what it sends, what it gives back, and how it fails."""

from __future__ import annotations

import inspect
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Heartbeat, TrialState, TrialUpdate, Winner
from service.client import Client, UnreachableError
from service.client.transport import PAGE
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
from tests.support.driver import Driver
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


def test_the_error_for_an_unreachable_service_has_its_address_and_what_to_do() -> None:
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
def test_addresses_without_a_service_raise_unreachable_error(url: str) -> None:
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


class Losing(httpx.BaseTransport):
    """A way to the service on which requests and answers get lost, in the order given."""

    def __init__(self, *losses: str) -> None:
        self._losses = list(losses)
        self._inner = httpx.HTTPTransport()
        self.keys: list[str] = []

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
            raise httpx.ReadTimeout("timed out")
        if loss == "answer":
            response.close()
            raise httpx.ReadError("connection reset")
        return response

    def close(self) -> None:
        self._inner.close()


def test_a_submission_survives_a_restart_of_the_service(client: httpx.Client, rung: Client) -> None:
    lossy = Losing("answer", "refused", "starting", "answer")
    with Client(str(client.base_url), transport=lossy) as shaky:
        first = shaky.submit(SPEC)
        second = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [second.id, first.id]
    assert len(set(lossy.keys[:5])) == 1
    assert lossy.keys[5] not in {"", lossy.keys[0]}, "each submission has a key of its own"


def test_a_continuation_survives_a_restart_of_the_service(client: httpx.Client, rung: Client) -> None:
    source = rung.submit(SPEC)
    rung.cancel(source.id)
    lossy = Losing("answer", "refused", "starting")
    with Client(str(client.base_url), transport=lossy) as shaky:
        continuation = shaky.continue_from(source.id)
    assert [view.id for view in rung.list()] == [continuation.id, source.id]
    assert len(lossy.keys) == 4
    assert len(set(lossy.keys)) == 1


def test_a_submission_that_times_out_after_it_was_stored_makes_one_experiment(
    client: httpx.Client, rung: Client
) -> None:
    lossy = Losing("late")
    with Client(str(client.base_url), transport=lossy) as shaky:
        made = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [made.id]
    assert len(lossy.keys) == 2
    assert len(set(lossy.keys)) == 1


def test_a_submission_is_retried_for_a_limited_time(client: httpx.Client) -> None:
    lossy = Losing(*["refused"] * 50)
    with Client(str(client.base_url), transport=lossy, submit_retry_s=0.5) as shaky, pytest.raises(UnreachableError):
        shaky.submit(SPEC)
    assert 1 < len(lossy.keys) < 50


def test_a_refused_submission_is_not_sent_again(client: httpx.Client) -> None:
    way = Losing()
    with Client(str(client.base_url), transport=way) as rung, pytest.raises(ValidationFailedError):
        rung.submit({"name": 7})
    assert len(way.keys) == 1


def test_watching_continues_after_the_service_was_unreachable(client: httpx.Client) -> None:
    lossy = Losing("", "refused", "starting")
    with Client(str(client.base_url), transport=lossy) as rung:
        experiment = rung.submit(SPEC)
        view = next(rung.watch(experiment.id, interval_s=0.01))
    assert view.id == experiment.id
    assert len(lossy.keys) == 4


def test_every_form_of_a_spec_makes_the_same_experiment(
    rung: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "first", "searcher": {"kind": "random", "num_samples": 3}}
    text = "name: first  # a comment\nsearcher: {kind: random, num_samples: 3}\n"
    Path("spec.yaml").write_text(text)
    Path("spec.json").write_text(json.dumps(data))
    model = ExperimentSpec.model_validate(data)
    nested = {**data, "searcher": model.searcher}
    path = Path("spec.yaml")
    forms = (data, model, nested, text, json.dumps(data), path, path.absolute(), Path("spec.json"), "spec.yaml")
    views = [rung.submit(form) for form in forms]
    assert [(view.name, view.state, view.num_samples) for view in views] == [("first", State.QUEUED, 3)] * len(forms)
    assert all(view.spec == views[0].spec for view in views)
    assert rung.get(views[0].id) == views[0]
    assert rung.submit("preset:digits-quick", validate_only=True).num_samples == 24


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (None, TypeError, "spec must be an ExperimentSpec, a mapping, text or a path (got NoneType)"),
        (b"name: x", TypeError, "(got bytes)"),
        ([("name", "x")], TypeError, "(got list)"),
        ("nofile.yaml", FileNotFoundError, "No such file or directory: 'nofile.yaml'"),
        (Path("nofile.yaml"), FileNotFoundError, "No such file or directory: 'nofile.yaml'"),
        (".", IsADirectoryError, "Is a directory"),
        ("", ValidationFailedError, "empty"),
        ("preset:nothing-like-it", NotFoundError, "digits-quick"),
        ("preset:", ValidationFailedError, "name: must not be empty"),
        ({"name": {1, 2}}, ValidationFailedError, "spec: must hold JSON values only (got set)"),
        ({("name",): "x"}, ValidationFailedError, "spec: must hold JSON values only"),
        ({"name": "x", "seed": float("nan")}, ValidationFailedError, "finite"),
        ("name: x\0", ValidationFailedError, "document"),
    ],
)
def test_specs_that_cannot_be_sent_are_refused(rung: Client, spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        rung.submit(spec)


def test_a_binary_file_is_refused(rung: Client, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(bytes(range(256)))
    with pytest.raises(ValidationFailedError, match="UTF-8"):
        rung.submit(tmp_path / "model.pt")


CALLS: dict[str, Callable[[Client, Any], object]] = {
    "get": lambda rung, experiment_id: rung.get(experiment_id),
    "pause": lambda rung, experiment_id: rung.pause(experiment_id),
    "resume": lambda rung, experiment_id: rung.resume(experiment_id),
    "cancel": lambda rung, experiment_id: rung.cancel(experiment_id),
    "cancel_trial": lambda rung, experiment_id: rung.cancel_trial(experiment_id, 0),
    "change": lambda rung, experiment_id: rung.change(experiment_id, priority=1),
    "continue_from": lambda rung, experiment_id: rung.continue_from(experiment_id),
    "archive": lambda rung, experiment_id: rung.archive(experiment_id),
    "unarchive": lambda rung, experiment_id: rung.unarchive(experiment_id),
    "delete": lambda rung, experiment_id: rung.delete(experiment_id),
    "trials": lambda rung, experiment_id: list(rung.trials(experiment_id)),
    "trial": lambda rung, experiment_id: rung.trial(experiment_id, 0),
    "trial_spec": lambda rung, experiment_id: rung.trial_spec(experiment_id, 0),
    "curves": lambda rung, experiment_id: rung.curves(experiment_id, 0),
    "logs": lambda rung, experiment_id: rung.logs(experiment_id),
    "follow_logs": lambda rung, experiment_id: list(rung.follow_logs(experiment_id)),
    "storage": lambda rung, experiment_id: rung.storage(experiment_id),
    "preset": lambda rung, experiment_id: rung.preset(experiment_id),
    "watch": lambda rung, experiment_id: list(rung.watch(experiment_id)),
    "wait": lambda rung, experiment_id: rung.wait(experiment_id),
}


@pytest.mark.parametrize("name", CALLS)
def test_ids_that_do_not_exist_are_not_found(rung: Client, name: str) -> None:
    call = CALLS[name]
    for unknown in ("22222222", "../../readyz", "a/b", "ä", "%", ".", "..", "\ud800", "?x=1", "#"):
        with pytest.raises(NotFoundError):
            call(rung, unknown)
    with pytest.raises(ValidationFailedError, match="must not be empty"):
        call(rung, "")
    for odd in (None, 22222222, ["22222222"], b"22222222"):
        with pytest.raises(TypeError, match="must be a string"):
            call(rung, odd)


def test_every_method_that_takes_an_id_is_tested_with_wrong_ids() -> None:
    taking = {
        name
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and {"experiment_id", "name"} & set(list(inspect.signature(method).parameters)[1:2])
    }
    assert taking == set(CALLS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rung, experiment_id: rung.trial(experiment_id, "0"), "trial must be a whole number (got '0')"),
        (lambda rung, experiment_id: rung.trial(experiment_id, 1.0), "trial must be a whole number (got 1.0)"),
        (lambda rung, experiment_id: rung.trial(experiment_id, True), "trial must be a whole number (got True)"),
        (lambda rung, experiment_id: rung.pause(experiment_id, revision="x"), "revision must be a whole number"),
        (lambda rung, experiment_id: list(rung.trials(experiment_id, limit=2.5)), "limit must be a whole number"),
        (lambda rung, experiment_id: rung.change(experiment_id, [1]), "patch must be a mapping (got list)"),
        (lambda rung, experiment_id: rung.continue_from(experiment_id, "x"), "patch must be a mapping (got str)"),
    ],
)
def test_arguments_of_wrong_types_raise_type_error(rung: Client, call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(rung, "22222222")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rung, experiment_id: rung.trial(experiment_id, -1), "trial: must be at least 0 (got -1)"),
        (lambda rung, experiment_id: list(rung.list(limit=-1)), "limit: must be at least 0 (got -1)"),
        (lambda rung, experiment_id: list(rung.list(state="SLEEPING")), "QUEUED"),
        (
            lambda rung, experiment_id: list(rung.trials(experiment_id, sort="validation_acuracy")),
            "validation_accuracy",
        ),
        (
            lambda rung, experiment_id: rung.change(experiment_id, goal=object()),
            "patch: must hold JSON values only (got object)",
        ),
        (
            lambda rung, experiment_id: list(rung.watch(experiment_id, interval_s=0)),
            "interval_s: must be positive (got 0)",
        ),
        (
            lambda rung, experiment_id: list(rung.follow_logs(experiment_id, interval_s=-1)),
            "interval_s: must be positive",
        ),
        (lambda rung, experiment_id: rung.logs(experiment_id, offset=-1), "offset"),
    ],
)
def test_invalid_arguments_raise_validation_failed_error(rung: Client, call: Any, message: str) -> None:
    experiment_id = rung.submit(SPEC).id
    with pytest.raises(ValidationFailedError, match=re.escape(message)):
        call(rung, experiment_id)


def test_invalid_arguments_of_a_client_are_refused() -> None:
    with pytest.raises(TypeError, match="url must be a string"):
        Client(None)  # type: ignore[arg-type]
    for token in ("geheim\n", "größe"):
        with pytest.raises(ValidationFailedError, match="token: must be printable ASCII text"):
            Client("http://127.0.0.1:9", token)


def test_the_text_of_an_error_has_every_field_with_its_valid_values(rung: Client) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        rung.submit({"name": "x", "search_space": {"optimizer": {"kind": "adma"}, "batch_size": 100}})
    first, second = str(caught.value).splitlines()
    assert first.startswith("search_space.optimizer.kind: ")
    assert "sgd" in first
    assert second.startswith("search_space.batch_size: ")
