"""A driver is silent only while this replica's event loop runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI

import service.app
from service.domain.cluster import Cluster
from service.scheduling import loop_clock
from service.scheduling.loop_clock import LoopClock
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher
from tests.support.raw_http import PATIENCE_S
from tests.support.reconciling import STEP_S
from tests.support.server import running

LOST_S = 6.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(
        **{**settings.model_dump(), "reconcile": True, "reconcile_s": 0.01, "heartbeat_s": 1, "driver_lost_s": LOST_S}
    )


class CountingLauncher(MemoryLauncher):
    """Each pass of the reconciler looks at the cluster once."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = threading.Semaphore(0)

    def cluster(self) -> Cluster:
        self.looks.release()
        return super().cluster()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def launcher() -> CountingLauncher:
    return CountingLauncher()


def test_a_tick_counts_no_more_than_a_second_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 10.25, 10.75, 500.0, 500.25))
    counted: list[float] = []
    found = LoopClock(lambda: next(times))

    async def tick(_delay_s: float) -> None:
        counted.append(found())

    monkeypatch.setattr(loop_clock, "asyncio", SimpleNamespace(sleep=tick))
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(found.run())
    assert counted == [0.25, 0.75, 1.75, 2.0]


def test_no_driver_is_lost_while_the_event_loop_is_blocked(
    app: FastAPI, settings: Settings, launcher: CountingLauncher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app, "LoopClock", partial(LoopClock, clock.monotonic))
    unblocked = threading.Event()
    with (
        running(app, settings) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as http,
    ):
        one = http.post("/api/v1/experiments", json={"name": "x", "resources": {"gpus_per_trial": 0}}).json()["id"]
        wait_until(lambda: f"exp-{one}-a1" in launcher.launches)
        driver = Driver(http, launcher.launches[f"exp-{one}-a1"])
        assert driver.send('{"phase": "searching"}').status_code == 200
        server.block(unblocked)
        try:
            while launcher.looks.acquire(blocking=False):
                pass
            for _ in range(int(4 * LOST_S / STEP_S)):
                clock.sleep(STEP_S)
                assert launcher.looks.acquire(timeout=PATIENCE_S), "the reconciler's thread continues"
        finally:
            unblocked.set()
        assert driver.send('{"phase": "searching"}').status_code == 200
        assert launcher.stopped == []

        def silence_is_found() -> bool:
            clock.sleep(STEP_S)
            return launcher.stopped == [f"exp-{one}-a1"]

        wait_until(silence_is_found)
