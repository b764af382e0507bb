"""`rung logs`, and the line on disk use of `rung show`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import Client
from service.context import AppContext
from service.contract.errors import NotFoundError
from service.settings import Settings
from service.store.models import Experiment
from tests.support.world import World


@pytest.fixture
def run(world: World, tmp_path: Path) -> Any:
    environment = {"RUNG_URL": str(world.client.base_url), "RUNG_HOME": str(tmp_path)}
    return lambda *arguments: CliRunner(env=environment).invoke(app, arguments)


@pytest.fixture
def one(world: World, settings: Settings) -> str:
    """A running experiment whose driver and trial 2 have said something."""
    experiment_id: str = world.started()
    world.beat(experiment_id, {"phase": "searching", "trials": [world.line(2)]})
    for name, text in (("logs/driver-a1.log", "größer\n" * 20_000), ("trials/00002/trial.log", "epoch 1\n")):
        path = settings.storage_root / experiment_id / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return experiment_id


def test_a_log_is_printed_whole(run: Any, one: str) -> None:
    assert run("logs", one).stdout == "größer\n" * 20_000
    assert run("logs", one, "--trial", "2").stdout == "epoch 1\n"
    lines = [json.loads(line) for line in run("logs", one, "--json").stdout.splitlines()]
    assert [piece["offset"] for piece in lines] == [0, *(piece["next_offset"] for piece in lines[:-1])]
    assert len(lines) > 1


def test_what_is_not_there_or_not_meant_is_said(run: Any, one: str) -> None:
    missing = run("logs", one, "--attempt", "4")
    assert (missing.exit_code, "it has 1 so far" in missing.stderr) == (2, True)
    assert run("logs", one, "--trial", "2", "--attempt", "1").exit_code == 2


def test_following_ends_with_the_experiment(world: World, one: str, settings: Settings) -> None:
    said: list[str] = []
    first = threading.Event()

    def follow() -> None:
        with Client(str(world.client.base_url)) as rung:
            for piece in rung.follow_logs(one, interval_s=0.02):
                said.append(piece.text)
                first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(20)
    with (settings.storage_root / one / "logs" / "driver-a1.log").open("a") as log:
        log.write("the end\n")
    world.beat(one, {"phase": "completed"})
    thread.join(20)
    assert not thread.is_alive()
    assert "".join(said).endswith("größer\nthe end\n")


class Slow(httpx.BaseTransport):
    """A way to the service that lets `between` happen before the requests whose numbers it names."""

    def __init__(self, between: dict[int, Callable[[], object]]) -> None:
        self._between = between
        self._inner = httpx.HTTPTransport()
        self.requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self._between.pop(self.requests, lambda: None)()
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def followed(world: World, experiment_id: str, between: dict[int, Callable[[], object]], **of: int) -> list[str]:
    with Client(str(world.client.base_url), transport=Slow(between)) as rung:
        said = [piece.text for piece in rung.follow_logs(experiment_id, interval_s=0.01, **of)]
    assert between == {}, "it ended before all had happened"
    return said


def say(settings: Settings, experiment_id: str, name: str, text: str) -> None:
    path = settings.storage_root / experiment_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        log.write(text)


def test_following_waits_for_the_first_driver_and_goes_on_with_the_next(
    world: World, settings: Settings, context: AppContext
) -> None:
    one = world.submit(resources={"gpus_per_trial": 0})

    def replaced() -> None:
        say(settings, one, "logs/driver-a1.log", "lost\n")
        world.beat(one, {"phase": "paused"})  # nobody had asked for it
        assert world.show(one)["state"] == "QUEUED"

    def begin_again() -> None:
        with context.database.write() as session:
            session.get_one(Experiment, one).retry_at = None
        world.reconciler.reconcile_once()
        assert world.show(one)["attempt"] == 2

    said = followed(
        world,
        one,
        {
            5: world.reconciler.reconcile_once,
            9: lambda: say(settings, one, "logs/driver-a1.log", "begun\n"),
            13: replaced,
            20: begin_again,
            25: lambda: say(settings, one, "logs/driver-a2.log", "the second\n"),
            29: lambda: world.beat(one, {"phase": "completed"}, 2),
        },
    )
    assert "".join(said) == "begun\nlost\nthe second\n"


def test_following_one_attempt_ends_with_it(world: World, settings: Settings) -> None:
    one = world.started()
    happens: dict[int, Callable[[], object]] = {
        4: lambda: say(settings, one, "logs/driver-a1.log", "a\n"),
        8: lambda: world.beat(one, {"phase": "paused"}),
    }
    assert followed(world, one, happens, attempt=1) == ["a\n"]
    assert world.show(one)["state"] == "QUEUED"
    with pytest.raises(NotFoundError, match="has no attempt 7"):
        followed(world, one, {}, attempt=7)


def test_following_a_trial_waits_for_it(world: World, settings: Settings) -> None:
    one = world.started()
    happens: dict[int, Callable[[], object]] = {
        4: lambda: world.beat(one, {"phase": "searching", "trials": [world.line(3)]}),
        8: lambda: say(settings, one, "trials/00003/trial.log", "epoch 1\n"),
        12: lambda: world.beat(one, {"phase": "searching", "trials": [world.line(3, state="COMPLETED")]}),
    }
    assert followed(world, one, happens, trial=3) == ["epoch 1\n"]
    with pytest.raises(NotFoundError, match="has no trial 20"):
        followed(world, one, {}, trial=20)


def test_following_a_trial_that_ended_without_a_log_ends(world: World, settings: Settings) -> None:
    """As each does that a continuation has taken over."""
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0, state="COMPLETED"), world.line(1)]})
    with pytest.raises(NotFoundError, match=r"trial 0 .* is COMPLETED and has no log"):
        followed(world, one, {}, trial=0)
    assert world.show(one)["state"] == "RUNNING"

    def write_and_end() -> None:
        say(settings, one, "trials/00001/trial.log", "the only epoch\n")
        world.beat(one, {"phase": "searching", "trials": [world.line(1, state="COMPLETED")]})

    assert followed(world, one, {2: write_and_end}, trial=1) == ["the only epoch\n"]


def test_following_reads_each_attempt_that_came_between_two_looks(
    world: World, settings: Settings, context: AppContext
) -> None:
    one = world.started()
    for number in (1, 2, 3):
        say(settings, one, f"logs/driver-a{number}.log", f"attempt {number}\n")

    def replaced_twice() -> None:
        for number in (1, 2):
            world.beat(one, {"phase": "paused"}, number)
            with context.database.write() as session:
                session.get_one(Experiment, one).retry_at = None
            world.reconciler.reconcile_once()
        world.beat(one, {"phase": "completed"}, 3)

    assert followed(world, one, {2: replaced_twice}) == [f"attempt {number}\n" for number in (1, 2, 3)]


def test_following_what_will_say_nothing_ends(world: World) -> None:
    one = world.submit()
    world.cancel(one)
    with pytest.raises(NotFoundError, match="canceled on request"):
        followed(world, one, {})
    with pytest.raises(NotFoundError, match="there is no experiment"):
        followed(world, "k3v9q2mz", {})


def test_disk_use_is_shown(run: Any, one: str) -> None:
    assert run("show", one).stdout.splitlines()[-1] == "  disk      180 kB (logs 180 kB)"
