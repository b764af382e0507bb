"""One key, one experiment: repeated, raced and forgotten."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from search_spaces.experiment import ExperimentSpec
from service.context import AppContext
from service.domain import experiments, idempotency
from service.domain.idempotency import Submission
from service.store.models import Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores
EXPERIMENTS = "/api/v1/experiments"
SPEC = {"name": "once"}


def listed(client: httpx.Client) -> list[str]:
    return [item["id"] for item in client.get(EXPERIMENTS).json()["items"]]


def test_a_repeated_submission_returns_the_first_experiment(client: httpx.Client, world: World) -> None:
    headers = {"Idempotency-Key": "night 1"}
    first = client.post(EXPERIMENTS, json=SPEC, headers=headers)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    world.cancel(first.json()["id"])
    again = client.post(EXPERIMENTS, json=SPEC, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (again.json()["id"], again.json()["state"]) == (first.json()["id"], "CANCELED"), "as it is now"
    assert again.headers["location"] == first.headers["location"]
    assert (
        client.post(EXPERIMENTS, json=SPEC, headers={"Idempotency-Key": "night 2"}).json()["id"] != again.json()["id"]
    )
    assert len(listed(client)) == 2


def test_a_repeated_submission_is_not_validated_again(client: httpx.Client, world: World) -> None:
    spec, headers = {"name": "x", "resources": {"cpus_per_trial": 256}}, {"Idempotency-Key": "k"}
    first = client.post(EXPERIMENTS, json=spec, headers=headers)
    world.reconciler.reconcile_once()  # now the cluster is known, and too small
    assert client.post(EXPERIMENTS, json=spec).status_code == 422
    assert client.post(EXPERIMENTS, json=spec, headers=headers).json()["id"] == first.json()["id"]


def test_another_body_under_the_same_key_is_refused(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    one = client.post(EXPERIMENTS, json=SPEC, headers=headers).json()["id"]
    for body in ({"name": "other"}, {"name": 7}):
        answer = client.post(EXPERIMENTS, json=body, headers=headers)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["field"], error["value"]) == ("Idempotency-Key", "k")
        assert one not in answer.text, "it may be the experiment of somebody else"
    assert listed(client) == [one]


def test_a_refused_submission_leaves_its_key_unused(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    assert client.post(EXPERIMENTS, json={"name": 7}, headers=headers).status_code == 422
    assert client.post(EXPERIMENTS, json=SPEC, headers=headers, params={"validate_only": True}).status_code == 200
    assert client.post(EXPERIMENTS, json=SPEC, headers=headers).status_code == 201


def test_a_repeated_continuation_creates_one_experiment(client: httpx.Client, world: World) -> None:
    source, other = world.ended(), world.ended()
    headers = {"Idempotency-Key": "k"}

    def continue_from(experiment_id: str, patch: dict[str, Any], **more: str) -> httpx.Response:
        return client.post(f"{EXPERIMENTS}/{experiment_id}/continue", json=patch, headers={**headers, **more})

    assert continue_from(source, {"name": 7}).status_code == 422, "and leaves its key free"
    tag = client.get(f"{EXPERIMENTS}/{source}").headers["etag"]
    first = continue_from(source, {}, **{"If-Match": tag})
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (201, None)
    world.patch(source, num_samples=50)
    again = continue_from(source, {}, **{"If-Match": tag})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true"), "though the source has changed"
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    for answer in (
        continue_from(source, {"name": "other"}),
        continue_from(other, {}),
        client.post(EXPERIMENTS, json={}, headers=headers),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert len(listed(client)) == 3


def test_simultaneous_equal_continuations_create_one_experiment(client: httpx.Client, world: World) -> None:
    source = world.ended()
    together = threading.Barrier(4)

    def continue_from(_: int) -> httpx.Response:
        together.wait(20)
        return client.post(f"{EXPERIMENTS}/{source}/continue", headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(continue_from, range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["id"] for answer in answers} | {source} == set(listed(client))


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\tb", b"\xff", b"\xc3\xa9"])
def test_malformed_keys_are_refused(client: httpx.Client, key: bytes) -> None:
    answer = client.post(EXPERIMENTS, json=SPEC, headers={b"Idempotency-Key": key})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert listed(client) == []


def test_simultaneous_equal_submissions_create_one_experiment(client: httpx.Client) -> None:
    together = threading.Barrier(6)

    def submit(_: int) -> httpx.Response:
        together.wait(20)
        return client.post(EXPERIMENTS, json=SPEC, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(submit, range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 5]
    assert {answer.json()["id"] for answer in answers} == set(listed(client))


def test_a_transaction_that_began_before_the_first_ended_finds_its_experiment(
    context: AppContext, client: httpx.Client
) -> None:
    """Both have looked for the key and found none; where the database does not let both begin, one waits."""
    both = threading.Barrier(2)

    def make(session: Session) -> Experiment:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)
        return experiments.submit(session, ExperimentSpec(name="once"), [])

    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda _: idempotency.submit_once(
                    context.database, Submission("", "k", "sha"), lambda _session: None, make
                ),
                range(2),
            )
        )
    assert sorted(replayed for _, replayed in answers) == [False, True]
    assert [one for one, _ in answers] == listed(client) * 2


def test_old_keys_are_deleted(context: AppContext, client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    one = client.post(EXPERIMENTS, json=SPEC, headers=headers).json()["id"]
    now = datetime.now(UTC)
    with context.database.write() as session:
        assert idempotency.delete_before(session, now - timedelta(hours=24)) == 0
    assert client.post(EXPERIMENTS, json=SPEC, headers=headers).json()["id"] == one
    with context.database.write() as session:
        assert idempotency.delete_before(session, now + timedelta(seconds=1)) == 1
    assert client.post(EXPERIMENTS, json=SPEC, headers=headers).json()["id"] != one
