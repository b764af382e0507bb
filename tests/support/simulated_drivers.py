"""Drivers that are only heartbeats: every launched attempt reports two trials, and obeys the orders in the answers."""

from __future__ import annotations

import threading

import httpx

from search_spaces.protocol import LaunchConfig
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher

INTERVAL_S = 0.1
TRIALS = [
    {"trial": 0, "state": "COMPLETED", "epoch": 2, "best_value": 0.5, "best_epoch": 1, "started_at": 1_700_000_000},
    {"trial": 1, "state": "RUNNING", "epoch": 1, "started_at": 1_700_000_001, "parameters": {"lr": 0.1}},
]
FINAL_PHASES = {"cancel": "canceled", "pause": "paused"}


class SimulatedDrivers:
    """Use it as a context: within the block, a thread plays the drivers of all launches."""

    def __init__(self, url: str, launcher: MemoryLauncher) -> None:
        self._url = url
        self._launcher = launcher
        self._ended: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SimulatedDrivers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False) as client:
            while not self._stop.wait(INTERVAL_S):
                for attempt_id, launch in list(self._launcher.launches.items()):
                    if attempt_id not in self._ended:
                        self._beat(client, launch)

    def _beat(self, client: httpx.Client, launch: LaunchConfig) -> None:
        driver = Driver(client, launch)
        answer = driver.send_json({"phase": "searching", "trials": TRIALS})
        stop = answer.json().get("stop") if answer.status_code == 200 else None
        if stop:
            driver.send_json({"phase": FINAL_PHASES[stop]})
        if stop or answer.status_code in {404, 409}:
            self._ended.add(launch.attempt_id)
