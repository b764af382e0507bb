"""`follow_logs` against the real service; `test_log_follower.py` has the cases."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.context import AppContext
from service.contract.errors import NotFoundError
from service.settings import Settings
from service.store.models import Experiment
from tests.support.world import World


def write(settings: Settings, experiment_id: str, name: str, text: str) -> None:
    path = Path(settings.storage_root) / experiment_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        log.write(text)


def test_drivers_are_followed_from_one_to_the_next_until_the_experiment_ends(
    world: World, settings: Settings, context: AppContext
) -> None:
    one = world.started()
    write(settings, one, "logs/driver-a1.log", "begun\n")
    with Client(str(world.client.base_url)) as client:
        chunks = client.follow_logs(one, interval_s=0.01)
        assert next(chunks).text == "begun\n"
        write(settings, one, "logs/driver-a1.log", "größer\n" * 20_000)
        world.beat(one, {"phase": "paused"})  # nobody asked for a pause, so the experiment is queued again
        assert "".join(next(chunks).text for _ in range(3)) == "größer\n" * 20_000
        with context.database.write() as session:
            session.get_one(Experiment, one).retry_at = None
        world.reconciler.reconcile_once()
        write(settings, one, "logs/driver-a2.log", "the second\n")
        assert next(chunks).text == "the second\n"
        world.beat(one, {"phase": "completed"}, 2)
        assert list(chunks) == []


def test_following_a_trial_ends_with_the_trial(world: World, settings: Settings) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(3)]})
    write(settings, one, "trials/00003/trial.log", "epoch 1\n")
    with Client(str(world.client.base_url)) as client:
        chunks = client.follow_logs(one, trial=3, interval_s=0.01)
        assert next(chunks).text == "epoch 1\n"
        world.beat(one, {"phase": "searching", "trials": [world.line(3, state="COMPLETED")]})
        assert list(chunks) == []


def test_following_what_has_no_log_raises_the_reason(world: World) -> None:
    one = world.submit()
    world.cancel(one)
    with Client(str(world.client.base_url)) as client:
        with pytest.raises(NotFoundError, match="canceled on request"):
            list(client.follow_logs(one))
        with pytest.raises(NotFoundError, match="there is no experiment"):
            list(client.follow_logs("k3v9q2mz"))


def test_following_continues_after_the_service_was_unreachable(world: World, settings: Settings) -> None:
    one = world.started()
    write(settings, one, "logs/driver-a1.log", "begun\n")
    inner = httpx.HTTPTransport()
    failures = [httpx.ConnectError("refused"), None, httpx.ConnectError("refused"), None]

    class Failing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            failure = failures.pop(0) if failures else None
            if failure:
                raise failure
            return inner.handle_request(request)

    with Client(str(world.client.base_url), transport=Failing()) as client:
        chunks = client.follow_logs(one, interval_s=0.01)
        assert next(chunks).text == "begun\n"
        world.beat(one, {"phase": "completed"})
        assert list(chunks) == []
    inner.close()
    assert failures == []
