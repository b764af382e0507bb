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
        (launch,) = (one for one in launcher.launches.values() if one.experiment_id == experiment_id)
        return TypedDriver(client, launch)

    return begin


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
    with pytest.raises(PreconditionFailedError, match=f'If-Match is "{one.revision}"'):
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
    with pytest.raises(PreconditionFailedError, match=f'If-Match is "{one.revision}"'):
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


def test_a_submission_that_times_out_after_it_was_stored_makes_one_experiment(
    client: httpx.Client, rung: Client
) -> None:
    lossy = Losing("late")
    with Client(str(client.base_url), transport=lossy) as shaky:
        made = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [made.id]
    assert len(lossy.keys) == 2
    assert len(set(lossy.keys)) == 1


def test_a_submission_is_not_retried_for_ever(client: httpx.Client) -> None:
    lossy = Losing(*["refused"] * 50)
    with Client(str(client.base_url), transport=lossy, submit_retry_s=0.5) as shaky, pytest.raises(UnreachableError):
        shaky.submit(SPEC)
    assert 1 < len(lossy.keys) < 50


def test_what_is_refused_is_not_sent_again(client: httpx.Client) -> None:
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
    ("spec", "error", "said"),
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
def test_specs_that_cannot_be_sent(rung: Client, spec: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        rung.submit(spec)


def test_a_binary_file_is_refused(rung: Client, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(bytes(range(256)))
    with pytest.raises(ValidationFailedError, match="UTF-8"):
        rung.submit(tmp_path / "model.pt")


CALLS: dict[str, Callable[[Client, Any], object]] = {
    "get": lambda rung, one: rung.get(one),
    "pause": lambda rung, one: rung.pause(one),
    "resume": lambda rung, one: rung.resume(one),
    "cancel": lambda rung, one: rung.cancel(one),
    "cancel_trial": lambda rung, one: rung.cancel_trial(one, 0),
    "change": lambda rung, one: rung.change(one, priority=1),
    "continue_from": lambda rung, one: rung.continue_from(one),
    "archive": lambda rung, one: rung.archive(one),
    "unarchive": lambda rung, one: rung.unarchive(one),
    "delete": lambda rung, one: rung.delete(one),
    "trials": lambda rung, one: list(rung.trials(one)),
    "trial": lambda rung, one: rung.trial(one, 0),
    "trial_spec": lambda rung, one: rung.trial_spec(one, 0),
    "curves": lambda rung, one: rung.curves(one, 0),
    "logs": lambda rung, one: rung.logs(one),
    "follow_logs": lambda rung, one: list(rung.follow_logs(one)),
    "storage": lambda rung, one: rung.storage(one),
    "preset": lambda rung, one: rung.preset(one),
    "watch": lambda rung, one: list(rung.watch(one)),
    "wait": lambda rung, one: rung.wait(one),
}


@pytest.mark.parametrize("name", CALLS)
def test_ids_that_do_not_exist_or_cannot(rung: Client, name: str) -> None:
    call = CALLS[name]
    for unknown in ("22222222", "../../readyz", "a/b", "ä", "%", ".", "..", "\ud800", "?x=1", "#"):
        with pytest.raises(NotFoundError):
            call(rung, unknown)
    with pytest.raises(ValidationFailedError, match="must not be empty"):
        call(rung, "")
    for odd in (None, 22222222, ["22222222"], b"22222222"):
        with pytest.raises(TypeError, match="must be a string"):
            call(rung, odd)


def test_every_method_that_takes_an_id_is_called_with_wrong_ones() -> None:
    taking = {
        name
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and {"experiment_id", "name"} & set(list(inspect.signature(method).parameters)[1:2])
    }
    assert taking == set(CALLS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda rung, one: rung.trial(one, "0"), "trial must be a whole number (got '0')"),
        (lambda rung, one: rung.trial(one, 1.0), "trial must be a whole number (got 1.0)"),
        (lambda rung, one: rung.trial(one, True), "trial must be a whole number (got True)"),
        (lambda rung, one: rung.pause(one, revision="x"), "revision must be a whole number"),
        (lambda rung, one: list(rung.trials(one, limit=2.5)), "limit must be a whole number"),
        (lambda rung, one: rung.change(one, [1]), "patch must be a mapping (got list)"),
        (lambda rung, one: rung.continue_from(one, "x"), "patch must be a mapping (got str)"),
    ],
)
def test_arguments_of_wrong_types(rung: Client, call: Any, said: str) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        call(rung, "22222222")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda rung, one: rung.trial(one, -1), "trial: must be at least 0 (got -1)"),
        (lambda rung, one: list(rung.list(limit=-1)), "limit: must be at least 0 (got -1)"),
        (lambda rung, one: list(rung.list(state="SLEEPING")), "QUEUED"),
        (lambda rung, one: list(rung.trials(one, sort="validation_acuracy")), "validation_accuracy"),
        (lambda rung, one: rung.change(one, goal=object()), "patch: must hold JSON values only (got object)"),
        (lambda rung, one: list(rung.watch(one, interval_s=0)), "interval_s: must be positive (got 0)"),
        (lambda rung, one: list(rung.follow_logs(one, interval_s=-1)), "interval_s: must be positive"),
        (lambda rung, one: rung.logs(one, offset=-1), "offset"),
    ],
)
def test_arguments_that_cannot_be(rung: Client, call: Any, said: str) -> None:
    one = rung.submit(SPEC).id
    with pytest.raises(ValidationFailedError, match=re.escape(said)):
        call(rung, one)


def test_clients_that_cannot_be_made() -> None:
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
