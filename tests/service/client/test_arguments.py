"""What the methods of the SDK accept, and the errors for what they do not."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from service.client import Client
from service.contract.errors import (
    NotFoundError,
    ValidationFailedError,
)
from service.contract.states import State


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
    assert rung.submit("preset:digits-quick", validate_only=True).num_samples == 32


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
    "data": lambda rung, experiment_id: rung.data(experiment_id),
    "insight": lambda rung, experiment_id: rung.insight(experiment_id),
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
    experiment_id = rung.submit({"name": "first"}).id
    with pytest.raises(ValidationFailedError, match=re.escape(message)):
        call(rung, experiment_id)


def test_invalid_arguments_of_a_client_are_refused() -> None:
    with pytest.raises(TypeError, match="url must be a string"):
        Client(None)  # type: ignore[arg-type]
    for token in ("geheim\n", "größe", " ", "two words"):
        with pytest.raises(ValidationFailedError, match="token: must be printable ASCII text without spaces"):
            Client("http://127.0.0.1:9", token)
    for url in ("127.0.0.1:9", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://"):
        with pytest.raises(ValidationFailedError, match="url: must "):
            Client(url)


def test_the_text_of_an_error_has_every_field_with_its_valid_values(rung: Client) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        rung.submit({"name": "x", "search_space": {"optimizer": {"kind": "adma"}, "batch_size": 100}})
    first, second = str(caught.value).splitlines()
    assert first.startswith("search_space.optimizer.kind: ")
    assert "sgd" in first
    assert second.startswith("search_space.batch_size: ")


def test_a_spec_file_that_never_ends_is_not_read_to_its_end(rung: Client) -> None:
    with pytest.raises(ValidationFailedError, match="must have at most 65536 bytes"):
        rung.submit(Path("/dev/zero"))
